"""Each row's expected gradient on a yes/no policy, by exact enumeration of all outcomes.

The policy answers right with probability p and wrong with 1 - p, in one token. Over all 2^n
outcomes of n draws, weighed by their probability, the row's own pipeline (select, weigh, loss,
denominator) gives a gradient with respect to p; minus it is the row's coefficient on grad p. The
other side of each comparison is a closed form, derived where it stands.
"""

from itertools import product
from math import comb

import pytest
import torch

from tests.build import group, judged
from winnow.algorithms import ALGORITHMS
from winnow.update import factors, totals

PS = (0.05, 0.3, 0.5, 0.9)
NS = (2, 4, 5)


def expected_coefficient(algorithm, p, n):
    chance = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    total = torch.zeros((), dtype=torch.float64)
    for outcome in product((1.0, 0.0), repeat=n):
        texts = ["right" if r else "wrong" for r in outcome]
        (scored,) = judged([group(outcome, texts=texts)], algorithm)
        counts = totals([scored])
        probability = p ** sum(outcome) * (1 - p) ** (n - sum(outcome))
        for term in algorithm.terms:
            scale = factors(scored, term, counts)
            for i, right in enumerate(outcome):
                if scored.weights[i]:
                    logp = (chance if right else 1 - chance).log()[None]
                    weight = torch.tensor([scored.weights[i]], dtype=torch.float64)
                    loss = term.loss(logp, logp.detach(), weight).sum() * scale[i]
                    total = total + probability * loss
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


def reinforce_rej(p, n):
    """Mixed groups only, mean over their draws of r grad log pi with r = -1, +1."""
    return sum(
        probability / n * (k / p + (n - k) / (1 - p))
        for k, probability in enumerate(binomial(p, n))
        if 0 < k < n
    )


EXPECTED = {
    "rft": any_right,  # the right answers are one path: one survivor
    "raft": any_right,
    "raft++": lambda p, n: 1.0,  # 1/n sum r grad log pi: E = grad p
    "reinforce": lambda p, n: 2.0,  # the same with r = 2 r' - 1: grad (2p - 1)
    "grpo": grpo,
    "reinforce-rej": reinforce_rej,
}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("n", NS)
def test_row(name, p, n):
    got = expected_coefficient(ALGORITHMS[name], p, n)
    assert got == pytest.approx(EXPECTED[name](p, n), rel=1e-10)


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
    """Centred: E = (n-1)/n grad p, since the baseline holds the draw itself; leave-one-out: 1."""
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
