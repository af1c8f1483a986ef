import re
from collections import Counter
from dataclasses import replace
from itertools import combinations
from math import exp

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from tests.build import group
from winnow.algorithms import dedup
from winnow.algorithms.advantages import Extremes, Standardised
from winnow.algorithms.dedup import reasoning_path
from winnow.algorithms.registry import RULES
from winnow.algorithms.rejection import RSO, Gibbs
from winnow.algorithms.selection import (
    AsRecorded,
    AtMost,
    Band,
    Best,
    BestWorst,
    Correct,
    Distinct,
    DistinctText,
    DropAllRight,
    DropAllWrong,
    Everything,
    Finished,
    Length,
    Mixed,
    Rule,
    columns_read,
    first_rejections,
    select,
)
from winnow.algorithms.spec import parse
from winnow.errors import UserError
from winnow.theory import rso
from winnow.types import Outcome

rewards = st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=8)

EACH = (
    Everything(),
    AsRecorded(),
    Correct(),
    Best(2),
    BestWorst(),
    Distinct(),
    DistinctText(),
    DropAllWrong(),
    DropAllRight(),
    Mixed(),
    Mixed("reward"),
    Length(2, 3),
    Finished(),
    AtMost(2),
    Band(0.2, 0.8),
    Gibbs(0.5, 1.0),
    Gibbs(2.0),
    RSO(0.5, 2),
)
"""Every rule, and one of them with either kind of bound."""

DRAW = st.tuples(
    st.sampled_from([0.0, 0.5, 1.0, None]),
    st.sampled_from(["1 + 1 = 2", "1+1 = 2", "2", "TWO", "two "]),
    st.integers(1, 4),
    st.booleans(),
)


def made(sampled):
    """A group of (reward, text, length, whether an earlier selection kept it)."""
    scores, texts, lengths, before = zip(*sampled, strict=True)
    outcomes = tuple(Outcome(kept, "survived" if kept else "of old") for kept in before)
    return group(scores, texts=texts, lengths=lengths).with_(outcomes=outcomes)


class Only(Rule):
    """A rule that lets through what it is told to."""

    def __init__(self, mask):
        self.mask = mask

    def __call__(self, group, alive, rng):
        return [None if lives else "killed" for lives in self.mask]


def kept(scored, *rules, seed=0):
    return [v.survived for v in select(scored, rules, np.random.default_rng(seed)).outcomes]


def reasons(scored, *rules):
    return [v.reason for v in select(scored, rules, np.random.default_rng(0)).outcomes]


def test_each_rule_on_a_mixed_group():
    mixed = group([1, 0, 1, None])
    assert kept(mixed, Everything()) == [True, True, True, False]
    assert kept(mixed, Correct()) == [True, False, True, False]
    assert kept(mixed, Mixed()) == [True, True, True, False]
    assert reasons(mixed, Correct()) == ["survived", "wrong", "survived", "verifier error: broken"]


@pytest.mark.parametrize(
    ("scores", "all_wrong", "all_right"),
    [([0, 0], True, False), ([1, 1], False, True), ([0, 1], False, False)],
)
def test_whole_groups_are_dropped_by_what_they_have_in_common(scores, all_wrong, all_right):
    assert any(kept(group(scores), DropAllWrong())) is not all_wrong
    assert any(kept(group(scores), DropAllRight())) is not all_right
    assert any(kept(group(scores), Mixed())) is not (all_wrong or all_right)


def test_an_error_does_not_make_a_group_mixed():
    """One right sample and one failed score: nothing wrong was seen."""
    assert not any(kept(group([1.0, None]), Mixed()))


@pytest.mark.parametrize(
    ("scores", "by_right", "by_reward"),
    [
        ([0.2, 0.7], False, True),  # graded: none is right, and one is better
        ([1.5, 1.2], False, True),  # both are right, and one is better
        ([1.0, 0.2], True, True),
        ([0.5, 0.5, None], False, False),
        ([0.3, 0.1 + 0.2], False, False),
        ([0.7, None], False, False),  # one score differs from none
    ],
)
def test_mixed_by_what_is_right_or_by_reward(scores, by_right, by_reward):
    """By reward exactly those groups stay that a baseline within the group learns from."""
    assert any(kept(group(scores), Mixed())) is by_right
    assert any(kept(group(scores), Mixed("reward"))) is by_reward
    values = np.array([score for score in scores if score is not None])
    assert Standardised()(values).any() == by_reward
    if not by_reward:
        assert "all equal" in reasons(group(scores), Mixed("reward"))


