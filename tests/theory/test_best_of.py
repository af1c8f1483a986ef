"""Best-of-n and pass@k against all subsets and all outcomes."""

from fractions import Fraction
from itertools import combinations, product
from math import comb, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, hypergeom

from winnow.theory import (
    best_of_n,
    best_of_n_weights,
    kl_best_of_n,
    kl_best_of_n_bound,
    kl_best_of_n_plugin,
    pass_at_k,
)


def test_pass_at_k_over_all_subsets():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                hits = [any(i < c for i in pick) for pick in combinations(range(n), k)]
                assert pass_at_k(n, c, k) == pytest.approx(np.mean(hits), abs=1e-14)


def test_pass_at_k_is_exact_for_large_counts():
    for n, c, k in [
        (200, 13, 100),
        (10**12, 1, 1),
        (10_000, 3, 17),
        (10_000, 5_000, 1),
        (10**6, 2, 1000),
    ]:
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-12, abs=0)


def test_pass_at_k_over_arrays():
    n, c, k = np.array([[10], [20]]), np.array([0, 3, 10]), 5
    got = pass_at_k(n, c, k)
    assert got.shape == (2, 3)
    for i, j in product(range(2), range(3)):
        assert got[i, j] == pytest.approx(hypergeom.sf(0, n[i, 0], c[j], 5), abs=1e-12)
    assert got[0].tolist()[::2] == [0.0, 1.0]
    assert pass_at_k(np.array([], dtype=int), 0, 1).shape == (0,)


def test_pass_at_k_is_unbiased():
    """Over all outcomes of 6 samples at p = .3, its mean is 1 - .7^k; 1 - (1 - c/n)^k's is not."""
    p, n = 0.3, 6
    chance = np.array([comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    for k in range(1, n + 1):
        assert chance @ pass_at_k(n, np.arange(n + 1), k) == pytest.approx(1 - 0.7**k, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "c", "k"), [(0, 0, 1), (5, 6, 1), (5, -1, 1), (5, 1, 0), (5, 1, 6), (5, 1, 1.5)]
)
def test_pass_at_k_refuses(n, c, k):
    with pytest.raises(ValueError, match="must"):
        pass_at_k(n, c, k)


def weights_by_subsets(scores, n):
    """A priority per subset, split equally among the best of it."""
    weights = np.zeros(len(scores))
    for pick in combinations(range(len(scores)), n):
        top = max(scores[i] for i in pick)
        best = [i for i in pick if scores[i] == top]
        weights[best] += 1 / len(best)
    return weights / comb(len(scores), n)


@given(st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.5, -3.0]), min_size=1, max_size=8))
def test_weights_over_all_subsets(scores):
    ns = np.arange(1, len(scores) + 1)
    got = best_of_n_weights(scores, ns)
    assert got.shape == (len(ns), len(scores))
    for n, row in zip(ns, got, strict=True):
        assert row == pytest.approx(weights_by_subsets(scores, n), abs=1e-13)
        assert best_of_n_weights(scores, n) == pytest.approx(row, abs=0)


def test_weights_with_ten_thousand_samples():
    total, ns = 10_000, np.array([1, 2, 64, 5_000, 10_000])
    scores = np.random.default_rng(0).permutation(total).astype(float)
    got = best_of_n_weights(scores, ns)
    assert got.sum(axis=1) == pytest.approx(np.ones(5), rel=1e-10)
    assert (got >= 0).all()
    for n, row in zip(ns.tolist(), got, strict=True):
        for rank in (total, total - 1, total - 700, 5_000, 64, 2, 1):
            exact = Fraction(comb(rank - 1, n - 1), comb(total, n))
            weight = row[scores == rank - 1][0]
            assert weight == pytest.approx(float(exact), rel=1e-9, abs=1e-300)
    tied = best_of_n_weights(np.repeat([0.0, 1.0], 5_000), 4)  # all four among the lower half
    low = float(Fraction(comb(5_000, 4), comb(10_000, 4)))
    assert tied[0] == pytest.approx(low / 5_000, rel=1e-10)
    assert tied[-1] == pytest.approx((1 - low) / 5_000, rel=1e-10)


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=7),
    st.lists(st.floats(-5, 5), min_size=7, max_size=7),
)
def test_best_of_n_of_other_values(scores, values):
    values = values[: len(scores)]
    for n in range(1, len(scores) + 1):
        exact = weights_by_subsets(scores, n) @ values
        assert best_of_n(scores, n, values) == pytest.approx(exact, abs=1e-12)


def test_best_of_n_by_hand():
    """Best of two among 1, 2, 3: 2, 3, 3. Its gold values 5, 1, 0 give 1, 0, 0."""
    got = best_of_n([1, 2, 3], [1, 2, 3])
    assert got == pytest.approx([2, 8 / 3, 3])
    assert best_of_n([1, 2, 3], [1, 2, 3], [5, 1, 0]) == pytest.approx([2, 1 / 3, 0])
    assert best_of_n([1, 1, 1], 2, [5, 1, 0]) == pytest.approx(2)  # ties: at random


def test_best_of_n_is_unbiased():
    """Mean over all outcomes of N = 4 samples = the expected best of n fresh ones."""
    p, r = np.array([0.2, 0.5, 0.3]), np.array([0.0, 1.0, 4.0])
    for n in (1, 2, 3, 4):
        truth = sum(np.prod(p[list(o)]) * r[list(o)].max() for o in product(range(3), repeat=n))
        mean = sum(
            np.prod(p[list(o)]) * best_of_n(r[list(o)], n) for o in product(range(3), repeat=4)
        )
        assert mean == pytest.approx(truth, rel=1e-12)


