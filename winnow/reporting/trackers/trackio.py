"""Trackio: a database of its own on this machine, or wherever its environment variables say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from winnow.reporting.events import Alarm, RunEnd, RunStart
from winnow.reporting.trackers.base import PROJECT, Record, Tracker
from winnow.reporting.trackers.rows import Row

_OF_ID = 6
"""Characters of the id in the name: runs are told apart by their names."""


class Trackio(Tracker):
    """A run of Trackio, which prints what it does: that is left out of the run's own lines."""

    name = "trackio"

    def begin(self, start: RunStart, record: Record, *, new: bool) -> str:
        import trackio

        if new:
            record.project = os.environ.get("TRACKIO_PROJECT") or PROJECT
            record.name = f"{record.name}-{record.id[:_OF_ID]}"
        with redirect_stdout(StringIO()):
            self._run: Any = trackio.init(
                project=record.project,
                name=record.name,
                resume="allow",
                config=dict(start.settings),
                embed=False,
            )
        return f"run {record.name}; look at it with: trackio show --project {record.project}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        import trackio

        data = [[*row] for row in rows]
        self._run.log({name: trackio.Table(columns=[*columns], data=data)}, step=step)

    def alert(self, alarm: Alarm) -> None:
        import trackio

        with redirect_stdout(StringIO()):
            self._run.alert(
                title=f"alarm {alarm.name}",
                text=f"{alarm.text} {alarm.advice}".rstrip(),
                level=trackio.AlertLevel.WARN,
                step=alarm.step,
            )

    def finish(self, end: RunEnd, step: int, result: Mapping[str, float]) -> None:
        import trackio

        if result:
            self._run.log(dict(result), step=step)
        with redirect_stdout(StringIO()):
            trackio.finish()
