"""What a page shows of one folder, but for its samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
Kind = Literal["run", "evaluation", "samples"]
"""Which command made a folder."""


@dataclass(frozen=True)
class Measure:
    """A rate with its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Setting:
    """A setting as it was resolved."""

    key: str
    value: Any
    default: Any
    help: str = ""

    @property
    def changed(self) -> bool:
        return bool(self.value != self.default)


@dataclass(frozen=True)
class View:
    """What is known of one folder.

    Attributes:
        name, folder: Its name, and its path for a person to read.
        kind: What made it.
        progress: How far it has come (`reporting.progress_file`); empty where nothing tells.
        metrics, evaluations, alarms: The rows of its files.
        before, after: The evaluations that it is judged by.
        gain, reward_gain: Accuracy and mean reward after minus before, paired.
        left_out: Prompts that neither counts: without a score before or after.
        tested: False where the checkpoint was chosen by those very prompts.
        phases: For each phase its name and its last step.
        again: The command that repeats it.
        damaged: Files that cannot be read.
    """

    name: str
    folder: str
    kind: Kind
    progress: Row = field(default_factory=dict)
    metrics: Sequence[Row] = ()
    evaluations: Sequence[Row] = ()
    alarms: Sequence[Row] = ()
    before: Row | None = None
    after: Row | None = None
    gain: Measure | None = None
    reward_gain: Measure | None = None
    left_out: int = 0
    tested: bool = True
    phases: Sequence[tuple[str, int]] = ()
    settings: Sequence[Setting] = ()
    environment: Row = field(default_factory=dict)
    again: str = ""
    damaged: Sequence[str] = ()


def graded(view: View) -> bool:
    """Whether mean rewards are not the accuracies: some reward is neither 0 nor 1."""
    rows = [row for row in (view.before, view.after) if row is not None]
    pairs = [(row.get("accuracy"), row.get("reward")) for row in rows]
    return any(a is not None and b is not None and abs(a - b) > 1e-9 for a, b in pairs)


def finite(value: Any) -> Any:
    """The same without numbers that JSON does not have, which no file of ours holds."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as columns; a table within a row becomes columns of its own, `table/key`.

    A value that a row does not have is ``None``.
    """
    made: dict[str, list[Any]] = {}
    for place, row in enumerate(rows):
        for key, value in row.items():
            inner = value.items() if isinstance(value, Mapping) else ((None, value),)
            for name, found in inner:
                one = finite(found)
                column = made.setdefault(key if name is None else f"{key}/{name}", [])
                column += [None] * (place - len(column)) + [one]
    for column in made.values():
        column += [None] * (len(rows) - len(column))
    return made