def test_mixed_as_a_recipe_writes_it():
    assert [str(Mixed()), str(Mixed("reward"))] == ["mixed", "mixed(reward)"]
    for rule in (Mixed(), Mixed("reward")):
        assert parse("select", str(rule), RULES) == rule
    with pytest.raises(UserError, match="by must be right or reward"):
        parse("select", "mixed(score)", RULES)


def test_finished_rejects_what_was_cut_off():
    """Whatever it scored; an end of sequence and a stop string are ends."""
    ended = group([1, 1, 0, 1])
    samples = zip(ended.samples, ("eos", "length", "length", "stop"), strict=True)
    ended = ended.with_(samples=tuple(replace(s, finish_reason=why) for s, why in samples))
    assert reasons(ended, Finished()) == ["survived", "cut off", "cut off", "survived"]
    assert reasons(ended, Correct(), Finished()) == ["survived", "cut off", "wrong", "survived"]


def test_best_keeps_the_highest_and_breaks_ties_by_lot():
    assert kept(group([0.1, 0.9, 0.5]), Best(2)) == [False, True, True]
    first = [kept(group([1.0] * 4), Best(1), seed=s).index(True) for s in range(400)]
    # 400 samples of a fair four-sided die: each side 100 +- 8.7; 5 sigma is 43
    assert all(57 < first.count(side) < 143 for side in range(4))


def test_best_breaks_ties_by_rounding_by_lot():
    """.1 + .2 is .3: each of three equal samples is the best one time in three."""
    scored = group([0.3, 0.1 + 0.2, 0.3, 0.0])
    first = [kept(scored, Best(1), seed=s).index(True) for s in range(300)]
    # 300 throws of a fair three-sided die: each side 100 +- 8.2; 5 sigma is 41
    assert all(59 < first.count(side) < 141 for side in range(3))


@pytest.mark.parametrize(
    "scores",
    [
        [0.3, 0.1 + 0.2, 0.3],
        [1.1015625, 1.09375, None],  # neighbours in bfloat16
        [0.0, 0.1 + 0.2 - 0.3],
        [0.5, 0.50390625],
    ],
)
def test_there_is_no_pair_in_rounding(scores):
    said = reasons(group(scores), BestWorst())
    assert {r for r, s in zip(said, scores, strict=True) if s is not None} == {"no pair: all equal"}


def test_a_pair_of_ties_by_rounding_is_any_of_them():
    scored = group([0.3, 0.1 + 0.2, 0.0, 1e-17])
    pairs = {tuple(kept(scored, BestWorst(), seed=s)) for s in range(60)}
    assert pairs == {
        (best == 0, best == 1, worst == 2, worst == 3) for best in (0, 1) for worst in (2, 3)
    }


@given(st.lists(st.integers(0, 4), min_size=2, max_size=7), st.integers(0, 99))
def test_a_pair_is_one_for_the_advantage_too(places, seed):
    """Levels may touch, in bfloat16 above all; what is kept differs all the same."""
    scored = group([1.25 + place / 128 for place in places])
    outcomes = kept(scored, BestWorst(), seed=seed)
    assert sum(outcomes) in (0, 2)
    if any(outcomes):
        best, worst = sorted(
            (s.value for s, k in zip(scored.scores, outcomes, strict=True) if k), reverse=True
        )
        assert Extremes()(np.array([best, worst])).tolist() == [1, -1]


def test_best_looks_only_at_what_is_left():
    """The best right answer, not the best answer: the rules compose."""
    assert kept(group([0.0, 0.0]), Correct(), Best(1)) == [False, False]
    assert kept(group([0.0, 1.0, 1.0]), Correct(), Best(1)).count(True) == 1


def test_distinct_keeps_the_first_of_each_path():
    same = group([1, 1, 1], texts=["<<2+3=5>>5", "so <<2+3=5>>5!", "<<3+2=5>>5"])
    assert kept(same, Distinct()) == [True, False, True]
    assert reasons(same, Distinct())[1] == "same path as sample 0"


