"""Rejection sampling samples from what it says: chi-square against enumeration, 200,000 samples."""

from collections import Counter
from itertools import count, product
from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from winnow.theory import (
    Certificate,
    accept,
    limit_of,
    rejection_sample,
    rejection_sample_finite,
    rso,
)

PI = np.array([0.1, 0.2, 0.3, 0.4])
R = np.array([1.0, 1.0, 0.0, 0.0])
GRADED = np.array([2.0, -1.0, 0.5, 0.0])
SAMPLES = 200_000


def optimum(rewards, beta):
    weights = PI * np.exp((rewards - rewards.max()) / beta)
    return weights / weights.sum()


def p_value(indices, expected):
    """Chi-square of sampled indices, the cells that expect fewer than 5 pooled."""
    seen = np.bincount(indices, minlength=len(expected)).astype(float)
    wanted = expected * seen.sum()
    small = wanted < 5
    if small.any() and wanted[small].sum() < 5:  # too little even together: with the next smallest
        small |= wanted == wanted[~small].min()
    cells = ~small
    f_obs, f_exp = seen[cells], wanted[cells]
    if small.any():
        f_obs, f_exp = np.append(f_obs, seen[small].sum()), np.append(f_exp, wanted[small].sum())
    return chisquare(f_obs, f_exp).pvalue if len(f_obs) > 1 else 1.0


@pytest.mark.parametrize("beta", [0.05, 0.5, 5, 100])
@pytest.mark.parametrize("rewards", [R, GRADED], ids=["yes-no", "graded"])
def test_accepted_samples_follow_the_optimum(beta, rewards):
    log_q = np.log(PI)
    sampled, certificate = rejection_sample_finite(
        log_q + rewards / beta, log_q, SAMPLES, np.random.default_rng(1)
    )
    expected = optimum(rewards, beta)
    assert len(sampled) == certificate.acceptances == SAMPLES
    assert p_value(sampled, expected) > 0.001
    assert (np.bincount(sampled, minlength=4)[expected * SAMPLES < 1e-6] == 0).all()
    assert certificate.exact
    rate = (PI * np.exp((rewards - rewards.max()) / beta)).sum()  # Z / M*
    assert abs(certificate.acceptance_rate - rate) < 4 * certificate.standard_error + 1e-12
    assert certificate.log_m == pytest.approx(rewards.max() / beta, rel=1e-12)


def test_the_chi_square_used_here_can_fail():
    indices = np.random.default_rng(2).choice(4, SAMPLES, p=PI)
    assert p_value(indices, PI) > 0.001
    assert p_value(indices, np.array([0.104, 0.196, 0.3, 0.4])) < 0.001


class Zeros:
    """A generator whose uniform numbers are all 0."""

    def random(self, size):
        return np.zeros(size)


def test_an_impossible_answer_is_never_proposed():
    log_q = np.array([-np.inf, 0.0])
    sampled, _ = rejection_sample_finite(log_q, log_q, 3, Zeros())
    assert sampled.tolist() == [1, 1, 1]


def test_a_proposal_other_than_the_reference():
    q = np.array([0.7, 0.1, 0.1, 0.1])
    sampled, certificate = rejection_sample_finite(
        np.log(PI) + R / 0.5, np.log(q), SAMPLES, np.random.default_rng(3)
    )
    assert p_value(sampled, optimum(R, 0.5)) > 0.001
    m, z = (PI * np.exp(R / 0.5) / q).max(), (PI * np.exp(R / 0.5)).sum()
    assert abs(certificate.acceptance_rate - z / m) < 4 * certificate.standard_error


def test_too_small_an_m_is_seen_and_biases_as_told():
    log_q, log_p, log_m = np.log(PI), np.log(PI) + GRADED / 0.5, 1.5  # log M* is 4
    sampled, certificate = rejection_sample_finite(
        log_p, log_q, SAMPLES, np.random.default_rng(4), log_m=log_m
    )
    assert certificate.violated
    assert not certificate.exact
    assert certificate.largest_log_weight == pytest.approx(4)
    lower = np.minimum(np.exp(log_p), exp(log_m) * PI)
    assert limit_of(log_p, log_q, log_m) == pytest.approx(lower / lower.sum(), rel=1e-12)
    assert p_value(sampled, lower / lower.sum()) > 0.001
    assert p_value(sampled, optimum(GRADED, 0.5)) < 1e-6


