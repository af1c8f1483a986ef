import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import group
from winnow.selection import (
    RULES,
    Best,
    Correct,
    Distinct,
    DropAllRight,
    DropAllWrong,
    Everything,
    Mixed,
    reasoning_path,
    select,
)

rewards = st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=8)


def kept(scored, *rules, seed=0):
    return [v.kept for v in select(scored, rules, np.random.default_rng(seed)).verdicts]


def reasons(scored, *rules):
    return [v.reason for v in select(scored, rules, np.random.default_rng(0)).verdicts]


def test_each_rule_on_a_mixed_group():
    mixed = group([1, 0, 1, None])
    assert kept(mixed, Everything()) == [True, True, True, False]
    assert kept(mixed, Correct()) == [True, False, True, False]
    assert kept(mixed, Mixed()) == [True, True, True, False]
    assert reasons(mixed, Correct()) == ["kept", "wrong", "kept", "verifier error: broken"]


@pytest.mark.parametrize(
    ("scores", "all_wrong", "all_right"),
    [([0, 0], True, False), ([1, 1], False, True), ([0, 1], False, False)],
)
def test_whole_groups_are_dropped_by_what_they_have_in_common(scores, all_wrong, all_right):
    assert any(kept(group(scores), DropAllWrong())) is not all_wrong
    assert any(kept(group(scores), DropAllRight())) is not all_right
    assert any(kept(group(scores), Mixed())) is not (all_wrong or all_right)


def test_an_error_does_not_make_a_group_mixed():
    """One right draw and one broken verdict: nothing wrong was seen."""
    assert not any(kept(group([1.0, None]), Mixed()))


def test_best_keeps_the_highest_and_breaks_ties_by_lot():
    assert kept(group([0.1, 0.9, 0.5]), Best(2)) == [False, True, True]
    first = [kept(group([1.0] * 4), Best(1), seed=s).index(True) for s in range(400)]
    # 400 draws of a fair four-sided die: each side 100 +- 8.7; 5 sigma is 43
    assert all(57 < first.count(side) < 143 for side in range(4))


def test_best_looks_only_at_what_is_left():
    """The best right answer, not the best answer: the rules compose."""
    assert kept(group([0.0, 0.0]), Correct(), Best(1)) == [False, False]
    assert kept(group([0.0, 1.0, 1.0]), Correct(), Best(1)).count(True) == 1


def test_distinct_keeps_the_first_of_each_path():
    same = group([1, 1, 1], texts=["<<2+3=5>>5", "so <<2+3=5>>5!", "<<3+2=5>>5"])
    assert kept(same, Distinct()) == [True, False, True]
    assert reasons(same, Distinct())[1] == "same path as draw 0"


def test_distinct_after_correct_is_not_shadowed_by_a_wrong_draw():
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
    ],
)
def test_paths_are_lists_of_normalised_equations(one, other, same):
    assert (reasoning_path(one) == reasoning_path(other)) is same


@given(rewards)
def test_a_draw_without_a_verdict_never_survives(scores):
    for rule in RULES.values():
        verdicts = kept(group(scores), rule())
        assert not any(k for k, score in zip(verdicts, scores, strict=True) if score is None)


@given(rewards)
def test_more_rules_never_keep_more(scores):
    scored = group(scores)
    both = kept(scored, Correct(), Distinct())
    assert all(one or not two for one, two in zip(kept(scored, Correct()), both, strict=True))


@pytest.mark.parametrize("tail", ["-" * 5000, "- " * 3000, "1" * 20_000, "(" * 5000, "1+" * 5000])
def test_a_path_is_found_in_linear_time(tail):
    """A rule under a number once took twice as long for each further dash: this did not end."""
    assert reasoning_path("Step 1\n" + tail)
