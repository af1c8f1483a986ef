"""Several rewards as one, and the penalty for length: by the formulas, written out here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import pytest

from winnow.errors import UserError
from winnow.rewards.base import SampleReward, scores_of
from winnow.rewards.in_process import InProcessReward
from winnow.rewards.length import LengthPenalty, overlong
from winnow.rewards.several import Part, WeightedSum
from winnow.rollouts.reward_errors import failures, probe
from winnow.types import Group, Prompt, Sample, Score

PROMPT = Prompt("p", "?", "7")


def of_length(length: int, text: str = "") -> Sample:
    return Sample((), (), text, "eos", length=length)


def right(prompt: Prompt, text: str) -> float:
    if text == "break":
        raise KeyError("x")
    return float(text == prompt.answer)


def polite(prompt: Prompt, text: str) -> float:
    return 0.5 if text.endswith("7") else 0.1


def two(right_by: str | None = "right") -> WeightedSum:
    parts = [
        Part("right", 1.0, InProcessReward("right", right)),
        Part("polite", 0.3, InProcessReward("polite", polite)),
    ]
    return WeightedSum(parts, right_by)


# DAPO, eq. 13, with its own numbers: L_max = 20,480, L_cache = 4,096


@pytest.mark.parametrize(
    ("length", "penalty"),
    [
        (1, Fraction(0)),
        (16_384, Fraction(0)),
        (16_385, Fraction(-1, 4096)),
        (17_408, Fraction(-1, 4)),
        (18_432, Fraction(-1, 2)),
        (20_479, Fraction(-4095, 4096)),
        (20_480, Fraction(-1)),
        (20_481, Fraction(-1)),
        (99_999, Fraction(-1)),
    ],
)
def test_the_penalty_of_the_paper(length: int, penalty: Fraction) -> None:
    (score,) = LengthPenalty(20_480).score_samples([(PROMPT, of_length(length))])
    assert score == Score(float(penalty))
    assert overlong(length, 20_480, 4_096) == float(penalty)


def test_the_penalty_against_its_three_cases() -> None:
    for most, cache in itertools.product((1, 2, 5, 16), (1, 2, 5, 16)):
        if cache > most:
            with pytest.raises(ValueError, match=f"from 1 to max, which is {most}"):
                LengthPenalty(most, cache)
            continue
        for length in range(1, 20):
            exact = Fraction(most - cache - length, cache)
            expected = 0 if exact >= 0 else max(exact, Fraction(-1))  # -1 where length is most
            assert overlong(length, most, cache) == float(expected)


def test_its_cache_is_a_fifth() -> None:
    assert 20_480 / 4_096 == 5
    scores = LengthPenalty(10).score_samples([(PROMPT, of_length(n)) for n in (8, 9, 10)])
    assert [score.value for score in scores] == [0, -0.5, -1]
    assert LengthPenalty(3).score_samples([(PROMPT, of_length(3))]) == [Score(-1.0)]


# Sums


def test_a_weighted_sum_with_what_each_gave() -> None:
    scores = two().score_samples([(PROMPT, of_length(1, text)) for text in ("7", "17", "no")])
    assert scores == [
        Score(1.15, None, (("right", 1.0), ("polite", 0.5)), 1.0),
        Score(0.15, None, (("right", 0.0), ("polite", 0.5)), 0.0),
        Score(0.03, None, (("right", 0.0), ("polite", 0.1)), 0.0),
    ]


@pytest.mark.parametrize(
    ("right_by", "right_at", "expected"),
    [
        ("right", 1.0, (True, False, False)),
        ("polite", 0.5, (True, True, False)),
        (None, 0.1, (True, True, False)),
        (None, 1.2, (False, False, False)),
    ],
)
def test_what_is_right_is_one_parts_to_say(right_by, right_at, expected) -> None:
    """0.15 for a wrong sample with a good form is never a right one by `right`."""
    samples = tuple(of_length(1, text) for text in ("7", "17", "no"))
    scores = scores_of(two(right_by), [(PROMPT, sample) for sample in samples])
    group = Group(PROMPT, (), samples, tuple(scores), right_at=right_at)
    assert group.right == expected
    assert group.kind == ("mixed" if any(expected) else "all-wrong")


def test_an_error_of_a_part_is_the_samples_and_names_the_part() -> None:
    (score,) = two().score_samples([(PROMPT, of_length(1, "break"))])
    assert score == Score(None, "part 'right': KeyError: 'x'", (("polite", 0.1),))
    assert not score.right(-1e9)


def test_the_order_of_the_parts_changes_no_bit() -> None:
    values = [0.1, 0.7, -1e-17, 1e16, 0.3, -1e16]

    def made(order: Sequence[int]) -> float | None:
        parts = [
            Part(str(i), 0.1 * (i + 1), InProcessReward(str(i), lambda *_, i=i: values[i]))  # type: ignore[misc]
            for i in order
        ]
        return WeightedSum(parts, None).score_samples([(PROMPT, of_length(1))])[0].value

    assert len({made(order) for order in itertools.permutations(range(6))}) == 1


def test_a_sum_that_is_not_finite_is_an_error() -> None:
    huge = [Part(name, 1e300, InProcessReward(name, lambda *_: 1e99)) for name in "ab"]
    (score,) = WeightedSum(huge, "a").score_samples([(PROMPT, of_length(1))])
    assert score.value is None
    assert "not a finite number" in (score.error or "")


def test_all_parts_are_closed() -> None:
    closed = []

    class Noted(SampleReward):
        name = "noted"

        def score_samples(self, items):
            return [Score(0.0)] * len(items)

        def close(self) -> None:
            closed.append(self)

    parts = [Part("a", 1, Noted()), Part("b", 1, Noted())]
    WeightedSum(parts, None).close()
    assert closed == [part.reward for part in parts]


# What is said of them


def test_errors_are_counted_by_part_and_kind() -> None:
    errors = ["part 'a': KeyError: 1 (f.py:3)", "part 'b': KeyError: 1 (f.py:3)"]
    errors += ["part 'b': KeyError: 2 (f.py:3)"]
    said = failures(errors, 9) or ""
    assert said.startswith(
        "part 'b': KeyError: 1 (f.py:3): the reward failed on 3 of 9 samples, on 2"
    )
    assert "a prompt has id, text" in said


def test_each_part_is_tried_before_a_run() -> None:
    probe(two(), PROMPT)
    broken = WeightedSum(
        [*two().parts, Part("odd", 0.0, InProcessReward("odd", lambda *_: None))],  # type: ignore[arg-type,return-value]
        "right",
    )
    with pytest.raises(UserError, match="part 'odd': the verifier returned None"):
        probe(broken, PROMPT)


@pytest.mark.parametrize(("weight", "values"), [(1e208, (1e100, 1e100)), (1e300, (1e100, -1e100))])
def test_a_sum_that_no_number_holds_is_an_error_of_the_sample(
    weight: float, values: tuple[float, float]
) -> None:
    parts = [
        Part(f"p{i}", weight, InProcessReward(f"p{i}", lambda *_, value=value: value))
        for i, value in enumerate(values)
    ]
    (score,) = scores_of(WeightedSum(parts, None), [(PROMPT, Sample((), (), "x", "eos", length=1))])
    assert score.value is None
    assert score.error is not None
    assert "larger than any number" in score.error