def test_a_looser_m_costs_samples_only():
    log_q = np.log(PI)
    sampled, certificate = rejection_sample_finite(
        log_q + R / 0.5, log_q, SAMPLES, np.random.default_rng(5), log_m=2 + log(3)
    )
    assert certificate.exact
    assert p_value(sampled, optimum(R, 0.5)) > 0.001
    assert abs(certificate.acceptance_rate - 0.3947 / 3) < 4 * certificate.standard_error + 2e-5


@given(st.lists(st.floats(-4, 4), min_size=2, max_size=6), st.floats(4.1, 9))
def test_with_m_large_enough_the_limit_is_the_target(log_w, log_m):
    log_q = np.log(np.full(len(log_w), 1 / len(log_w)))
    p = np.exp(log_w) / np.exp(log_w).sum()
    assert limit_of(log_q + log_w, log_q, log_m) == pytest.approx(p, rel=1e-9)
    flat = limit_of(log_q + log_w, log_q, -5.0)  # below every weight: the proposal comes back
    assert flat == pytest.approx(np.exp(log_q), rel=1e-9)


def toy(lists):
    """The toy policy as a callable proposal, of arrays or of lists of texts."""
    names = list("abcd")

    def propose(size, rng):
        sampled = rng.choice(4, size, p=PI)
        return [names[i] for i in sampled] if lists else sampled

    def log_weight(samples):
        return np.array([R[names.index(s) if lists else s] for s in samples]) / 0.5

    return propose, log_weight


@pytest.mark.parametrize("lists", [False, True], ids=["arrays", "lists"])
def test_a_callable_proposal(lists):
    propose, log_weight = toy(lists)
    sampled, certificate = rejection_sample(
        propose,
        log_weight,
        40_000,
        np.random.default_rng(6),
        log_m=2.0,
        bound_is_known=True,
        batch=5_000,
    )
    assert isinstance(sampled, list) == lists
    assert len(sampled) == 40_000
    codes = np.array(["abcd".index(d) for d in sampled]) if lists else sampled
    assert p_value(codes, optimum(R, 0.5)) > 0.001
    assert certificate.exact
    assert certificate.largest_log_weight == 2.0
    assert abs(certificate.acceptance_rate - 0.39473) < 4 * certificate.standard_error


def test_both_samplers_give_the_same_samples():
    """The same stream of uniform numbers through either."""
    log_q = np.log(PI)
    finite = rejection_sample_finite(log_q + R / 0.5, log_q, 3_000, np.random.default_rng(7))
    edges = np.cumsum(PI)
    other = rejection_sample(
        lambda size, rng: (rng.random(size)[:, None] >= edges[:3]).sum(axis=1),
        lambda sampled: R[sampled] / 0.5,
        3_000,
        np.random.default_rng(7),
        log_m=2.0,
        bound_is_known=True,
    )
    assert (finite[0] == other[0]).all()
    assert finite[1].proposals == other[1].proposals


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_proposals_are_counted_to_the_last_one_needed(batch):
    """Proposals 0, 1, 2, ..., of which the odd are accepted: the third is the sixth proposal."""
    stream = count(0)
    sampled, certificate = rejection_sample(
        lambda size, rng: np.array([next(stream) for _ in range(size)]),
        lambda i: np.where(i % 2, 0.0, -np.inf),
        3,
        np.random.default_rng(0),
        log_m=0.0,
        bound_is_known=True,
        batch=batch,
    )
    assert sampled.tolist() == [1, 3, 5]
    assert (certificate.acceptances, certificate.proposals) == (3, 6)
    assert certificate.acceptance_rate == 0.5
    assert certificate.standard_error == pytest.approx(sqrt(0.25 / 6))


