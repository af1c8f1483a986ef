"""Verdicts say no more than their rule lets them, and in these words."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.theory import student
from winnow.theory.comparison import Difference, holm, paired, unpaired
from winnow.theory.verdicts import Measure, Rule, equal, more_seeds, told, verdict

ACCURACY = Measure("held-out accuracy")
NAMES = ("raft", "raft++")
CLEAR = Difference(0.041, 0.012, 0.070, 0.012, 10, "paired t", 0.0405, 0.016)
UNCLEAR = Difference(0.013, -0.020, 0.046, 0.39, 10, "paired t", 0.046, 0.4)


def turned(d: Difference) -> Difference:
    return Difference(-d.estimate, -d.high, -d.low, d.p, d.seeds, d.method, d.sd, d.exact_p)


class TestWords:
    def test_a_difference(self) -> None:
        expected = (
            "raft++ is better than raft in held-out accuracy by 4.1 points [1.2, 7.0], 10 seeds"
        )
        assert verdict(CLEAR, 0.012, NAMES, ACCURACY) == expected
        assert verdict(turned(CLEAR), 0.012, NAMES[::-1], ACCURACY) == expected

    def test_where_less_is_better(self) -> None:
        samples = Measure("samples to reach 50 %", "samples", 1.0, 0, higher_is_better=False)
        d = Difference(-1203.0, -2001.4, -404.9, 0.006, 10, "paired t", 1116.0, 0.01)
        assert verdict(d, 0.006, NAMES, samples) == (
            "raft++ is better than raft in samples to reach 50 % by 1,203 samples [405, 2,001],"
            " 10 seeds"
        )
        assert verdict(turned(d), 0.006, NAMES, samples).startswith("raft is better than raft++")

    def test_where_neither_is_better(self) -> None:
        entropy = Measure("entropy", "nats", 1.0, 2, higher_is_better=None)
        assert verdict(turned(CLEAR), 0.012, NAMES, entropy) == (
            "raft has a higher entropy than raft++ by 0.04 nats [0.01, 0.07], 10 seeds"
        )

    def test_cannot_tell(self) -> None:
        """An effect of .013 / .046 = .283: 101 seeds by SciPy's noncentral t."""
        assert verdict(UNCLEAR, 0.39, NAMES, ACCURACY) == (
            "cannot tell raft++ from raft in held-out accuracy: +1.3 points [-2.0, 4.6], 10 seeds;"
            " about 101 seeds would tell a difference of this size"
        )

    def test_told_alone_but_not_among_many(self) -> None:
        """By SciPy, 21 seeds find an effect of 41 / 40.5 at 5 % / 28 in 82.7 %, 20 in 79.3 %."""
        said = verdict(CLEAR, 28 * 0.012, NAMES, ACCURACY, Rule(comparisons=28))
        assert said.startswith("cannot tell raft++ from raft in held-out accuracy: +4.1 points")
        assert "; told if it were the only one of 28 comparisons; about 21 seeds would" in said

    def test_too_few_seeds(self) -> None:
        d = paired(np.zeros(5), [0.10, 0.11, 0.12, 0.10, 0.11])
        assert d.p < 1e-4
        said = verdict(d, d.p, NAMES, ACCURACY)
        assert said.startswith("cannot tell")
        assert "5 seeds; fewer than 6 tell nothing; about 6 seeds would" in said

    def test_one_seed(self) -> None:
        said = verdict(paired([0.5], [0.6]), 1.0, NAMES, Measure(""))
        expected = "cannot tell raft++ from raft: +10.0 points (1 seed); fewer than 6 tell nothing"
        assert said == expected

    def test_the_same_at_all_seeds(self) -> None:
        same = paired([0.5] * 7, [0.5] * 7)
        said = verdict(same, 1.0, NAMES, ACCURACY, Rule(margin=0.01))
        assert said.endswith(": the same at all 7 seeds")
        assert said.startswith("cannot tell")

    def test_differences_that_do_not_vary(self) -> None:
        d = paired([0.5] * 7, [0.625] * 7)
        said = verdict(d, d.p, NAMES, ACCURACY)
        assert said == ("raft++ is better than raft in held-out accuracy by 12.5 points (7 seeds)")

    def test_equal(self) -> None:
        within = Difference(-0.001, -0.009, 0.007, 0.8, 10, "paired t", 0.011, 0.8)
        assert verdict(within, 0.8, NAMES, ACCURACY, Rule(margin=0.01)) == (
            "raft++ and raft are equal to within 1.0 points in held-out accuracy [-0.9, 0.7],"
            " 10 seeds"
        )
        for margin in (None, 0.0089):
            said = verdict(within, 0.8, NAMES, ACCURACY, Rule(margin=margin))
            assert said.startswith("cannot tell")

    def test_equal_wants_as_many_seeds(self) -> None:
        few = Difference(-0.001, -0.009, 0.007, 0.8, 5, "paired t", 0.006, 0.8)
        assert not equal(few, Rule(margin=0.01))
        assert verdict(few, 0.8, NAMES, ACCURACY, Rule(margin=0.01)).startswith("cannot tell")

    def test_no_minus_before_0(self) -> None:
        d = Difference(-0.0001, -0.02, 0.02, 0.99, 10, "paired t", 0.03, 0.99)
        assert "+0.0 points [-2.0, 2.0]" in verdict(d, 0.99, NAMES, ACCURACY)


