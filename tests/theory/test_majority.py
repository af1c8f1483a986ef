"""Majority votes against all subsets."""

from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.theory import majority_at_n

RIGHT = {"a", "e"}


def vote(labels, weights):
    votes = Counter()
    for label, weight in zip(labels, weights, strict=True):
        if label is not None and weight > 0:
            votes[label] += weight
    if not votes:
        return 0.0
    top = max(votes.values())
    tied = [label for label, count in votes.items() if abs(count - top) < 1e-9]
    return sum(label in RIGHT for label in tied) / len(tied)


def by_subsets(labels, n, weights=None):
    weights = weights or [1] * len(labels)
    picks = list(combinations(range(len(labels)), n))
    return sum(vote([labels[i] for i in p], [weights[i] for i in p]) for p in picks) / len(picks)


def flags(labels):
    return np.array([label in RIGHT for label in labels])


def run(labels, ns, seed=0, **how):
    return majority_at_n(labels, flags(labels), ns, np.random.default_rng(seed), **how)


@given(st.lists(st.sampled_from(["a", "b", "c", "e", None]), min_size=1, max_size=8))
def test_all_subsets_counted(labels):
    got = run(labels, np.arange(1, len(labels) + 1))
    assert got.exact.all()
    assert (got.standard_error == 0).all()
    for n, value in enumerate(got.value, start=1):
        assert value == pytest.approx(by_subsets(labels, n), abs=1e-12)


@pytest.mark.parametrize("subsets", [2, 1000])  # by sums, or Monte Carlo, and by enumeration
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=7))
def test_a_chance_to_be_right_is_its_mixture(subsets, labels):
    """b is right one time in four: a quarter of what it is if b is right, the rest if not."""
    ns = np.arange(1, len(labels) + 1)

    def value(chance):
        right = np.array([{"a": 1.0, "b": chance}.get(label, 0.0) for label in labels])
        rng = np.random.default_rng(0)
        return majority_at_n(labels, right, ns, rng, subsets=subsets).value

    np.testing.assert_allclose(value(0.25), 0.25 * value(1.0) + 0.75 * value(0.0), atol=1e-12)


@given(st.lists(st.sampled_from(["a", "b", None]), min_size=4, max_size=9))
def test_two_labels_by_hypergeometric_sums(labels):
    """Two subsets are too few to count them all, so these come from the sums."""
    ns = np.arange(2, len(labels) - 1)
    got = run(labels, ns, subsets=2)
    assert got.exact.all()
    for n, value in zip(ns, got.value, strict=True):
        assert value == pytest.approx(by_subsets(labels, n), abs=1e-12)


@given(st.lists(st.sampled_from(["a", "e", None]), min_size=4, max_size=9))
def test_two_right_labels(labels):
    ns = np.arange(2, len(labels) - 1)
    got = run(labels, ns, subsets=2)
    for n, value in zip(ns, got.value, strict=True):
        assert value == pytest.approx(by_subsets(labels, n), abs=1e-12)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from([0.0, 0.1, 0.2, 0.3])),
        min_size=1,
        max_size=7,
    )
)
def test_weighted_votes(samples):
    """.1 + .2 ties with .3."""
    labels, weights = [list(part) for part in zip(*samples, strict=True)]
    for scale in (1.0, 1e300, 1e-300):
        got = run(labels, np.arange(1, len(labels) + 1), weights=np.array(weights) * scale)
        for n, value in enumerate(got.value, start=1):
            assert value == pytest.approx(by_subsets(labels, n, weights), abs=1e-12)


def test_the_monte_carlo_agrees_with_all_subsets():
    labels = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + [None] * 2
    ns = [5, 7, 8]
    got = run(labels, ns, subsets=300, seed=1)
    assert not got.exact.any()
    assert (got.standard_error > 0).all()
    exact = np.array([by_subsets(labels, n) for n in ns])
    assert (np.abs(got.value - exact) < 4 * got.standard_error).all()
    finer = run(labels, ns, subsets=1_500, seed=2)
    assert (np.abs(finer.value - exact) < 4 * finer.standard_error).all()
    assert finer.standard_error == pytest.approx(got.standard_error * (300 / 1_500) ** 0.5, rel=0.3)