def test_distinct_after_correct_is_not_shadowed_by_a_wrong_sample():
    same = group([0, 1], texts=["2+2=4", "2+2=4"])
    assert kept(same, Correct(), Distinct()) == [False, True]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("16 - 3 = 13, then 13*2=26", "First 16-3=13. So $13 * 2 = $26.", True),
        ("16 - 3 = 13", "16 - 4 = 12", False),
        ("3 x 4 = 12", "3*4=12", True),
        ("1,000 + 1 = 1,001", "1000+1=1001", True),
        ("2.50 + 1 = 3.5", "2.5+1=3.5", True),
        ("2.0 * 3 = 6", "2*3=6", True),
        ("(3 + 4) * 2 = 14", "(3+4)*2=14", True),
        ("3 - 1 = 2, then 10 * 2 = 20", "3-1=2 and 100*2=20", False),
        ("The answer is 7", "the  answer is 7", True),
        ("The answer is 7", "It is 7", False),
        ("I add 3 + 4", "so it is 3+4", False),  # no result: no equation
    ],
)
def test_paths_are_lists_of_normalised_equations(one, other, same):
    assert (reasoning_path(one) == reasoning_path(other)) is same


def test_each_rule_is_tried_below():
    assert {rule.cell for rule in EACH} == RULES.keys()


@pytest.mark.parametrize("rule", EACH, ids=str)
@given(scores=rewards)
def test_a_sample_without_a_score_never_survives(rule, scores):
    outcomes = kept(group(scores), rule)
    assert not any(k for k, score in zip(outcomes, scores, strict=True) if score is None)


@pytest.mark.parametrize("rule", EACH, ids=str)
@given(
    sampled=st.lists(st.tuples(DRAW, st.booleans()), min_size=1, max_size=7), seed=st.integers(0)
)
def test_nothing_is_revived_and_the_first_reason_stands(rule, sampled, seed):
    scored, mask = made([one for one, _ in sampled]), [lives for _, lives in sampled]
    rejections = first_rejections(scored, [Only(mask), rule], np.random.default_rng(seed))
    alone = first_rejections(scored, [Only(mask)], np.random.default_rng(0))
    assert [new for new, old in zip(rejections, alone, strict=True) if old] == [
        x for x in alone if x
    ]
    again = first_rejections(scored, [Only(mask), rule], np.random.default_rng(seed))
    assert rejections == again  # nothing but the generator decides


WHOLE = (AsRecorded, DropAllWrong, DropAllRight, Mixed, Band)
"""Rules that speak of all samples of a prompt, rejected or not; or of an earlier selection."""


@pytest.mark.parametrize("rule", [r for r in EACH if not isinstance(r, WHOLE)], ids=str)
@given(sampled=st.lists(st.tuples(DRAW, DRAW, st.booleans()), min_size=1, max_size=7))
def test_what_is_dead_decides_nothing(rule, sampled):
    """Other samples in the place of the rejected ones: the same samples survive."""
    mask = [lives and one[0] is not None for one, _, lives in sampled]
    others = [one if lives else other for (one, other, _), lives in zip(sampled, mask, strict=True)]
    assert kept(made([one for one, _, _ in sampled]), Only(mask), rule) == kept(
        made(others), Only(mask), rule
    )


@pytest.mark.parametrize("rule", [rule for rule in EACH if rule.leaves_one], ids=str)
@given(
    sampled=st.lists(st.tuples(DRAW, st.booleans()), min_size=1, max_size=7), seed=st.integers(0)
)
def test_one_of_those_alive_is_always_left(rule, sampled, seed):
    scored = made([one for one, _ in sampled])
    mask = [lives for _, lives in sampled]
    assert any(kept(scored, Only(mask), rule)) == any(kept(scored, Only(mask)))


def test_what_may_leave_no_sample_of_a_prompt():
    left = {"everything", "best", "distinct", "distinct-text", "at-most", "rso"}
    assert {name for name, rule in RULES.items() if rule.leaves_one is True} == left
    # u < exp(0) = 1 for the largest reward itself
    assert (Gibbs(0.5).leaves_one, Gibbs(0.5, 1.0).leaves_one) == (True, False)


def test_what_an_earlier_selection_kept():
    judged = group([0, 1, None, 1]).with_(
        outcomes=(
            Outcome(True, "survived"),
            Outcome(False, "too long"),
            Outcome(True, "survived"),
            Outcome(True, "survived"),
        )
    )
    assert reasons(judged, AsRecorded()) == [
        "survived",
        "too long",
        "verifier error: broken",
        "survived",
    ]
    assert kept(judged, AsRecorded(), Correct()) == [False, False, False, True]
    assert kept(group([0, 1]), AsRecorded()) == [True, True]