def test_a_budget_gives_a_shorter_result():
    log_q = np.log(PI)
    sampled, certificate = rejection_sample_finite(
        log_q + R / 0.5, log_q, 5_000, np.random.default_rng(8), max_proposals=1_000
    )
    assert certificate.proposals == 1_000
    assert len(sampled) == certificate.acceptances < 500
    assert certificate.exact
    never, certificate = rejection_sample(
        *toy(False),
        10,
        np.random.default_rng(9),
        log_m=5_000.0,
        bound_is_known=True,
        max_proposals=700,
    )
    assert len(never) == 0
    assert certificate.proposals == 700
    assert certificate.acceptance_rate == certificate.standard_error == 0


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_size_of_a_batch_changes_no_distribution(batch):
    propose, log_weight = toy(False)
    rng = np.random.default_rng(10)
    counts = [
        rejection_sample(propose, log_weight, 2, rng, log_m=2.0, bound_is_known=True, batch=batch)
        for _ in range(3_000)
    ]
    sampled = np.concatenate([samples for samples, _ in counts])
    assert p_value(sampled, optimum(R, 0.5)) > 0.001
    proposals = np.array([c.proposals for _, c in counts])  # negative binomial: mean 2/a
    a = 0.394735
    assert abs(proposals.mean() - 2 / a) < 4 * sqrt(2 * (1 - a) / a**2 / len(proposals))


def test_a_bound_that_is_a_samples_largest_is_not_exact():
    propose, log_weight = toy(False)
    _, certificate = rejection_sample(
        propose, log_weight, 10, np.random.default_rng(11), log_m=2.0, bound_is_known=False
    )
    assert not certificate.violated
    assert not certificate.exact
    _, certificate = rejection_sample(
        propose, log_weight, 100, np.random.default_rng(11), log_m=1.0, bound_is_known=True
    )
    assert certificate.violated
    assert not certificate.exact


def test_rounding_is_no_violation():
    assert not Certificate(2, 1, 2000.0, 2000.0 + 1e-12, True).violated
    assert Certificate(2, 1, 2000.0, 2000.0 + 1e-6, True).violated
    for bad in [(0, 0), (1, 2), (1, -1)]:
        with pytest.raises(ValueError, match="certificate"):
            Certificate(*bad, 0.0, 0.0, True)


@pytest.mark.parametrize("scale", [500.0, 5_000.0, 1e300])
def test_huge_rewards(scale):
    log_q = np.log(PI)
    sampled, certificate = rejection_sample_finite(
        log_q + R * scale, log_q, 20_000, np.random.default_rng(12)
    )
    assert p_value(sampled, np.array([1 / 3, 2 / 3, 0, 0])) > 0.001
    assert set(sampled.tolist()) == {0, 1}
    assert not certificate.violated
    limit = limit_of(log_q + R * scale, log_q, scale)
    assert limit == pytest.approx([1 / 3, 2 / 3, 0, 0], abs=1e-12)


def test_accept_keeps_samples_of_the_optimum():
    rng = np.random.default_rng(13)
    sampled = rng.choice(4, 500_000, p=PI)
    kept = accept(GRADED[sampled], 0.5, 2.0, rng)
    assert p_value(sampled[kept], optimum(GRADED, 0.5)) > 0.001
    loose = accept(GRADED[sampled], 0.5, 2.5, rng)
    assert p_value(sampled[loose], optimum(GRADED, 0.5)) > 0.001
    assert loose.sum() / kept.sum() == pytest.approx(exp(-1), rel=0.02)


def test_accept_by_hand():
    samples = np.random.default_rng(14).random(4)
    chance = np.exp(np.array([0.0, 0.3, 0.6, 1.0]) - 1.0)
    got = accept([0.0, 0.3, 0.6, 1.0], 1.0, 1.0, np.random.default_rng(14))
    assert got.tolist() == (samples < chance).tolist()
    rng = np.random.default_rng(15)
    assert accept(np.ones((50, 20)), 1e-9, 1.0, rng).all()  # r = r_max is always accepted
    assert not accept(np.zeros(1000), 1e-9, 1.0, rng).any()
    assert accept([[1.0, 5.0], [9.0, 1.0]], 1.0, [[1e6], [1e6]], rng).shape == (2, 2)
    assert not accept([-1e308], 1e-3, 1e308, rng).any()
    with pytest.raises(ValueError, match="r_max"):
        accept([0.0, 1.5], 1.0, 1.0, rng)
    with pytest.raises(ValueError, match="beta"):
        accept([0.0], 0.0, 1.0, rng)
    with pytest.raises(ValueError, match="rewards"):
        accept([np.nan], 1.0, 1.0, rng)


