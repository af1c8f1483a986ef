"""One number for runs or for a curve, against rliable's numbers, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from winnow.theory.summaries import (
    area_under,
    first_reach,
    interquartile_mean,
    probability_of_improvement,
)

RLIABLE = [
    ([0.63, 0.9, 0.78], [0.43, 0.49, 0.95], 0.77, 0.6233333333333333, 0.3333333333333333),
    (
        [0.01, 0.82, 0.8, 0.47, 0.3],
        [0.47, 0.45, 0.61, 0.65, 0.69],
        0.5233333333333333,
        0.5766666666666667,
        0.54,
    ),
    (
        [1.0, 0.79, 0.62, 0.99, 0.22, 0.16, 0.61, 0.04, 0.04, 0.51],
        [0.62, 0.98, 0.75, 0.66, 0.65, 0.45, 0.26, 0.4, 0.8, 0.41],
        0.485,
        0.59,
        0.595,
    ),
    ([0.37, 0.0, 0.83, 0.15, 0.27, 0.88, 0.51], [0.93, 0.76, 0.84, 0.32], 0.426, 0.8, 0.75),
    (
        [0.5, 0.5, 0.25, 0.75, 0.0],
        [0.5, 0.75, 0.25, 0.75, 0.5],
        0.4166666666666667,
        0.5833333333333334,
        0.66,
    ),
]
"""a, b, and of rliable 1.2.0, one task: `aggregate_iqm` of a and of b, and
`probability_of_improvement(b, a)`."""


@pytest.mark.parametrize(("a", "b", "of_a", "of_b", "improvement"), RLIABLE)
def test_they_are_rliables(a, b, of_a, of_b, improvement) -> None:
    assert interquartile_mean(a)[0] == pytest.approx(of_a)
    assert interquartile_mean(b)[0] == pytest.approx(of_b)
    assert probability_of_improvement(a, b, paired=False)[0] == pytest.approx(improvement)


class TestInterquartile:
    def test_its_error_is_that_of_a_trimmed_mean(self) -> None:
        """8 runs, 2 off each end: Winsorized 3 3 3 4 6 7 7 7, by hand s_w^2 = 26 / 7, h = 4."""
        x = [9.0, 1.0, 7.0, 3.0, 6.0, 4.0, 2.0, 8.0]
        mean, low, high = interquartile_mean(x)
        clipped = [3, 3, 3, 4, 6, 7, 7, 7]
        error = math.sqrt(np.var(clipped, ddof=1) * 7 / (4 * 3))
        assert np.var(clipped, ddof=1) == pytest.approx(26 / 7)
        half = stats.t.ppf(0.975, 3) * error
        assert (mean, low, high) == pytest.approx((5.0, 5.0 - half, 5.0 + half))

    def test_against_scipys_trimmed_test(self) -> None:
        """Yuen's test of x against a constant that varies so little that its part is nothing."""
        x = np.random.default_rng(0).normal(size=13)
        mean, low, high = interquartile_mean(x)
        still = 1e-9 * np.arange(13)
        theirs = stats.ttest_ind(x, still, trim=0.25, equal_var=False).confidence_interval(0.95)
        assert (low, high) == pytest.approx(tuple(theirs), abs=1e-6)
        assert mean == pytest.approx(stats.trim_mean(x, 0.25))

    @pytest.mark.parametrize("seeds", [2, 3])
    def test_of_two_or_three_it_is_the_mean(self, seeds) -> None:
        x = np.array([0.1, 0.7, 0.3])[:seeds]
        expected = stats.t.interval(0.95, seeds - 1, loc=x.mean(), scale=stats.sem(x))
        assert interquartile_mean(x) == pytest.approx((x.mean(), *expected))

    def test_what_does_not_vary_has_no_interval(self) -> None:
        assert interquartile_mean([0.5]) == (0.5, None, None)
        assert interquartile_mean([0.0, 0.1, 0.1, 0.1, 0.9])[1:] == (None, None)
        assert interquartile_mean([0.3, 0.1 + 0.2, 0.3])[1:] == (None, None)  # a bit above 0.3


