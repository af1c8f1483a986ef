"""Differences over seeds against SciPy and against enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from winnow.theory import comparison, student
from winnow.theory.comparison import (
    holm,
    least_seeds,
    mean_interval,
    paired,
    seeds_needed,
    sign_flip,
    unpaired,
    within,
)

LEVELS = (0.5, 0.9, 0.95, 0.99, 1 - 0.05 / 105)
OUTCOMES = st.lists(st.integers(0, 64).map(lambda right: right / 64), min_size=2, max_size=9)


class TestStudent:
    @pytest.mark.parametrize("freedom", [1, 2, 2.7, 5, 29, 1000])
    def test_it_is_scipys(self, freedom) -> None:
        for level in LEVELS:
            expected = stats.t.ppf(0.5 + level / 2, freedom)
            assert student.quantile(level, freedom) == pytest.approx(expected, rel=1e-9)
        for t in (0.0, 0.1, -2.0, 30.0):
            expected = 2 * stats.t.sf(abs(t), freedom)
            assert student.two_sided(t, freedom) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("freedom", [1, 2, 5, 9, 30, 200])
    @pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5, 3.0, 6.0])
    def test_shifted_it_is_scipys(self, freedom, shift) -> None:
        for t in (-2.0, 0.0, 1.0, 2.3, 8.0):
            expected = stats.nct.cdf(t, freedom, shift)
            assert student.shifted_cdf(t, freedom, shift) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("seeds", [2, 6, 10, 40])
    def test_its_power_is_that_of_scipys_noncentral_t(self, seeds) -> None:
        for effect, level in product((-0.6, 0.0, 0.8), (0.95, 0.99)):
            t, shift = stats.t.ppf(0.5 + level / 2, seeds - 1), effect * math.sqrt(seeds)
            expected = stats.nct.sf(t, seeds - 1, shift) + stats.nct.cdf(-t, seeds - 1, shift)
            assert student.power(effect, seeds, level) == pytest.approx(expected, abs=1e-9)

    def test_the_beta_distribution_is_scipys(self) -> None:
        for a, b in ((0.5, 0.5), (1.0, 8.0), (7.5, 2.5), (300.0, 0.5)):
            for x in (0.0, 1e-6, 0.2, 0.93, 1.0):
                assert student.betainc(a, b, x) == pytest.approx(stats.beta.cdf(x, a, b), rel=1e-9)
            for p in (0.025, 0.5, 0.975):
                expected = stats.beta.ppf(p, a, b)
                assert student.beta_quantile(p, a, b) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("level", [0.0, 1.0, -1.0, math.nan])
    def test_a_level_is_between_0_and_1(self, level) -> None:
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            student.quantile(level, 3)
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            paired([1.0, 2.0], [1.0, 2.0], level)


class TestT:
    @pytest.mark.parametrize("seeds", [2, 3, 5, 10, 20])
    @pytest.mark.parametrize("level", [0.9, 0.95])
    def test_they_are_scipys(self, seeds, level) -> None:
        rng = np.random.default_rng(seeds)
        a, b = rng.normal(size=seeds), rng.normal(0.5, 2.0, size=seeds)
        for ours, theirs in (
            (paired(a, b, level), stats.ttest_rel(b, a)),
            (unpaired(a, b[:-1] if seeds > 2 else b, level), None),
        ):
            if theirs is None:
                theirs = stats.ttest_ind(b[:-1] if seeds > 2 else b, a, equal_var=False)
            assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
            assert (ours.low, ours.high) == pytest.approx(theirs.confidence_interval(level))
        mean, low, high = mean_interval(a, level)
        expected = stats.t.interval(level, seeds - 1, loc=a.mean(), scale=stats.sem(a))
        assert (mean, low, high) == pytest.approx((a.mean(), *expected))

    @given(a=OUTCOMES, data=st.data())
    def test_within_bounds_it_is_the_part_that_lies_there(self, a, data) -> None:
        b = data.draw(
            st.lists(st.integers(0, 64).map(lambda x: x / 64), min_size=len(a), max_size=len(a))
        )
        whole = mean_interval(a)
        mean, low, high = within(whole, 0.0, 1.0)
        if len(set(a)) == 1:
            assert (mean, low, high) == (a[0], None, None)
        else:
            assert 0.0 <= low <= mean <= high <= 1.0
            assert (low, high) == (max(0.0, whole[1]), min(1.0, whole[2]))
        assert within(whole, -math.inf, math.inf) == whole
        for d in (paired(a, b), unpaired(a, b)):
            cut = d.of_outcomes_within(0.0, 1.0)
            assert (cut.estimate, cut.p, cut.sd) == (d.estimate, d.p, d.sd)
            if d.low is None:
                assert cut == d
            else:
                assert (cut.low, cut.high) == (max(-1.0, d.low), min(1.0, d.high))

    def test_the_sd_is_what_seeds_needed_asks_for(self) -> None:
        a, b = np.array([0.1, 0.4, 0.2]), np.array([0.3, 0.4, 0.5])
        assert paired(a, b).sd == pytest.approx(np.std(b - a, ddof=1))
        assert unpaired(a, b).sd == pytest.approx(math.sqrt(a.var(ddof=1) + b.var(ddof=1)))

    def test_differences_that_do_not_vary_have_no_interval(self) -> None:
        """Ten of 64 more at each of 7 seeds: of 2^7 flips two are as extreme, not p = 0."""
        a = np.array([3, 9, 1, 4, 7, 2, 5]) / 64
        d = paired(a, a + 10 / 64)
        assert (d.low, d.high, d.p) == (None, None, 2 / 2**7)
        same = paired(a, a)
        assert (same.estimate, same.low, same.p) == (0.0, None, 1.0)
        for level in (0.1, 0.3, 0.7):  # not in binary: rounding is no variation
            d = paired(np.full(7, level), np.full(7, level) + a * 0 + 0.1)
            assert (d.low, d.p) == (None, 2 / 2**7)

    def test_outcomes_that_are_all_the_same_leave_their_mean_in_doubt(self) -> None:
        """Three runs without a right sample do not show that no run has one."""
        for same in ([0.0] * 3, [1.0, 1.0], [0.3, 0.1 + 0.2, 0.3]):
            assert mean_interval(same) == (pytest.approx(same[0]), None, None)

    def test_differences_of_rounding_alone_are_none(self) -> None:
        """0.1 + 0.2 is a bit above 0.3, in which seed 1 and 2 differ, one way and the other."""
        a, b = [0.5, 0.3, 0.1 + 0.2, 0.7], [0.5, 0.1 + 0.2, 0.3, 0.7]
        for one, other in ((a, b), (b, a), ([0.3] * 4, [0.1 + 0.2] * 4)):
            d = paired(one, other)
            assert (d.estimate, d.low, d.p, d.sd) == (0.0, None, 1.0, 0.0)
            assert sign_flip(one, other).estimate == 0.0

    def test_outcomes_that_do_not_vary_have_no_interval_unpaired(self) -> None:
        """Of the 70 divisions of 4 + 4 outcomes two are as extreme."""
        d = unpaired([0.25] * 4, [0.5] * 4)
        assert (d.estimate, d.low, d.p) == (0.25, None, 2 / 70)
        assert unpaired([0.25] * 4, [0.25] * 4).p == 1.0

    def test_one_seed_tells_nothing(self) -> None:
        for d in (paired([1.0], [3.0]), unpaired([1.0, 2.0], [3.5]), sign_flip([1.0], [3.0])):
            assert (d.estimate, d.low, d.high, d.p, d.seeds) == (2.0, None, None, 1.0, 1)
        assert mean_interval([2.0]) == (2.0, None, None)

    @pytest.mark.parametrize(
        ("a", "b", "what"),
        [
            ([1.0, 2.0], [1.0], "each of the same seeds"),
            ([1.0, math.nan], [1.0, 2.0], "a must be finite"),
            ([], [], "at least one"),
            ([[1.0, 2.0]], [[1.0, 2.0]], "a list of numbers"),
        ],
    )
    def test_what_cannot_be_compared(self, a, b, what) -> None:
        for test in (paired, sign_flip):
            with pytest.raises(ValueError, match=what):
                test(a, b)


def flipped(differences, shift: float) -> float:
    """p of all sign flips of differences - shift, by the definition; ties are as extreme."""
    moved = np.array(differences) - shift
    signs = np.array(list(product([1, -1], repeat=len(moved))))
    means = np.abs(signs @ moved)
    return float((means >= abs(moved.sum()) - 1e-9).mean())


class TestFlips:
    @given(OUTCOMES, st.randoms(use_true_random=False))
    def test_p_is_that_of_all_flips(self, a, random) -> None:
        b = [random.randrange(65) / 64 for _ in a]
        d = sign_flip(a, b)
        assert d.p == pytest.approx(flipped(np.subtract(b, a), 0.0))
        assert d.p == d.exact_p == paired(a, b).exact_p

    @given(OUTCOMES, st.randoms(use_true_random=False), st.sampled_from([0.5, 0.8, 0.95]))
    def test_the_interval_holds_what_is_not_rejected(self, a, random, level) -> None:
        b = [random.random() for _ in a]
        d = sign_flip(a, b, level)
        differences = np.subtract(b, a)
        if d.low is None or d.high is None:
            assert 2 / 2 ** len(a) > 1 - level
            return
        for end, outward in ((d.low, -1), (d.high, 1)):
            assert flipped(differences, end + outward * 1e-6) <= 1 - level + 1e-9
            assert flipped(differences, end) > 1 - level

    def test_of_six_at_95_percent_it_is_from_the_lowest_to_the_highest(self) -> None:
        """2.5 % of 2^6 is 1.6 flips: the first subset mean from either end, a single difference."""
        d = sign_flip(np.zeros(6), [0.3, 0.1, 0.5, -0.2, 0.4, 0.6])
        assert (d.low, d.high) == (-0.2, 0.6)

    @pytest.mark.parametrize("seeds", [17, 20])
    def test_random_flips_are_near_all_of_them(self, seeds, monkeypatch) -> None:
        rng = np.random.default_rng(seeds)
        a, b = rng.normal(size=seeds), rng.normal(0.7, 1.0, size=seeds)
        some = sign_flip(a, b)
        comparison._subsets.cache_clear()
        monkeypatch.setattr(comparison, "EXACT_UP_TO", 20)
        every = sign_flip(a, b)
        comparison._subsets.cache_clear()
        assert (some.method, every.method) == ("sign flips, random", "sign flips, exact")
        assert some.p == pytest.approx(every.p, abs=4 * math.sqrt(2 * every.p / 19_999))
        assert (some.low, some.high) == pytest.approx((every.low, every.high), abs=0.02)

    def test_random_flips_are_the_same_each_time(self) -> None:
        rng = np.random.default_rng(1)
        a, b = rng.normal(size=18), rng.normal(size=18)
        first = sign_flip(a, b)
        comparison._subsets.cache_clear()
        assert sign_flip(a, b) == first
        turned = sign_flip(b, a)
        assert (turned.low, turned.high, turned.p) == (-first.high, -first.low, first.p)

    def test_p_of_random_flips_is_never_0(self) -> None:
        assert sign_flip(np.zeros(30), np.arange(1, 31)).p == pytest.approx(1e-4, rel=1e-3)

    @pytest.mark.parametrize(("level", "seeds"), [(0.95, 6), (0.9, 5), (0.99, 8), (0.5, 2)])
    def test_the_fewest_seeds(self, level, seeds) -> None:
        """All differences above 0: the smallest p there is."""
        assert least_seeds(level) == seeds
        assert sign_flip(np.zeros(seeds), np.ones(seeds)).p <= 1 - level + 1e-12
        assert sign_flip(np.zeros(seeds - 1), np.ones(seeds - 1)).p > 1 - level
        assert sign_flip(np.zeros(seeds), np.ones(seeds), level).low == 1.0
        assert sign_flip(np.zeros(seeds - 1), np.ones(seeds - 1), level).low is None

    def test_more_comparisons_want_more_seeds(self) -> None:
        """28 x 2 / 2^11 = .027, 28 x 2 / 2^10 = .055."""
        assert least_seeds(0.95, 28) == 11


class TestHolm:
    def test_by_hand(self) -> None:
        """Sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, and .04 is not below .06."""
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
        assert holm([0.9, 0.8]) == [1.0, 1.0]
        assert holm([0.2]) == [0.2]
        assert holm([]) == []

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
    def test_it_is_the_closed_test_of_bonferroni(self, p) -> None:
        """p of a hypothesis: the largest of Bonferroni's p over all intersections that hold it."""
        m = len(p)
        for i, adjusted in enumerate(holm(p)):
            families = [s for s in product([0, 1], repeat=m) if s[i]]
            tested = [sum(s) * min(p[j] for j in range(m) if s[j]) for s in families]
            assert adjusted == pytest.approx(min(1.0, max(tested)))

    @pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
    def test_what_is_no_p(self, p) -> None:
        with pytest.raises(ValueError, match="within 0 to 1"):
            holm([0.5, p])


