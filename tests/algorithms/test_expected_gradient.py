"""Each row's expected gradient on a yes/no policy, by exact enumeration of all outcomes.

The policy answers right with probability p and wrong with 1 - p, in one token. Over all 2^n
outcomes of n samples, weighed by their probability, the row's own pipeline (select, advantages,
loss, denominator) gives a gradient with respect to p; minus it is the row's coefficient on grad p.
The other side of each comparison is a closed form, derived where it stands.
"""

from itertools import product
from math import comb, exp

import numpy as np
import pytest
import torch

from tests.build import group
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.objective import factors, totals
from winnow.algorithms.rejection import Gibbs
from winnow.algorithms.selection import select
from winnow.algorithms.table import ALGORITHMS

PS = (0.05, 0.3, 0.5, 0.9)
NS = (2, 4, 5)


C = exp(-1 / 0.5)
"""What the row `gibbs` accepts a wrong sample with: exp((0 - 1) / beta)."""


class Lots:
    """A generator whose uniform numbers are given; only samples at random ask for any."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)

    def random(self, shape):
        assert shape in (len(self.numbers), (len(self.numbers),))
        return self.numbers


def all_random(n):
    """For each of n uniform numbers just below C and just above it, and how likely that is."""
    for low in product((True, False), repeat=n):
        numbers = [C * (1 - 1e-9) if below else C * (1 + 1e-9) for below in low]
        yield numbers, C ** sum(low) * (1 - C) ** (n - sum(low))


def outcomes(algorithm, p, n):
    """All that can come of n samples, selected and weighed, with its probability."""
    by_lot = any(isinstance(rule, Gibbs) for rule in algorithm.select)
    for outcome in product((1.0, 0.0), repeat=n):
        texts = ["right" if r else "wrong" for r in outcome]
        sampled = group(outcome, texts=texts)
        probability = p ** sum(outcome) * (1 - p) ** (n - sum(outcome))
        for numbers, chance in all_random(n) if by_lot else [((), 1.0)]:
            priority = Lots(numbers) if by_lot else np.random.default_rng(0)  # else for ties alone
            chosen = select(sampled, algorithm.select, priority)
            (weighed,) = assign_advantages([chosen], algorithm.advantage, algorithm.reward_scale)
            yield outcome, weighed, probability * chance


def expected_coefficient(algorithm, p, n):
    chance = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for outcome, scored, probability in outcomes(algorithm, p, n):
        counts = totals([scored])
        for term in algorithm.terms:
            covered = term.covers(scored)
            if not covered:
                continue
            logp = torch.stack([(chance if outcome[i] else 1 - chance).log() for i in covered])
            given = {
                "logp": logp,
                "old": logp.detach(),  # the first update after sampling,
                "ref": logp.detach(),  # and of the run
                "advantage": torch.tensor(
                    [scored.advantages[i] for i in covered], dtype=torch.float64
                ),
                "sample": torch.arange(len(covered)),
                "group": torch.zeros(len(covered), dtype=torch.long),
            }
            loss = term.loss(*(given[name] for name in term.reads))
            factor = factors(scored, term, counts)
            scale = torch.tensor([factor[i] for i in covered], dtype=torch.float64)
            if term.span == "group":
                assert len(set(scale.tolist())) == 1
                scale = scale[:1]
            total = total + probability * (loss * scale).sum()
    if not total.requires_grad:
        return 0.0
    total.backward()
    return -chance.grad.item()


def binomial(p, n):
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def any_right(p, n):
    """At least one survivor, and the mean over survivors of grad log p = grad p / p."""
    return (1 - (1 - p) ** n) / p


def grpo(p, n):
    """k right of n: A+ = (n-k)/n / s, A- = -(k/n) / s, s^2 = k(n-k) / (n(n-1)).

    1/n [k A+ / p - (n-k) A- / -(1-p)] = k(n-k) / (n^2 s) [1/p + 1/(1-p)].
    """
    total = 0.0
    for k, probability in enumerate(binomial(p, n)):
        if 0 < k < n:
            s = (k * (n - k) / (n * (n - 1))) ** 0.5
            total += probability * k * (n - k) / (n * n * s) * (1 / p + 1 / (1 - p))
    return total


def whitened(p, n):
    """GRPO's with the deviation of the population, s^2 = k(n-k) / n^2: one-token answers, no
    critic yet (it begins at 0), no KL yet."""
    return grpo(p, n) * ((n - 1) / n) ** -0.5


def dpo(p, n):
    """A pair where the group is mixed; at the reference the margin is 0 and sigmoid(0) = 1/2:
    beta/2 [grad log pi(right) - grad log pi(wrong)]."""
    mixed = 1 - p**n - (1 - p) ** n
    return mixed * 0.1 / 2 * (1 / p + 1 / (1 - p))


def reinforce_rej(p, n):
    """Mixed groups only, mean over their samples of r grad log pi with r = -1, +1."""
    return sum(
        probability / n * (k / p + (n - k) / (1 - p))
        for k, probability in enumerate(binomial(p, n))
        if 0 < k < n
    )


def gibbs(p, n):
    """An exact sample of pi*, p* = p/a with a = p + (1-p) C the rate of acceptance: given that
    there are any, survivors are pi*'s, and E_pi*[grad log pi] = p*/p - (1-p*)/(1-p) = (1-C)/a.
    """
    a = p + (1 - p) * C
    return (1 - (1 - a) ** n) * (1 - C) / a


def snis(p, n):
    """k right of n: weights n/(k + (n-k) C) and C times that, mean over all n samples."""
    return sum(
        probability * (k / p - (n - k) * C / (1 - p)) / (k + (n - k) * C)
        for k, probability in enumerate(binomial(p, n))
    )


EXPECTED = {
    "rft": any_right,  # the right answers are one path: one survivor
    "raft": any_right,
    "raft++": lambda p, n: 1.0,  # 1/n sum r grad log pi: E = grad p
    "reinforce": lambda p, n: 2.0,  # the same with r = 2 r' - 1: grad (2p - 1)
    "grpo": grpo,
    "reinforce-rej": reinforce_rej,
    "gibbs": gibbs,
    "snis": snis,
    "ppo": whitened,
    "rloo": lambda p, n: 1.0,  # a baseline without the sample itself: E = grad p
    "dr-grpo": lambda p, n: (n - 1) / n,  # a baseline that holds it
    "dapo": grpo,  # of one mixed group; the others have no advantage
    "gspo": grpo,  # one ratio a sample is 1 as well
    "dpo": dpo,
    "iterative-dpo": dpo,
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("n", NS)
def test_row(name, p, n):
    got = expected_coefficient(ALGORITHMS[name], p, n)
    assert got == pytest.approx(EXPECTED[name](p, n), rel=1e-10)


@pytest.mark.parametrize("p", PS)
def test_both_roads_to_pi_star_point_to_it(p):
    """With many samples either row's coefficient is that of pi* itself, (1 - C) / (p + (1-p) C);
    with few, self-normalised weights fall short by O(1/n), rejection by having no survivor."""
    limit = (1 - C) / (p + (1 - p) * C)
    assert gibbs(p, 5_000) == pytest.approx(limit, rel=1e-12)
    short = [1 - expected_coefficient(ALGORITHMS["snis"], p, n) / limit for n in (4, 8)]
    assert 0 < short[1] < short[0] < 1
    assert 1 - snis(p, 400) / limit == pytest.approx(2 * (1 - snis(p, 800) / limit), rel=0.05)


@pytest.mark.parametrize(("p", "value"), [(0.5, 1.875), (0.05, 3.710)])
def test_a_mean_over_a_prompts_survivors_is_a_truncated_log_p(p, value):
    row = ALGORITHMS["raft++"].with_cells({"denominator": "prompt-means"})
    assert expected_coefficient(row, p, 4) == pytest.approx(value, abs=5e-4)
    assert expected_coefficient(row, p, 4) == pytest.approx(any_right(p, 4), rel=1e-12)


def test_reinforce_with_0_1_rewards_is_raft_plus_plus():
    row = ALGORITHMS["reinforce"].with_cells({"reward_scale": "0/1"})
    for p in PS:
        assert expected_coefficient(row, p, 4) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("n", NS)
def test_baselines(p, n):
    """Centred: E = (n-1)/n grad p, since the baseline holds the sample itself; leave-one-out: 1."""
    centred = ALGORITHMS["grpo"].with_cells({"advantage": "centred"})
    assert expected_coefficient(centred, p, n) == pytest.approx((n - 1) / n, rel=1e-10)
    rloo = ALGORITHMS["grpo"].with_cells({"advantage": "leave-one-out"})
    assert expected_coefficient(rloo, p, n) == pytest.approx(1.0, rel=1e-10)


def test_population_sigma_is_larger_by_a_constant():
    row = ALGORITHMS["grpo"].with_cells({"advantage": "standardised(population)"})
    ratio = expected_coefficient(row, 0.3, 4) / expected_coefficient(ALGORITHMS["grpo"], 0.3, 4)
    assert ratio == pytest.approx((4 / 3) ** 0.5, rel=1e-12)


@pytest.mark.parametrize("p", PS)
def test_dropping_groups(p):
    """Dropping all-wrong groups takes -(1-p)^n n/n grad log(1-p) from REINFORCE's 2, and so on."""
    n = 4
    wrong = ALGORITHMS["reinforce"].with_cells({"select": ["drop-all-wrong"]})
    right = ALGORITHMS["reinforce"].with_cells({"select": ["drop-all-right"]})
    assert expected_coefficient(wrong, p, n) == pytest.approx(2 - (1 - p) ** (n - 1), rel=1e-10)
    assert expected_coefficient(right, p, n) == pytest.approx(2 - p ** (n - 1), rel=1e-10)
