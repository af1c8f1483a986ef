"""Selection rules: which samples survive, and why. Pure.

A rule reads a group and gives for each sample still alive a reason to reject it, or ``None``. Rules
compose: each sees only what the ones before it left, and the first reason is the one recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from winnow.algorithms.dedup import first_of_each, folded, reasoning_path
from winnow.algorithms.own import own_code
from winnow.algorithms.spec import Cell, show
from winnow.errors import OwnCodeError
from winnow.theory.checks import Array
from winnow.theory.ties import all_equal, levels
from winnow.types import Group, Outcome

Index = NDArray[np.int64]

SURVIVED = "survived"


Reasons = list[str | None]
"""For each sample of a group the reason to reject it, ``None`` to let it pass."""


class Rule(Cell):
    """A selection rule of the table; a user's function becomes one with these defaults."""

    declares: ClassVar[Mapping[str, Sequence[str]]] = {
        "reads": ("text", "tokens", "finish_reason", "prompt")
    }
    reads: ClassVar[frozenset[str]] = frozenset({"text", "tokens"})
    """Which of `text`, `tokens` (their number), `finish_reason` and `prompt` (more than its id) it
    looks at: a file is read for no more, and must have them."""
    group_rule: ClassVar[bool] = False
    """Whether it means nothing with one sample a prompt."""
    blind: ClassVar[bool] = False
    """Whether it looks at no text, length or score: its survivors have the same distribution."""
    right_alone: ClassVar[bool] = False
    """Whether of a reward it looks at no more than whether it is right."""
    pairs: ClassVar[bool] = False
    """Whether it leaves a pair of each group: a better and a worse sample."""
    leaves_one: ClassVar[bool] = False
    """Whether it never rejects all samples of a group that are still alive."""

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        """The reason to reject each sample. That of one no longer alive is not read."""
        raise NotImplementedError


class ScoreRule(Rule):
    """A rule that looks only at a sample's score and its earlier outcome."""

    reads = frozenset()


Rejection = tuple[int, str] | None
"""Why a sample was rejected: the number of the rule (-1: it had no score) and its reason."""


def first_rejections(group: Group, rules: Sequence[Rule], rng: Generator) -> list[Rejection]:
    """For each sample of a scored group the first rule that rejected it, ``None`` if none did.

    A sample without a score never survives, whatever the rules.

    Raises:
        OwnCodeError: a user's rule that raises, or returns too few or too many reasons, or no
            reasons.
    """
    rejections: list[Rejection] = [
        None if score.error is None else (-1, f"verifier error: {score.error}")
        for score in group.scores
    ]
    for number, rule in enumerate(rules):
        with own_code(rule, "rule"):
            reasons = rule(group, [rejection is None for rejection in rejections], rng)
        if not _are_reasons(reasons):
            problem = f"it returned {reasons!r:.60}, not reasons"
            raise OwnCodeError(show(rule), problem, "return a list: for each sample a str or None")
        if len(reasons) != len(rejections):
            problem = f"{len(reasons)} outcomes for {len(rejections)} samples"
            raise OwnCodeError(show(rule), problem, "return one for each sample")
        for place, reason in enumerate(reasons):
            if rejections[place] is None and reason is not None:
                rejections[place] = (number, reason)
    return rejections


def _are_reasons(given: object) -> bool:
    """Whether a user's rule returned a list, tuple or array of texts and None."""
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        return False
    return all(reason is None or isinstance(reason, str) for reason in given)


def select(group: Group, rules: Sequence[Rule], rng: Generator) -> Group:
    """The group with an outcome for each sample."""
    return with_rejections(group, first_rejections(group, rules, rng))


def with_rejections(group: Group, rejections: Sequence[Rejection]) -> Group:
    """The group with these rejections as outcomes."""
    return group.with_(
        outcomes=tuple(
            Outcome(rejection is None, SURVIVED if rejection is None else rejection[1])
            for rejection in rejections
        )
    )


def columns_read(rules: Sequence[Rule]) -> frozenset[str]:
    """Which of `text`, `tokens` (their number), `finish_reason` and `prompt` the rules look at."""
    return frozenset().union(*(rule.reads for rule in rules))