class TestRule:
    def test_each_of_three_may_forbid(self) -> None:
        """Seeds, flips, corrected p."""
        assert told(CLEAR, 0.05, Rule())
        assert not told(CLEAR, 0.051, Rule())
        assert not told(CLEAR, 0.012, Rule(level=0.999))
        flips = Difference(0.04, 0.01, 0.07, 0.012, 10, "paired t", 0.04, 0.06)
        assert not told(flips, 0.012, Rule())
        few = Difference(0.04, 0.01, 0.07, 0.012, 5, "Welch's t", 0.04)
        assert not told(few, 0.012, Rule())

    @given(
        st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=12),
        st.sampled_from([0.9, 0.95, 0.99]),
        st.booleans(),
    )
    def test_it_claims_no_more_than_its_interval(self, rights, level, alike) -> None:
        a, b = np.array(rights).T / 64
        d = (paired if alike else unpaired)(a, b, level)
        rule = Rule(level=level, margin=0.05)
        said = verdict(d, holm([d.p, 1.0])[0], NAMES, ACCURACY, rule)
        if "better" in said:
            assert d.low is None or d.high is None or d.low > 0 or d.high < 0
            assert said.startswith("raft++ is" if d.estimate > 0 else "raft is")
        elif "equal" in said:
            assert -0.05 <= d.low <= d.high <= 0.05
            assert equal(d, rule)
        else:
            assert said.startswith("cannot tell")
        if d.seeds < {0.9: 5, 0.95: 6, 0.99: 8}[level]:
            assert said.startswith("cannot tell")

    @given(st.lists(st.integers(-64, 64), min_size=2, max_size=12), st.sampled_from([1, 28]))
    def test_the_seeds_it_names_are_more_than_there_are(self, differences, comparisons) -> None:
        d = paired(np.zeros(len(differences)), np.array(differences) / 64)
        needed = more_seeds(d, Rule(comparisons=comparisons))
        if d.estimate == 0:
            assert needed is None
        elif needed is not None and d.sd > 0 and needed > max(7, d.seeds + 1):
            level = 1 - 0.05 / comparisons
            assert student.power(d.estimate / d.sd, needed, level) >= 0.8
            assert student.power(d.estimate / d.sd, needed - 1, level) < 0.8
        said = verdict(d, 1.0, NAMES, ACCURACY, Rule(comparisons=comparisons))
        named = re.search(r"about ([\d,]+) seeds", said)
        assert (named is not None) == (needed is not None)
        assert named is None or int(named[1].replace(",", "")) == needed > d.seeds

    def test_no_number_where_there_is_none(self) -> None:
        d = Difference(1e-9, -1.0, 1.0, 0.9, 10, "paired t", 1.0, 0.9)
        assert more_seeds(d, Rule()) is None
        assert "seeds would" not in verdict(d, 0.9, NAMES, ACCURACY)

    @pytest.mark.parametrize("test", [paired, unpaired])
    def test_which_is_a_and_which_is_b_changes_the_sign_alone(self, test) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.random((2, 9))
        there, back = test(a, b), test(b, a)
        assert (back.estimate, back.low, back.p) == pytest.approx(
            (-there.estimate, -there.high, there.p)
        )