class TestImprovement:
    def test_paired_it_is_the_share_of_seeds(self) -> None:
        """Seven of ten, no ties: scipy's exact interval of a proportion."""
        a, b = np.zeros(10), np.array([1.0] * 7 + [-1.0] * 3)
        share, low, high = probability_of_improvement(a, b, paired=True)
        theirs = stats.binomtest(7, 10).proportion_ci(0.95, method="exact")
        assert (share, low, high) == pytest.approx((0.7, theirs.low, theirs.high))

    def test_ties_count_half(self) -> None:
        assert probability_of_improvement([1, 2, 3], [1, 2, 4], paired=True)[0] == 2 / 3
        assert probability_of_improvement([1, 1], [1, 1], paired=False)[0] == 0.5

    @pytest.mark.parametrize("paired", [True, False])
    def test_the_same_rates_in_another_order_tie(self, paired) -> None:
        """Their mean differs in the last bit, which makes no run better than another."""
        rates = [1 / 3, 1 / 3, 1.0, 1 / 3]
        one, other = np.mean(rates), np.mean(sorted(rates))
        assert one != other
        assert probability_of_improvement([one] * 3, [other] * 3, paired)[0] == 0.5
        assert probability_of_improvement([other] * 3, [one] * 3, paired)[0] == 0.5

    @pytest.mark.parametrize("paired", [True, False])
    def test_the_other_way_round_it_is_the_rest(self, paired) -> None:
        rng = np.random.default_rng(3)
        a, b = rng.normal(size=7), rng.normal(0.5, 1.0, size=7)
        share, low, high = probability_of_improvement(a, b, paired)
        other = probability_of_improvement(b, a, paired)
        assert other == pytest.approx((1 - share, 1 - high, 1 - low))

    @pytest.mark.parametrize("paired", [True, False])
    def test_an_interval_does_not_close_where_all_are_better(self, paired) -> None:
        share, low, high = probability_of_improvement([0, 0, 0], [1, 1, 1], paired)
        assert share == high == 1.0
        assert 0.2 < low < 0.6

    def test_unpaired_its_end_is_t_errors_away(self) -> None:
        """Hanley and McNeil's variance at the end, with (n + m) / 2 for both numbers of runs."""
        rng = np.random.default_rng(4)
        a, b = rng.normal(size=6), rng.normal(0.8, 1.0, size=10)
        share, low, high = probability_of_improvement(a, b, paired=False)
        for end in (low, high):
            q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
            both = 7 * (q1 - end**2) + 7 * (q2 - end**2)
            error = math.sqrt((end * (1 - end) + both) / 60)
            assert abs(end - share) == pytest.approx(stats.t.ppf(0.975, 14) * error, rel=1e-6)

    def test_what_it_cannot_say(self) -> None:
        assert probability_of_improvement([0.0], [1.0], paired=False) == (1.0, None, None)
        with pytest.raises(ValueError, match="each of the same seeds"):
            probability_of_improvement([0.0, 1.0], [1.0], paired=True)


class TestCurve:
    @given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.integers(1, 7))
    def test_the_area_is_numpys_and_does_not_depend_on_the_points(self, ys, parts) -> None:
        xs = np.cumsum(1.0 + np.arange(len(ys)))
        expected = np.trapezoid(ys, xs) / (xs[-1] - xs[0])
        assert area_under(xs, ys) == pytest.approx(expected, abs=1e-9)
        more = np.unique(np.concatenate([xs, np.linspace(xs[0], xs[-1], parts + 2)]))
        assert area_under(more, np.interp(more, xs, ys)) == pytest.approx(expected, abs=1e-9)

    def test_the_first_reach(self) -> None:
        """From .2 at 10 to .4 at 30, .35 is three quarters of the way; .5 is passed at 35."""
        xs, ys = [10, 30, 40, 50], [0.2, 0.4, 0.6, 0.1]
        assert first_reach(xs, ys, 0.35) == pytest.approx(25.0)
        assert first_reach(xs, ys, 0.5) == pytest.approx(35.0)
        assert first_reach(xs, ys, 0.6) == pytest.approx(40.0)
        assert first_reach(xs, ys, 0.2) == first_reach(xs, ys, -1) == 10
        assert first_reach(xs, ys, 0.61) is None
        assert first_reach([0, 10, 20], [0.0, 0.3, 0.4], 0.1 + 0.2) == 10  # a bit above 0.3
        assert first_reach([0, 10], [0.0, 0.3], 0.1 + 0.2) == 10

    @pytest.mark.parametrize(
        ("xs", "ys", "what"),
        [
            ([1, 1], [0, 1], "xs must rise"),
            ([1, 2], [0], "of one length"),
            ([1, 2], [0, math.nan], "ys must be finite"),
            ([1], [0], "two points"),
        ],
    )
    def test_what_is_no_curve(self, xs, ys, what) -> None:
        with pytest.raises(ValueError, match=what):
            area_under(xs, ys)
