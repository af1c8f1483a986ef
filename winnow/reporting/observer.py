"""The interface of reporters, and one that is silent; that of a terminal is in `console.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from winnow.reporting.metrics import Evaluation, Metrics


class Reporter(Protocol):
    """Is told of everything in a run as it happens."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """A stage has done so many of so many."""
        ...

    def note(self, text: str) -> None:
        """Something a person should know."""
        ...

    def step(self, metrics: Metrics) -> None:
        """A step is over; its row of metrics.jsonl."""
        ...

    def evaluation(self, result: Evaluation) -> None:
        """The held-out prompts were evaluated."""
        ...


class Silent:
    """Ignores everything."""

    def progress(self, stage: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def step(self, metrics: Metrics) -> None: ...

    def evaluation(self, result: Evaluation) -> None: ...


Progress = Callable[[str, int, int], None]
"""(stage, done, of how many)."""