@dataclass(frozen=True)
class Everything(ScoreRule):
    """Every sample survives."""

    cell = "everything"
    right_alone = leaves_one = True
    blind = True

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return [None] * len(alive)


@dataclass(frozen=True)
class AsRecorded(ScoreRule):
    """Samples survive if they did when their file was made."""

    cell = "as-recorded"
    right_alone = True

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        if not group.outcomes:
            return [None] * len(alive)
        return [None if outcome.survived else outcome.reason for outcome in group.outcomes]


@dataclass(frozen=True)
class Correct(ScoreRule):
    """Right samples survive: score >= ``right_at``. RFT; RAFT as run in 2504.11343."""

    cell = "correct"
    right_alone = True

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return [None if right else "wrong" for right in group.right]


@dataclass(frozen=True)
class Best(ScoreRule):
    """The k best of the samples still alive survive, ties at random: RAFT (2304.06767), k = 1.

    The best of a hopeless group survives too, unless ``correct`` stands before it.
    """

    k: int = 1
    cell = "best"
    leaves_one = True

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError("k must be at least 1")

    def keeps_all(self, n: int) -> bool:
        """Whether it keeps n samples of a prompt, whatever their rewards."""
        return n <= self.k

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        living, level = _ranked(group, alive)
        rank = np.full(len(alive), len(alive))
        rank[living] = level
        order = np.lexsort((rng.random(len(rank)), rank))  # by value, then at random
        chosen = set(order[: self.k].tolist())
        return [None if i in chosen else f"not among the best {self.k}" for i in range(len(rank))]


@dataclass(frozen=True)
class Distinct(Rule):
    """One survivor for each distinct reasoning path: RFT (2308.01825). The first is kept."""

    cell = "distinct"
    right_alone = leaves_one = True
    reads = frozenset({"text"})

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return first_of_each(group, alive, reasoning_path, "path")


@dataclass(frozen=True)
class DistinctText(Rule):
    """One survivor for each distinct text, case and white space aside. The first is kept."""

    cell = "distinct-text"
    right_alone = leaves_one = True
    reads = frozenset({"text"})

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return first_of_each(group, alive, folded, "text")


@dataclass(frozen=True)
class BestWorst(ScoreRule):
    """The best and the worst of the samples still alive survive, ties broken at random: a pair.

    A group whose scores are all equal, but for rounding (`theory.ties`), has no pair.
    """

    cell = "best-worst"
    group_rule = True
    pairs = True

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        pair = best_and_worst(group, alive, alive, rng)
        if pair is None:
            return ["no pair: all equal"] * len(alive)
        return [None if i in pair else "neither best nor worst" for i in range(len(alive))]


def best_and_worst(
    group: Group, better: Sequence[bool], worse: Sequence[bool], rng: Generator
) -> tuple[int, int] | None:
    """Numbers of the best of some samples and of the worst of others, or of the same: a pair.

    Ties are broken at random. ``None`` where the best is not above the worst by more than rounding
    (`theory.ties`), or there is none with a score.
    """
    either = np.array(better, dtype=bool) | np.array(worse, dtype=bool)
    living, level = _ranked(group, either.tolist())
    ties = rng.random(len(either))[living]
    values = np.array([group.scores[i].value for i in living.tolist()], dtype=np.float64)
    above = np.flatnonzero(np.array(better, dtype=bool)[living])
    below = np.flatnonzero(np.array(worse, dtype=bool)[living])
    if not (above.size and below.size):
        return None
    best = above[_first(ties[above], level[above])]
    worst = below[_first(ties[below], -level[below])]
    if all_equal(values[[best, worst]], group.right_at):  # levels that all but touch
        best, worst = above[values[above].argmax()], below[values[below].argmin()]
    if values[best] < values[worst] or all_equal(values[[best, worst]], group.right_at):
        return None
    return int(living[best]), int(living[worst])


