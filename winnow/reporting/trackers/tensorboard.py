"""TensorBoard: event files in the run folder, written with TensorBoard's own library alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from winnow.reporting.events import Alarm, RunEnd, RunStart
from winnow.reporting.trackers.base import FOLDER, Record, Tracker
from winnow.reporting.trackers.rows import Row, flat
from winnow.storage.paths import shown

_MARKED = {character: f"&#{ord(character)};" for character in "\\`*_[]()#|<>&~!:"}
"""What Markdown or HTML would read as theirs, as it is written to be shown."""


class TensorBoard(Tracker):
    """Event files; TensorBoard shows numbers as 32-bit floats."""

    name = "tensorboard"
    forgets = True

    def begin(self, start: RunStart, record: Record, *, new: bool) -> str:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = start.folder / FOLDER / self.name
        self._writer = EventFileWriter(str(folder))
        self._forget(0 if new or start.first_step == 1 else start.first_step)
        if new:
            settings = flat(start.settings, ".")
            self.table(0, "settings", ("setting", "value"), [*map(_written, settings.items())])
            self._add(0, summary=hparams_pb(dict(map(_plain, settings.items()))))
        return f"look at it with: tensorboard --logdir {shown(folder)}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step, summary=Summary(value=found))
        self._writer.flush()

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(step, summary=text_pb(name, markdown(columns, rows)))

    def alert(self, alarm: Alarm) -> None:
        """It has none: an alarm is a number and a note."""

    def finish(self, end: RunEnd, step: int, result: Mapping[str, float]) -> None:
        self.scalars(step, result)
        self._writer.close()

    def _forget(self, step: int) -> None:
        """Have TensorBoard drop what earlier files have from a step on.

        It does so at the second such mark and those after it: the first one is a run's beginning.
        """
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self._add(step, session_log=SessionLog(status=SessionLog.START))

    def _add(self, step: int, **what: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, **what))


def markdown(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A table in Markdown that shows each cell as it is, line breaks included."""
    lines = [[*columns], ["---"] * len(columns), *([*map(_cell, row)] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    text = "".join(_MARKED.get(character, character) for character in str(value))
    return "<br>".join(text.splitlines())


def _written(setting: tuple[str, Any]) -> Row:
    return setting[0], str(setting[1])


def _plain(setting: tuple[str, Any]) -> tuple[str, bool | float | str]:
    name, value = setting
    return name, value if isinstance(value, bool | int | float | str) else str(value)
