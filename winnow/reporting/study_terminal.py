"""Shows a study that is run: a line for each run in work, and one for all with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from winnow.errors import number_of
from winnow.reporting.console import Console
from winnow.reporting.forecast import duration
from winnow.reporting.progress_file import progress_of

_EVERY = 1.0
"""Seconds between looks at the runs' folders."""


class Shown:
    """Is told of a study as it is run; shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin(self, total: int, done: int, parallel: int) -> None:
        """There are so many runs, some of them done."""

    def going(self, runs: Sequence[tuple[str, Path]]) -> None:
        """These are in work, by their names and folders: often, so be quick."""

    def ended(self, name: str, said: str) -> None:
        """A run has come to its end."""

    def note(self, text: str) -> None:
        """There is something that a person should know."""


class Quiet(Shown):
    """Shows nothing."""


class StudyTerminal(Shown):
    """On standard error: live lines in a terminal, elsewhere a line for each run that ends."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[says]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._all: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}
        self._total = self._done = self._ended = 0
        self._parallel = 1
        self._begun = self._looked = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int, done: int, parallel: int) -> None:
        self._total, self._done, self._parallel = total, done, parallel
        self._begun = time.monotonic()
        self._all = self._bar.add_task("all runs", total=total, completed=done, says="")
        before = f", {done} of them done before" if done else ""
        runs = number_of(total, "run")
        self.console.print(f"{runs}{before}; {parallel} at a time", soft_wrap=True)

    def going(self, runs: Sequence[tuple[str, Path]]) -> None:
        now = time.monotonic()
        if not self.console.is_terminal or now - self._looked < _EVERY or self._all is None:
            return
        self._looked = now
        names = {name for name, _ in runs}
        for name in [name for name in self._tasks if name not in names]:
            self._bar.remove_task(self._tasks.pop(name))
        part = 0.0
        for name, folder in runs:
            told = progress_of(folder)
            step, steps = int(told.get("step", 0)), max(1, int(told.get("steps", 1)))
            part += min(1.0, step / steps)
            if name not in self._tasks:
                self._tasks[name] = self._bar.add_task(name, total=steps, says="begins")
            says = str(told.get("says") or "begins")
            self._bar.update(self._tasks[name], completed=step, total=steps, says=says)
        says = f"{self._done} of {self._total} done{self._left(part)}"
        self._bar.update(self._all, completed=self._done, says=says)

    def ended(self, name: str, said: str) -> None:
        self._done, self._ended = self._done + 1, self._ended + 1
        line = f"{name}: {said} ({self._done} of {self._total} runs{self._left(0.0)})"
        self.console.print(line, soft_wrap=True)

    def note(self, text: str) -> None:
        self.console.tell(text, style="yellow")

    def _left(self, part: float) -> str:
        """How long the rest will take, at the pace so far."""
        made, left = self._ended + part, self._total - self._done - part
        if not self._ended or left <= 0:
            return ""
        return f", {duration(left * (time.monotonic() - self._begun) / made)} left"
