"""How far a mean is below the highest of others: against Student's t and data without a drop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from winnow.theory.drops import drop_between, drop_from_highest, highest_columns

NORMAL = np.random.default_rng(0).normal(size=(40, 5))


def with_two_more(first: np.ndarray, last: np.ndarray, top: float) -> float:
    """Standard error of mean(first - last), where `last` is `top` on two more prompts."""
    difference = first - last
    squares = ((difference - difference.mean()) ** 2).sum() + 2 * (top - last.mean()) ** 2
    return float(np.sqrt(squares / (len(first) * (len(first) - 1))))


def test_of_two_it_is_students() -> None:
    values, top = NORMAL + np.eye(5)[0], 3.0
    found = drop_between(values, 0, 3, top)
    expected = values[:, 0].mean() - values[:, 3].mean()
    error = with_two_more(values[:, 0], values[:, 3], top)
    half = stats.t.ppf(0.975, 39) * error
    assert found.value == pytest.approx(expected)
    assert (found.low, found.high) == pytest.approx((expected - half, expected + half), rel=0.05)
    back = drop_between(values, 3, 0, top)
    assert back.value == pytest.approx(-expected)
    weak = drop_between(0.2 * values, 0, 3, 0.6)
    assert weak.p == pytest.approx(found.p)  # no unit matters
    slight = drop_between(NORMAL, 1, 3, top)
    t = (NORMAL[:, 1] - NORMAL[:, 3]).mean() / with_two_more(NORMAL[:, 1], NORMAL[:, 3], top)
    assert slight.p == pytest.approx(stats.t.sf(t, 39), abs=0.015)


def test_the_choice_costs_what_independent_points_say() -> None:
    """The end known exactly, the others independent: 1 - P(T <= t)^4 but for the shared spread."""
    rng = np.random.default_rng(3)
    values = np.hstack([rng.normal(size=(4000, 4)), np.zeros((4000, 1))])
    values[:, :4] -= values[:, :4].mean(axis=0)
    values[:, 0] += 2.0 / np.sqrt(4000) * values[:, 0].std(ddof=1)
    found = drop_from_highest(values, 4, 0.0)
    assert found.p == pytest.approx(1 - stats.norm.cdf(2.0) ** 4, abs=0.01)
    assert drop_between(values, 0, 4, 0.0).p == pytest.approx(stats.norm.sf(2.0), abs=0.006)


@given(st.permutations(range(4)))
def test_the_order_of_the_others_does_not_matter(order) -> None:
    values = NORMAL + 0.5 * np.eye(5)[0]
    one = drop_from_highest(values, 4, 3.0)
    other = drop_from_highest(values[:, [*order, 4]], 4, 3.0)
    assert other.value == pytest.approx(one.value)
    assert (other.low, other.high, other.p) == pytest.approx((one.low, one.high, one.p), abs=0.02)


def test_what_rises_has_no_drop() -> None:
    values = NORMAL + 3.0 * np.arange(5)
    found = drop_from_highest(values, 4, values.max())
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.p > 0.9
    assert highest_columns(values, values.max()) == [4]


def test_an_end_that_was_never_right_may_be_by_chance() -> None:
    """Right on 3 % of the prompts, it is so on none of 64 once in seven times: .97^64 = .142."""
    values = np.tile([0.03, 0.03, 0.0], (64, 1))
    assert drop_from_highest(values, 2, 1.0).p > 0.05
    assert drop_from_highest(np.tile(values, (8, 1)), 2, 1.0).p < 0.001  # .97^512 = 2e-7


def test_nothing_varies() -> None:
    values = np.full((5, 3), 1.0)
    found = drop_from_highest(values, 2, 1.0)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
    assert highest_columns(values, 1.0) == [0, 1, 2]


@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (3,)])
def test_too_little(shape) -> None:
    with pytest.raises(ValueError, match="two of each at least"):
        drop_from_highest(np.zeros(shape), 0, 1.0)