def test_best_of_a_yes_no_score_is_pass_at_k():
    scores = np.array([1.0] * 3 + [0.0] * 17)
    ks = np.arange(1, 21)
    assert best_of_n(scores, ks) == pytest.approx(pass_at_k(20, 3, ks), rel=1e-12)


def test_wrong_arguments():
    for n in (0, 4, [[1]]):
        with pytest.raises(ValueError, match="n must"):
            best_of_n_weights([1.0, 2.0, 3.0], n)
    for scores in ([], [[1.0]], 1.0, [np.nan]):
        with pytest.raises(ValueError, match="scores"):
            best_of_n_weights(scores, 1)
    with pytest.raises(ValueError, match="values"):
        best_of_n([1.0, 2.0], 1, [1.0])
    for levels in ([0.5, 0.4], [1.5, -0.5], [[1.0]], [np.nan, 1]):
        with pytest.raises(ValueError, match="level_probabilities"):
            kl_best_of_n(levels, 2)
    for f in (lambda n: kl_best_of_n([1.0], n), kl_best_of_n_bound):
        with pytest.raises(ValueError, match="n must"):
            f(0)
        with pytest.raises(ValueError, match="whole"):
            f(1.5)
    with pytest.raises(ValueError, match="scores"):
        kl_best_of_n_plugin([], 2)


def kl_by_outcomes(pi, rewards, n):
    """All y^n outcomes, the winner sampled at random among the best."""
    winner = np.zeros(len(pi))
    for outcome in product(range(len(pi)), repeat=n):
        top = max(rewards[y] for y in outcome)
        best = [y for y in outcome if rewards[y] == top]
        for y in best:
            winner[y] += np.prod(pi[list(outcome)]) / len(best)
    return entropy(winner, pi)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("rewards", [[1, 1, 0, 0], [0, 1, 2, 3], [5, 5, 5, 5], [2, 0, 0, 1]])
def test_kl_over_all_outcomes(rewards, n):
    pi = np.array([0.1, 0.2, 0.3, 0.4])
    levels = [pi[np.array(rewards) == r].sum() for r in sorted(set(rewards))]
    exact = kl_by_outcomes(pi, rewards, n)
    assert kl_best_of_n(levels, n) == pytest.approx(exact, rel=1e-10, abs=1e-12)


def test_kl_of_a_coin():
    assert kl_best_of_n([0.5, 0.5], 4) == pytest.approx(0.4594, abs=5e-5)
    assert kl_best_of_n_bound(4) == pytest.approx(0.6363, abs=5e-5)
    assert kl_best_of_n_plugin([0, 1, 1, 0], 4) == pytest.approx(0.4594, abs=5e-5)


@given(
    st.lists(st.floats(-30, 5), min_size=1, max_size=8), st.integers(1, 10**6), st.integers(1, 50)
)
def test_kl_is_between_0_and_its_bounds_and_grows(logits, n, more):
    p = np.exp(logits) / np.exp(logits).sum()
    small, large = kl_best_of_n(p, np.array([n, n + more]))
    assert 0 <= small <= large + 1e-12
    assert small <= kl_best_of_n_bound(n) + 1e-9
    assert small <= -log(p[-1]) + 1e-9
    assert kl_best_of_n(p, 1) == pytest.approx(0, abs=1e-12)


def test_kl_with_tiny_probabilities_and_huge_n():
    n = 10**6
    eps = 1e-300  # the right answer never turns up: n eps log n
    assert kl_best_of_n([1.0, eps], n) == pytest.approx(0, abs=1e-290)
    assert kl_best_of_n([eps, 1.0], n) == pytest.approx(0, abs=1e-290)
    rare = 1e-3  # it always turns up: -log p
    assert kl_best_of_n([1 - rare, rare], n) == pytest.approx(-log(rare), rel=1e-9)
    even = np.full(10**5, 1e-5)  # nearly without ties for n = 10: the bound
    assert kl_best_of_n(even, 10) == pytest.approx(kl_best_of_n_bound(10), rel=1e-3)
    p, x = 1e-6, 10**6 * 1e-6
    m = -np.expm1(n * np.log1p(-p))
    by_hand = m * log(m / p) + (1 - m) * (n - 1) * np.log1p(-p)
    assert kl_best_of_n([1 - p, p], n) == pytest.approx(by_hand, rel=1e-9)
    assert x == 1
    assert np.isfinite(kl_best_of_n([0.0, 5e-324, 1.0, 0.0], n))


def test_kl_of_fractions():
    """Levels 1/3, 2/3, n = 2: m = 1/9, 8/9, so 1/9 log(1/3) + 8/9 log(4/3)."""
    exact = log(1 / 3) / 9 + 8 / 9 * log(4 / 3)
    assert kl_best_of_n([1 / 3, 2 / 3], 2) == pytest.approx(exact, rel=1e-13)
    assert kl_best_of_n([1 / 3, 0, 2 / 3], [2, 2]) == pytest.approx([exact, exact], rel=1e-13)


def test_the_plug_in_never_exceeds_log_n():
    scores = np.random.default_rng(1).normal(size=50)
    got = kl_best_of_n_plugin(scores, np.array([2, 10, 10**6]))
    assert (got < log(50) + 1e-12).all()
    assert got[-1] == pytest.approx(log(50), rel=1e-6)
    assert got[1] < kl_best_of_n_bound(10)
