"""Weights & Biases: offline unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from winnow.reporting.events import Alarm, RunEnd, RunStart, StageProgress
from winnow.reporting.trackers.base import FOLDER, PROJECT, Record, Tracker
from winnow.reporting.trackers.rows import Row
from winnow.storage.paths import shown

_LONGEST_TITLE = 63
_AFTER = ("checkpoint", "sample", "update")
"""Stages that begin when all is said of the step before."""
_FLUSHED = 1.0
"""Seconds after which offline data is on the disk: a kill costs the rest."""


class Wandb(Tracker):
    """A run of Weights & Biases. Its steps can only rise, and are those of the training."""

    name = "wandb"

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__(note)
        self._last = 0
        self._open = False  # whether the row of the last step may get more, and is not sent yet

    def begin(self, start: RunStart, record: Record, *, new: bool) -> str:
        import wandb

        if new:
            record.project = os.environ.get("WANDB_PROJECT") or PROJECT
            record.name = os.environ.get("WANDB_NAME") or record.name
        # What is logged in is not asked: a prompt for a key would hold a run up.
        mode: Any = os.environ.get("WANDB_MODE") or "offline"
        wandb.setup(wandb.Settings(mode=mode))  # else wandb itself reports to its makers
        self._run: Any = wandb.init(
            project=record.project,
            name=record.name,
            id=record.id,
            resume="allow",
            mode=mode,
            dir=os.environ.get("WANDB_DIR") or start.folder / FOLDER,
            config=dict(start.settings),
            allow_val_change=True,
            reinit="create_new",  # the user's own run, if there is one, stays as it is
            settings=wandb.Settings(
                console="off", silent=True, x_transaction_log_flush_interval=_FLUSHED
            ),
        )
        self._last = 1 + max(record.told.values(), default=-1)
        if self._run.offline:
            return f"offline; to upload it: wandb sync {shown(Path(self._run.settings.wandb_dir))}"
        return str(self._run.url)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)
        self._open = True  # for alarms; notes alone, of steps that were told before, send nothing

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        import wandb

        self._log(step, {name: wandb.Table(columns=[*columns], data=[[*row] for row in rows])})

    def alert(self, alarm: Alarm) -> None:
        text = f"{alarm.text} {alarm.advice}".rstrip()
        self._run.alert(f"alarm {alarm.name}"[:_LONGEST_TITLE], text, level="WARN")

    def finish(self, end: RunEnd, step: int, result: Mapping[str, float]) -> None:
        self._run.summary.update({"result/status": end.status, **result})
        self._run.finish(exit_code=0 if end.status == "done" else 1)

    def on_progress(self, progress: StageProgress) -> None:
        if self._open and progress.stage in _AFTER:
            self._open = False
            self._run.log({}, step=self._last, commit=True)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self._last = max(self._last, step)
        self._run.log(dict(values), step=self._last)
