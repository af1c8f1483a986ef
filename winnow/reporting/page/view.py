"""What a page shows of one folder, but for its samples."""

from __future__ import annotations

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
        gain: Accuracy after minus before, paired.
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
    tested: bool = True
    phases: Sequence[tuple[str, int]] = ()
    settings: Sequence[Setting] = ()
    environment: Row = field(default_factory=dict)
    again: str = ""
    damaged: Sequence[str] = ()


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows as columns; a table within a row becomes columns of its own, `table/key`.

    A value that a row does not have is ``None``.
    """
    made: dict[str, list[Any]] = {}
    for place, row in enumerate(rows):
        for key, value in row.items():
            inner = value.items() if isinstance(value, Mapping) else ((None, value),)
            for name, one in inner:
                column = made.setdefault(key if name is None else f"{key}/{name}", [])
                column += [None] * (place - len(column)) + [one]
    for column in made.values():
        column += [None] * (len(rows) - len(column))
    return made
