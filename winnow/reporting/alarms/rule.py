"""What an alarm is made of: a row of table.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from winnow.reporting.alarms.history import History
from winnow.reporting.alarms.reading import Reading

Kind = Literal["share", "times", "nats", "points", "steps", "number"]


@dataclass(frozen=True)
class Says:
    """Sentences, with the reading's facts in braces.

    Attributes:
        happens: What is happening.
        matters: Why that matters.
        advice: What to try, settings by name.
    """

    happens: str
    matters: str
    advice: str


@dataclass(frozen=True)
class Rule:
    """An alarm.

    Attributes:
        measures: What its number is, also the help of its setting.
        looks_at: Keys of metrics.jsonl, of evals.jsonl with `evals.` before it, or `scores`: those
            of each prompt's samples.
        kind: How the number is printed.
        threshold: Default of its setting.
        falls: Whether it is alarming from the threshold down.
        read: What finds it in a history.
        says: Its sentences, by the variant of the reading.
    """

    name: str
    measures: str
    looks_at: tuple[str, ...]
    kind: Kind
    threshold: float
    read: Callable[[History, float], Reading | None]
    says: Mapping[str, Says]
    falls: bool = False

    def shown(self, value: float) -> str:
        """The number as it is printed."""
        return _SHOWN[self.kind](value)


_SHOWN: Mapping[Kind, Callable[[float], str]] = {
    "share": lambda value: f"{value:.0%}" if value >= 0.01 or value <= 0 else f"{value:.2%}",
    "times": lambda value: f"{value:.3g} times",
    "nats": lambda value: f"{value:.3g} nats",
    "points": lambda value: f"{100 * value:.1f} points",
    "steps": lambda value: f"{value:.0f}",
    "number": lambda value: f"{value:.3g}",
}
