"""Which draws survive, and why. Pure.

A rule reads a group and says of each draw that is still alive why it must go, or ``None``. Rules
compose: each sees only what the ones before it left, and the first reason is the one recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from winnow.cells import Cell, by_name
from winnow.types import Group, Verdict

KEPT = "kept"


class Rule(Protocol):
    """A selection rule of the table."""

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        """For each draw of the group the reason to reject it, ``None`` to let it pass.

        What is said of a draw that is no longer alive is not read.
        """
        ...


def select(group: Group, rules: Sequence[Rule], rng: np.random.Generator) -> Group:
    """The group with a verdict for each draw.

    A draw without a number from its verifier never survives, whatever the rules.
    """
    reasons: list[str | None] = [
        None if score.error is None else f"verifier error: {score.error}" for score in group.scores
    ]
    for rule in rules:
        alive = [reason is None for reason in reasons]
        said = rule(group, alive, rng)
        reasons = [old if old is not None else new for old, new in zip(reasons, said, strict=True)]
    return group.with_(verdicts=tuple(Verdict(r is None, r or KEPT) for r in reasons))


@dataclass(frozen=True)
class Everything(Cell):
    """Every draw survives."""

    cell: ClassVar[str] = "everything"
    group_rule: ClassVar[bool] = False

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        return [None] * len(alive)


@dataclass(frozen=True)
class Correct(Cell):
    """Right answers survive: score >= ``right_at``. RFT; RAFT as run in 2504.11343."""

    cell: ClassVar[str] = "correct"
    group_rule: ClassVar[bool] = False

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        return [None if right else "wrong" for right in group.right]


@dataclass(frozen=True)
class Best(Cell):
    """The k best of the draws still alive survive, ties broken at random: RAFT (2304.06767), k = 1.

    The best of a hopeless group survives too; put ``correct`` before it where that is not wanted.
    """

    k: int = 1
    cell: ClassVar[str] = "best"
    group_rule: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError("k is at least 1")

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        values = np.array([-np.inf if s.value is None else s.value for s in group.scores])
        values[~np.array(alive, dtype=bool)] = -np.inf
        order = np.lexsort((rng.random(len(values)), -values))  # by value, then by lot
        chosen = set(order[: self.k].tolist())
        return [None if i in chosen else f"not among the best {self.k}" for i in range(len(values))]


@dataclass(frozen=True)
class Distinct(Cell):
    """One survivor for each distinct reasoning path: RFT (2308.01825). The first drawn is kept."""

    cell: ClassVar[str] = "distinct"
    group_rule: ClassVar[bool] = False

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        first: dict[tuple[str, ...], int] = {}
        reasons: list[str | None] = []
        for index, (draw, lives) in enumerate(zip(group.draws, alive, strict=True)):
            if not lives:
                reasons.append(None)
                continue
            path = reasoning_path(draw.text)
            seen = first.setdefault(path, index)
            reasons.append(None if seen == index else f"same path as draw {seen}")
        return reasons


def _whole_group(group: Group, kind: str, reason: str) -> list[str | None]:
    return [reason if group.kind == kind else None] * len(group.draws)


@dataclass(frozen=True)
class DropAllWrong(Cell):
    """Groups without a right answer are dropped."""

    cell: ClassVar[str] = "drop-all-wrong"
    group_rule: ClassVar[bool] = False

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        return _whole_group(group, "all-wrong", "all wrong")


@dataclass(frozen=True)
class DropAllRight(Cell):
    """Groups without a wrong answer are dropped."""

    cell: ClassVar[str] = "drop-all-right"
    group_rule: ClassVar[bool] = False

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        return _whole_group(group, "all-right", "all right")


@dataclass(frozen=True)
class Mixed(Cell):
    """Only groups with right and wrong answers survive: Reinforce-Rej (2504.11343)."""

    cell: ClassVar[str] = "mixed"
    group_rule: ClassVar[bool] = True
    """With one draw a prompt no group is ever mixed."""

    def __call__(
        self, group: Group, alive: Sequence[bool], rng: np.random.Generator
    ) -> list[str | None]:
        wrong = _whole_group(group, "all-wrong", "all wrong")
        right = _whole_group(group, "all-right", "all right")
        return [a or b for a, b in zip(wrong, right, strict=True)]


RULES = by_name([Everything, Correct, Best, Distinct, DropAllWrong, DropAllRight, Mixed])

_CALCULATION = re.compile(r"<<([^<>]+)>>")
_NUMBER = r"[-(]*\$?\d[\d.,]*+%?\)*"
# Each repetition needs a digit, and no number starts inside another: linear in the text.
_EQUATION = re.compile(rf"(?<![\d.,]){_NUMBER}(?:\s*[-+*/x×÷]\s*{_NUMBER})+\s*=\s*-?\$?[\d.,]*\d")


def reasoning_path(text: str) -> tuple[str, ...]:
    """What makes two answers the same path: the list of equations, normalised.

    Calculator annotations (`<<16-3-4=9>>`) count first, then equations written out in the text;
    an answer without any is its own words, lower-cased, white space folded.
    """
    found = _CALCULATION.findall(text) or _EQUATION.findall(text)
    if found:
        return tuple(_normalise(equation) for equation in found)
    return ("text:" + " ".join(text.lower().split()),)


def _normalise(equation: str) -> str:
    folded = re.sub(r"[\s,$%]", "", equation).replace("×", "*").replace("÷", "/").replace("x", "*")
    folded = re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", folded)
    return re.sub(r"\.(?!\d)", "", folded)
