"""Votes: which samples of a prompt give the same answer, and which answer wins.

Numbers are compared exactly, as fractions; formulas as mathematics, by math-verify, in processes
that are killed when they hang; or texts as texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from winnow.algorithms.dedup import folded
from winnow.rewards import answer_extraction, formulas
from winnow.rewards.base import Reward
from winnow.theory.ties import levels
from winnow.types import Group, Prompt

Answers = Literal["number", "math", "text"]
Labels = list[int | None]
"""For each sample of a group the number of its answer; ``None`` where it gives none: no vote."""


@dataclass
class Ballots:
    """The labels of all groups.

    Attributes:
        labels: For each group, for each sample.
        failed: Comparisons that failed; their answers count as different.
    """

    labels: list[Labels]
    failed: int = 0


def ballots(groups: Sequence[Group], answers: Answers, equal: Reward | None = None) -> Ballots:
    r"""The labels of every sample: equal answers to a prompt have the same label.

    Args:
        answers: `number`: what the `gsm8k` reward reads: the number after ``####``, in
            ``\boxed{}``, or last in the text; a box that holds no number votes for its text.
            `math`: what the `math` reward reads. `text`: the whole text, case and white space
            aside.
        equal: The `math` verifier; needed for `math`.
    """
    if answers == "text":
        return Ballots([_numbered([folded(s.text) for s in g.samples]) for g in groups])
    if answers == "number":
        return Ballots(
            [_numbered([answer_extraction.label(s.text) for s in g.samples]) for g in groups]
        )
    assert equal is not None
    made = Ballots([])
    for group in groups:
        made.labels.append(_formulas([sample.text for sample in group.samples], equal, made))
    return made


def _numbered(keys: Sequence[object | None]) -> Labels:
    numbers: dict[object, int] = {}
    return [None if key is None else numbers.setdefault(key, len(numbers)) for key in keys]


def _formulas(texts: Sequence[str], equal: Reward, made: Ballots) -> Labels:
    """Labels of answers of which some are formulas.

    Two numbers are compared exactly. A formula has the label of the first number or formula that it
    equals, in sorted order, so that the order of the samples does not matter. One that cannot be
    compared with itself (it cannot be read, or takes for ever) is compared with no other.
    """
    keys = [_answer(text) for text in texts]
    numbers = sorted({key for key in keys if isinstance(key, Fraction)})
    formulas = sorted({key for key in keys if isinstance(key, str)})
    same: dict[object, Fraction | str] = {number: number for number in numbers}
    known: list[Fraction | str] = [*numbers]
    readable = equal.score([_question(f, f) for f in formulas]) if formulas else []
    for formula, score in zip(formulas, readable, strict=True):
        same[formula] = formula
        if score.value is None:
            made.failed += 1
            continue
        same[formula] = _same(formula, known, equal, made)
        if same[formula] == formula:
            known.append(formula)
    return _numbered([None if key is None else same[key] for key in keys])


def _answer(text: str) -> Fraction | str | None:
    """What the `math` reward reads: a number or a formula."""
    formula = formulas.answer_formula(text, bare_words=False)
    if formula is None:
        return None
    number, percentage = formulas.number_of(formula) or (None, False)
    return formula if number is None or percentage else number


def _same(
    formula: str, known: Sequence[Fraction | str], equal: Reward, made: Ballots
) -> Fraction | str:
    """What a formula equals; itself if nothing."""
    items = [_question(formula, other) for other in known]
    for other, score in zip(known, equal.score(items) if items else (), strict=True):
        if score.value is None:
            made.failed += 1
        elif score.value >= 1:
            return other
    return formula


def _question(formula: str, other: Fraction | str) -> tuple[Prompt, str]:
    """The question to the verifier whether a formula equals another answer."""
    return Prompt("vote", "", answer=str(other)), f"\\boxed{{{formula}}}"


def winner(labels: Labels, weights: Sequence[float], random: Callable[[], float]) -> int | None:
    """One of the samples of most weight among those whose label has most votes.

    Ties are broken at random, between labels and then between the samples of one: a verifier may
    score equal answers differently, and the first is no better than another. ``None`` where no
    sample has a vote.

    Args:
        random: A uniform number from 0 to 1, asked for once.
    """
    votes: dict[int, float] = {}
    for label, weight in zip(labels, weights, strict=True):
        if label is not None and weight > 0:
            votes[label] = votes.get(label, 0.0) + weight
    if not votes:
        return None
    top = max(votes.values())
    tied = [label for label, total in votes.items() if total >= top * (1 - 1e-12)]
    place = random() * len(tied)
    members = [i for i, label in enumerate(labels) if label == tied[int(place)]]
    rank = levels([weights[i] for i in members])
    heaviest = [i for i, level in zip(members, rank.tolist(), strict=True) if level == 0]
    return heaviest[int(place % 1 * len(heaviest))]  # the rest of a uniform number is one too