def test_the_standard_error_is_the_spread_over_seeds():
    labels = ["a"] * 5 + ["b"] * 4 + ["c"] * 4
    runs = [run(labels, 6, subsets=100, seed=seed) for seed in range(600)]
    spread = np.std([r.value[0] for r in runs])
    assert np.mean([r.standard_error[0] for r in runs]) == pytest.approx(spread, rel=0.1)
    mean = np.mean([r.value[0] for r in runs])
    assert mean == pytest.approx(by_subsets(labels, 6), abs=4 * spread / 600**0.5)


def test_by_hand():
    """a a b: pairs aa, ab, ab: 1, 1/2, 1/2."""
    got = run(["a", "a", "b"], [1, 2, 3])
    assert got.value == pytest.approx([2 / 3, 2 / 3, 1])
    assert run(["a", "b"], 2).value == pytest.approx([0.5])


def test_no_answer_is_no_vote():
    assert run([None, None, "a"], [1, 2, 3]).value == pytest.approx([1 / 3, 2 / 3, 1])
    assert run([None, None], [1, 2]).value.tolist() == [0, 0]
    numbers = majority_at_n(
        np.array([-1, -1, 7]), [True, False, True], [1, 3], np.random.default_rng(0)
    )
    assert numbers.value == pytest.approx([1 / 3, 1])
    text = majority_at_n(["-1", "-1", "7"], [True, True, False], 3, np.random.default_rng(0))
    assert text.value.tolist() == [1]


def test_one_label_among_many_samples():
    """One label: wrong only if all n are without an answer. C(z, n) / C(N, n)."""
    got = run(["a"] * 40 + [None] * 160, [3, 20])
    assert got.exact.all()
    expected = [1 - comb(160, n) / comb(200, n) for n in (3, 20)]
    assert got.value == pytest.approx(expected, rel=1e-10)


def test_many_samples_of_two_labels():
    """Symmetric labels win half of the time, an outcome of 1/2 where n is even and they tie."""
    got = run(["a", "b"] * 1000, [1, 2, 7, 500, 2000])
    assert got.value == pytest.approx(np.full(5, 0.5), rel=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_the_order_of_the_samples_has_no_say(seed):
    labels = ["a"] * 4 + ["b"] * 3 + ["c"] * 2
    shuffled = [labels[i] for i in np.random.default_rng(seed).permutation(9)]
    assert run(shuffled, [3, 5]).value == pytest.approx(run(labels, [3, 5]).value, abs=1e-12)


def test_wrong_arguments():
    rng = np.random.default_rng(0)
    for ns in (0, 3, [[1]]):
        with pytest.raises(ValueError, match="ns must"):
            majority_at_n(["a", "b"], [True, False], ns, rng)
    with pytest.raises(ValueError, match="same label"):
        majority_at_n(["a", "a"], [True, False], 1, rng)
    with pytest.raises(ValueError, match="shape"):
        majority_at_n(["a", "a"], [True], 1, rng)
    with pytest.raises(ValueError, match="shape"):
        majority_at_n([], [], 1, rng)
    with pytest.raises(ValueError, match="true or false"):
        majority_at_n(["a", "b"], [0.3, 1.1], 1, rng)
    with pytest.raises(ValueError, match="true or false"):
        majority_at_n(["a", "b"], [0, 1], 1, rng)
    with pytest.raises(ValueError, match="negative"):
        majority_at_n(["a", "b"], [True, False], 1, rng, weights=[1, -1])
    with pytest.raises(ValueError, match="subsets"):
        majority_at_n(["a", "b"], [True, False], 1, rng, subsets=1)