def test_distinct_text_folds_case_and_white_space_and_nothing_else():
    texts = ["It is 4", " it  is\n4 ", "It is 4.", "IT IS 4", "Itis 4"]
    assert reasons(group([1] * 5, texts=texts), DistinctText()) == [
        "survived",
        "same text as sample 0",
        "survived",
        "same text as sample 0",
        "survived",
    ]
    assert kept(group([0, 1, 1], texts=["a", "A", "a"]), Correct(), DistinctText()) == [
        False,
        True,
        False,
    ]
    sums = group([1, 1], texts=["so 1 + 1 = 2", "thus 1+1 = 2"])
    assert kept(sums, DistinctText()) == [True, True]
    assert kept(sums, Distinct()) == [True, False]


def test_lengths_by_hand():
    sizes = group([1] * 4, lengths=[1, 2, 4, 5])
    assert reasons(sizes, Length(2, 4)) == ["too short", "survived", "survived", "too long"]
    assert kept(sizes, Length()) == [True] * 4


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([1, 0, 0, 0], "survived"),  # 1/4 is within [.25, .5]
        ([1, 1, 0, 0], "survived"),  # and 1/2
        ([1, 1, 0], "too easy"),
        ([1, 0, 0, 0, 0], "too hard"),
        ([0, 0], "too hard"),
        ([1, 0, None, None], "survived"),  # 1 of 2: an error is no wrong answer
        ([1, 0, 0, 0, None], "survived"),
    ],
)
def test_a_band_of_success_rates(scores, said):
    seen = reasons(group(scores), Band(0.25, 0.5))
    assert {r for r, score in zip(seen, scores, strict=True) if score is not None} == {said}


def test_a_band_counts_the_samples_that_earlier_rules_rejected():
    assert kept(group([1, 1, 0, 0]), Correct(), Band(0.4, 0.6)) == [True, True, False, False]


def test_a_rule_of_ones_own_that_miscounts_is_told():
    with pytest.raises(
        UserError,
        match=r"^tests\.algorithms\.test_selection:Only: 1 outcomes for 2 samples; return",
    ):
        kept(group([1, 1]), Only([True]))


@pytest.mark.parametrize("returned", [None, True, "wrong", [True, False], [0, 1], {1: None}])
def test_a_rule_of_ones_own_that_returns_no_reasons_is_told(returned):
    with pytest.raises(UserError, match=r"not reasons; return a list: for each sample a str or No"):
        kept(group([1, 1]), RULES.adopt("select", lambda group, alive, rng: returned))


def test_reasons_may_come_as_an_array():
    rule = RULES.adopt("select", lambda group, alive, rng: np.array([None, "odd"], dtype=object))
    assert kept(group([1, 1]), rule) == [True, False]


def test_which_columns_rules_read():
    assert columns_read([Correct(), AtMost(2), Gibbs(1.0)]) == frozenset()
    assert columns_read([Correct(), Distinct()]) == columns_read([RSO(1.0)]) == {"text"}
    assert columns_read([Length(), DistinctText()]) == {"text", "tokens"}
    assert columns_read([Correct(), Finished()]) == {"finish_reason"}
    assert columns_read([Only([])]) == {"text", "tokens"}