def _ranked(group: Group, alive: Sequence[bool]) -> tuple[Index, Index]:
    """Numbers of the samples still alive that have a score, and the level of each, 0 the best."""
    living = np.flatnonzero(np.array(alive, dtype=bool) & np.array(group.valid, dtype=bool))
    values = [group.scores[i].value for i in living.tolist()]
    return living, levels(np.array(values, dtype=np.float64), group.right_at)


def _first(ties: Array, keys: Index) -> int:
    """The place of the smallest key, of equal ones that of the smallest tie."""
    return int(np.lexsort((ties, keys))[0])


def _whole_group(group: Group, kind: str, reason: str) -> Reasons:
    return [reason if group.kind == kind else None] * len(group.samples)


@dataclass(frozen=True)
class DropAllWrong(ScoreRule):
    """Groups without a right sample are dropped."""

    cell = "drop-all-wrong"
    right_alone = True

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return _whole_group(group, "all-wrong", "all wrong")


@dataclass(frozen=True)
class DropAllRight(ScoreRule):
    """Groups without a wrong sample are dropped."""

    cell = "drop-all-right"
    right_alone = True

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return _whole_group(group, "all-right", "all right")


@dataclass(frozen=True)
class Mixed(ScoreRule):
    """Only groups with right and wrong samples survive: Reinforce-Rej (2504.11343).

    By `reward`, groups whose rewards are not all equal (`theory.ties`), wherever ``right_at`` lies:
    those that a baseline within the group learns from, as DAPO asks for (2503.14476, section 3.2).
    """

    by: Literal["right", "reward"] = "right"
    cell = "mixed"
    seldom = frozenset({"by"})
    group_rule = True

    def __post_init__(self) -> None:
        if self.by not in ("right", "reward"):
            raise ValueError("by must be right or reward")

    @property
    def right_alone(self) -> bool:  # type: ignore[override]
        return self.by == "right"

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        if self.by == "reward":
            same = all_equal(group.values, group.right_at)
            return ["all equal" if same else None] * len(alive)
        wrong = _whole_group(group, "all-wrong", "all wrong")
        right = _whole_group(group, "all-right", "all right")
        return [a or b for a, b in zip(wrong, right, strict=True)]


@dataclass(frozen=True)
class Length(Rule):
    """Samples of `low` to `high` tokens survive, the end-of-sequence token included."""

    low: int = 1
    high: int = 2**31
    cell = "length"
    right_alone = True
    reads = frozenset({"tokens"})

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ValueError("needs 1 <= low <= high")

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return [
            "too short" if s.length < self.low else "too long" if s.length > self.high else None
            for s in group.samples
        ]


@dataclass(frozen=True)
class Finished(Rule):
    """Samples survive that ended by themselves, not at the limit of tokens.

    What is cut off may be scored right by chance, and teaches not to end.
    """

    cell = "finished"
    right_alone = True
    reads = frozenset({"finish_reason"})

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return ["cut off" if s.finish_reason == "length" else None for s in group.samples]


@dataclass(frozen=True)
class Band(ScoreRule):
    """Prompts survive whose success rate, over all their valid samples, is from `low` to `high`.

    The rate is estimated from the very samples that then survive or not: with few samples a prompt,
    a narrow band keeps the lucky.
    """

    low: float = 0.0
    high: float = 1.0
    cell = "band"
    right_alone = True

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError("needs 0 <= low <= high <= 1")

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        valid = sum(group.valid)
        rate = sum(group.right) / valid if valid else 0.0
        reason = "too hard" if rate < self.low else "too easy" if rate > self.high else None
        return [reason] * len(alive)


@dataclass(frozen=True)
class AtMost(ScoreRule):
    """No more than m survivors of a prompt, chosen at random: easy prompts do not fill the set."""

    m: int
    cell = "at-most"
    right_alone = leaves_one = True
    blind = True

    def __post_init__(self) -> None:
        if self.m < 1:
            raise ValueError("m must be at least 1")

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        order = np.argsort(np.where(alive, rng.random(len(alive)), np.inf))
        chosen = set(order[: self.m].tolist())
        return [None if i in chosen else f"more than {self.m}" for i in range(len(alive))]