def rso_law(rewards, beta, k):
    """Probability of each list that RSO may give, over all outcomes of its sweeps."""

    def go(left, chosen, chance):
        if len(chosen) >= k or not left:
            yield tuple(chosen[:k]), chance
            return
        top = max(rewards[i] for i in left)
        odds = [exp((rewards[i] - top) / beta) for i in left]
        for outcome in product([True, False], repeat=len(left)):
            weight = 1.0
            for passed, odd in zip(outcome, odds, strict=True):
                weight *= odd if passed else 1 - odd
            if weight:
                taken = [i for i, passed in zip(left, outcome, strict=True) if passed]
                rest = [i for i, passed in zip(left, outcome, strict=True) if not passed]
                yield from go(rest, chosen + taken, chance * weight)

    law = Counter()
    for chosen, chance in go(list(range(len(rewards))), [], 1.0):
        law[chosen] += chance
    return law


@pytest.mark.parametrize("k", [1, 2, 3])
def test_rso_follows_its_published_procedure(k):
    rewards = [0.2, 1.0, 0.6, 0.9]
    law = rso_law(rewards, 0.5, k)
    assert sum(law.values()) == pytest.approx(1)
    rng = np.random.default_rng(16)
    seen = Counter(tuple(rso(rewards, 0.5, k, rng).tolist()) for _ in range(20_000))
    assert seen.keys() <= law.keys()
    outcomes = sorted(law, key=law.get)
    indices = np.repeat(np.arange(len(outcomes)), [seen[o] for o in outcomes])
    assert p_value(indices, np.array([law[o] for o in outcomes])) > 0.001


def test_rso_is_not_exact_sampling():
    """One of two candidates, r = 0 first: RSO takes it with e^(-1/beta), pi* has 1/(1 + e^(1/b))"""
    rng = np.random.default_rng(17)
    first = np.mean([rso([0.0, 1.0], 1.0, 1, rng)[0] == 0 for _ in range(20_000)])
    assert first == pytest.approx(exp(-1), abs=0.015)
    assert first - 1 / (1 + exp(1)) > 0.08


@given(
    st.lists(st.floats(-1e6, 1e6), max_size=8),
    st.sampled_from([1e-6, 0.5, 1e3]),
    st.integers(1, 10),
)
def test_rso_gives_distinct_candidates_until_there_are_no_more(rewards, beta, k):
    got = rso(rewards, beta, k, np.random.default_rng(18)).tolist()
    assert len(got) == len(set(got)) == min(k, len(rewards))
    assert set(got) <= set(range(len(rewards)))


def test_wrong_arguments():
    rng, log_q = np.random.default_rng(0), np.log(PI)
    with pytest.raises(ValueError, match="cover"):
        rejection_sample_finite(log_q, [-np.inf, log(0.5), log(0.5), -np.inf], 1, rng)
    with pytest.raises(ValueError, match="nothing"):
        rejection_sample_finite(np.full(4, -np.inf), log_q, 1, rng)
    with pytest.raises(ValueError, match="normalized"):
        rejection_sample_finite(log_q, log_q + 1, 1, rng)
    with pytest.raises(ValueError, match="shape"):
        rejection_sample_finite(log_q[None], log_q[None], 1, rng)
    with pytest.raises(ValueError, match="at least 1"):
        rejection_sample_finite(log_q, log_q, 0, rng)
    with pytest.raises(ValueError, match="log_m"):
        rejection_sample_finite(log_q, log_q, 1, rng, log_m=np.nan)
    with pytest.raises(ValueError, match="log_m"):
        limit_of(log_q, log_q, np.inf)
    with pytest.raises(ValueError, match="nothing"):
        limit_of([0.0, -np.inf], [-np.inf, 0.0], 1.0)
    for k, rewards in [(0, [1.0]), (1, [[1.0]])]:
        with pytest.raises(ValueError, match="k must"):
            rso(rewards, 1.0, k, rng)
    propose, log_weight = toy(False)
    how = {"log_m": 2.0, "bound_is_known": True}
    with pytest.raises(ValueError, match="entries"):
        rejection_sample(lambda n, rng: propose(n + 1, rng), log_weight, 5, rng, **how)
    with pytest.raises(ValueError, match="log_weight"):
        rejection_sample(propose, lambda s: np.full(len(s), np.nan), 5, rng, **how)