class TestRandomRules:
    def test_at_most_m_are_chosen_evenly(self):
        """Of the 5 that live, 10 pairs, each as likely as another."""
        scored, rng = group([1, 0, None, 1, 0, 1]), np.random.default_rng(1)
        seen = Counter(
            tuple(
                i
                for i, rejection in enumerate(first_rejections(scored, [AtMost(2)], rng))
                if rejection is None
            )
            for _ in range(5_000)
        )
        pairs = list(combinations([0, 1, 3, 4, 5], 2))
        assert set(seen) == set(pairs)
        assert chisquare([seen[pair] for pair in pairs]).pvalue > 0.001

    @given(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=8), st.integers(1, 9))
    def test_at_most_m_are_as_many_as_there_can_be(self, scores, m):
        valid = sum(score is not None for score in scores)
        assert sum(kept(group(scores), AtMost(m))) == min(m, valid)
        said = set(reasons(group(scores), AtMost(m)))
        assert said <= {"survived", f"more than {m}", "verifier error: broken"}

    def test_gibbs_accepts_with_the_chance_that_the_theory_says(self):
        """exp((r - r_max) / beta), with r_max above all rewards and equal to the largest."""
        values, times = [1.0, 0.6, 0.0, -1.0], 5_000
        scored = group(values * times)
        for rule, bound in ((Gibbs(0.7, 1.4), 1.4), (Gibbs(0.7, 1), 1.0), (Gibbs(0.7), 1.0)):
            passed = np.reshape(kept(scored, rule, seed=2), (times, 4)).sum(axis=0)
            for value, count in zip(values, passed.tolist(), strict=True):
                chance = exp((value - bound) / 0.7)
                if chance == 1:
                    assert count == times
                else:
                    assert binomtest(count, times, chance).pvalue > 0.001
        assert set(reasons(group([0.0, -9.0]), Gibbs(0.01))) == {"survived", "rejected at random"}

    def test_the_samples_bound_is_that_of_the_samples_that_are_left(self):
        """With the best sample gone, the next best is accepted for certain."""
        scored = group([9.0, 1.0, 1.0])
        for seed in range(20):
            assert kept(scored, Only([False, True, True]), Gibbs(0.1), seed=seed) == [
                False,
                True,
                True,
            ]
        assert kept(scored, Gibbs(0.1)) == [True, False, False]  # e^-80

    def test_a_reward_above_the_bound_is_told(self):
        with pytest.raises(
            UserError,
            match=r"^gibbs\(beta=1, r_max=1\): reward 1\.5 of prompt 'p7' is abo",
        ):
            kept(group([0, 1.5], name="p7"), Gibbs(1, 1))
        assert kept(group([0.0, None]), Gibbs(1.0, 0.0)) == [True, False]
        assert kept(group([None, None]), Gibbs(1.0, -5.0)) == [False, False]

    @pytest.mark.parametrize("rule", [Gibbs, RSO])
    @pytest.mark.parametrize("beta", [0, -1.0, float("inf"), float("nan")])
    def test_a_temperature_that_is_none(self, rule, beta):
        with pytest.raises(ValueError, match="beta must be above 0 and finite"):
            rule(beta)

    @given(st.lists(DRAW, min_size=1, max_size=9), st.integers(1, 6), st.integers(0, 2**32))
    def test_rso_is_the_theorys_on_the_distinct_samples_that_live(self, sampled, k, seed):
        scored = made(sampled)
        first = {}
        for place, (value, text, _, _) in enumerate(sampled):
            if value is not None:
                first.setdefault(text, place)
        places = list(first.values())
        values = [sampled[place][0] for place in places]
        chosen = rso(np.array(values), 0.4, k, np.random.default_rng(seed))
        outcomes = kept(scored, RSO(0.4, k), seed=seed)
        assert [i for i, lives in enumerate(outcomes) if lives] == sorted(places[i] for i in chosen)
        assert sum(outcomes) == min(k, len(places))

    def test_rso_says_why(self):
        same = group([1, 0, 1], texts=["a", "b", "a"])
        said = reasons(same, RSO(0.01, 1))
        assert said == ["survived", "not among the 1 taken", "same text as sample 0"]

    def test_the_order_of_rules_counts(self):
        """One of the right samples; or one sample, if it is right."""
        half = group([0, 1])
        after = [sum(kept(half, Correct(), AtMost(1), seed=s)) for s in range(40)]
        before = [sum(kept(half, AtMost(1), Correct(), seed=s)) for s in range(40)]
        assert set(after) == {1}
        assert set(before) == {0, 1}


@given(rewards)
def test_more_rules_never_keep_more(scores):
    scored = group(scores)
    both = kept(scored, Correct(), Distinct())
    assert all(one or not two for one, two in zip(kept(scored, Correct()), both, strict=True))


NUMBER = r"[-(]*\$?\d[\d.,]*+%?\)*"
PLAIN = re.compile(rf"(?<![\d.,]){NUMBER}(?:\s*[-+*/x]\s*{NUMBER})+\s*=\s*-?\$?[\d.,]*\d")
"""An equation, said more plainly and found in quadratic time."""


@given(
    st.text("12.,+-=()x $%", max_size=25)
    | st.lists(st.sampled_from(["1", "2.5", "$", "+", "-", "=", "(", ")", " ", "= 3"])).map("".join)
)
@example("1(1x1=1")
@example("2((3+4)=7")
@example("5 - 2 of 3 + 4 = 7")
def test_every_equation_is_found(text):
    found = [match.group() for match in dedup._EQUATION.finditer(text) if match.group(1)]
    assert found == PLAIN.findall(text)


@pytest.mark.parametrize("tail", ["-" * 5000, "- " * 3000, "1" * 20_000, "(" * 5000, "1+" * 5000])
def test_a_path_is_found_in_linear_time(tail):
    """A rule under a number once took twice as long for each further dash: this did not end."""
    assert reasoning_path("Step 1\n" + tail)