class TestSeedsNeeded:
    @pytest.mark.parametrize("effect", [0.2, 0.5, 1.0, 1.2])
    @pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
    @pytest.mark.parametrize("comparisons", [1, 28])
    def test_it_is_the_fewest_by_scipys_noncentral_t(self, effect, power, comparisons) -> None:
        n = seeds_needed(-3 * effect, 3.0, power=power, comparisons=comparisons)

        def theirs(n: int) -> float:
            t, shift = stats.t.ppf(1 - 0.025 / comparisons, n - 1), effect * math.sqrt(n)
            return float(stats.nct.sf(t, n - 1, shift) + stats.nct.cdf(-t, n - 1, shift))

        assert theirs(n) >= power
        assert n in (6, 7) or theirs(n - 1) < power

    def test_at_six_all_differences_must_have_one_sign(self) -> None:
        """.8^(1/6) = .9635 of a normal distribution is above -1.793."""
        assert seeds_needed(1.80, 1.0) == 6
        assert seeds_needed(1.78, 1.0) == 7

    def test_the_ends(self) -> None:
        assert seeds_needed(1.0, 0.0) == seeds_needed(100.0, 1.0) == 6
        assert seeds_needed(1e-9, 1.0) == comparison.MOST

    @pytest.mark.parametrize("wrong", [(0.0, 1.0), (math.nan, 1.0), (1.0, -1.0)])
    def test_what_has_no_answer(self, wrong) -> None:
        with pytest.raises(ValueError, match="a difference other than 0"):
            seeds_needed(*wrong)
        with pytest.raises(ValueError, match="comparisons must be at least 1"):
            seeds_needed(1.0, 1.0, comparisons=0)
