"""Says in the folder of a run what it is doing, for those who watch it from another process.

    progress.json   {"status": "running", "step": 3, "steps": 30, "says": "step 4/30: sampling"}

It is rewritten at most once a second, and lost without harm: nothing resumes from it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from winnow.reporting.events import RunEnd, RunStart, StageProgress, StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer
from winnow.reporting.standing import Standing
from winnow.storage.lock import written_to

PROGRESS = "progress.json"
_EVERY = 1.0
"""Seconds."""


class ProgressFile(Observer):
    """Writes that file while a run goes on.

    Args:
        clock: Seconds, from whatever moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._standing = Standing(clock)
        self._folder: Path | None = None
        self._step = self._last = 0
        self._written = float("-inf")

    def on_start(self, start: RunStart) -> None:
        self._folder, self._last = start.folder, start.last_step
        self._step = max(start.first_step - 1, 0)
        self._standing.begin(start)
        self._tell()

    def on_progress(self, progress: StageProgress) -> None:
        self._standing.at(progress)
        if self._clock() - self._written >= _EVERY:
            self._tell()

    def on_step(self, step: StepEnd) -> None:
        self._step = step.step
        self._standing.step(step)
        self._tell()

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._standing.evaluated(evaluation)
        self._tell()

    def on_end(self, end: RunEnd) -> None:
        self._tell(end.status, end.error)

    def _tell(self, status: str = "running", error: str = "") -> None:
        if self._folder is None or not self._folder.is_dir():
            return  # of a new run: it is made when its model is loaded
        says = self._standing.line() if status == "running" else ""
        told = {"status": status, "step": self._step, "steps": self._last, "says": says}
        path = self._folder / PROGRESS
        partial = path.with_name(f".{PROGRESS}.partial")
        with suppress(OSError):  # a full disk is told by what the run resumes from
            try:
                partial.write_text(json.dumps({**told, "error": error}) + "\n", encoding="utf-8")
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        self._written = self._clock()


def progress_of(folder: Path) -> dict[str, Any]:
    """What the file of a folder says; `cut short` if what wrote it is gone; empty where none is."""
    try:
        told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(told, dict):
        return {}
    if told.get("status") == "running" and not written_to(folder):
        told["status"], told["says"] = "cut short", ""
    return told
