"""What a tracker is told and when, whatever its library."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar

from winnow.reporting.events import Alarm, Note, RunEnd, RunStart, SamplesScored, StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer
from winnow.reporting.trackers.rows import (
    COLUMNS,
    Row,
    cut,
    numbers,
    of_evaluation,
    of_result,
    of_samples,
)
from winnow.storage.atomic import make_folder, write_text
from winnow.storage.format import ENVIRONMENT

FOLDER = "trackers"
"""Folder of a run folder with what trackers write and know."""
PROJECT = "winnow"
_MOST_NOTES = 500


@dataclass
class Record:
    """What is known of a run in a tracker, in `trackers/NAME.json`, so that a resume continues it.

    Attributes:
        id: Of the run, for the tracker.
        project, name: Where the tracker has it.
        told: The latest step of each kind that it was told of.
    """

    id: str
    project: str
    name: str
    told: dict[str, int] = field(default_factory=dict)


class Tracker(Observer, ABC):
    """Tells a run to a tracker; what it raises is heard by `Observers`, which leaves it out.

    The tracker's run begins with the first thing that is measured, so a run that fails before
    leaves nothing behind. What was told by an earlier process is not told again, though a resumed
    run makes it again: a tracker whose steps can only rise would have it twice.

    Args:
        note: Says to a person where the tracker's data is.

    Attributes:
        name: As in the settings.
        forgets: Whether `begin` has the tracker forget what comes after the step of the resume, so
            that it is to be told again.
    """

    name: ClassVar[str]
    forgets: ClassVar[bool] = False

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._start: RunStart | None = None
        self._record: Record | None = None
        self._before: Mapping[str, int] = {}
        self._step = 0
        self._notes: list[Row] = []
        self._unsaid = False

    @abstractmethod
    def begin(self, start: RunStart, record: Record, *, new: bool) -> str:
        """Begin the run in the tracker, or continue it; `record` may be given another project.

        Args:
            new: Whether the tracker has not heard of it before: its settings are told once.

        Returns:
            Where its data is, for a person.
        """

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step."""

    @abstractmethod
    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Log a table."""

    @abstractmethod
    def alert(self, alarm: Alarm) -> None:
        """Say that something goes wrong, in the tracker's own way."""

    @abstractmethod
    def finish(self, end: RunEnd, step: int, result: Mapping[str, float]) -> None:
        """Log what the run came to, if anything, and end the tracker's run."""

    def on_start(self, start: RunStart) -> None:
        self._start, self._step = start, start.first_step - 1

    def on_samples(self, samples: SamplesScored) -> None:
        name = f"{samples.split}/completions"  # an evaluation has a number called `samples`
        if samples.split != "train" and self._is_new(name, samples.step):
            self.table(samples.step, name, COLUMNS, of_samples(samples.groups))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        if self._is_new(evaluation.split, evaluation.step):
            self.scalars(evaluation.step, of_evaluation(evaluation))
        self._say(evaluation.step)

    def on_step(self, step: StepEnd) -> None:
        if self._is_new("metrics", step.step):
            self.scalars(step.step, numbers(step.metrics))

    def on_note(self, note: Note) -> None:
        self._keep(note.text)

    def on_alarm(self, alarm: Alarm) -> None:
        if not self._is_new(f"alarms/{alarm.name}", alarm.step):
            return
        said = f"alarm {alarm.name}{' has cleared' if alarm.cleared else ''}: {alarm.text}"
        self._keep(f"{said} {alarm.advice}".rstrip())
        self.scalars(alarm.step, {f"alarms/{alarm.name}": 0 if alarm.cleared else 1})
        if not alarm.cleared:
            self.alert(alarm)
        self._say(alarm.step)

    def on_end(self, end: RunEnd) -> None:
        if self._record is None and (end.status != "done" or self._has_result()):
            return
        new = end.status == "done" and self._is_new("result", self._step)
        self._say(self._step)
        self.finish(end, self._step, of_result(end) if new else {})

    def _keep(self, text: str) -> None:
        self._notes = [*self._notes, (self._step, cut(text))][-_MOST_NOTES:]
        self._unsaid = True

    def _say(self, step: int) -> None:
        """All notes since the process began, anew: trackers show a table as it was told last."""
        if self._unsaid:
            self._unsaid = False
            self.table(max(step, self._step), "notes", ("step", "note"), self._notes)

    def _is_new(self, kind: str, step: int) -> bool:
        """Whether the tracker was not told of that yet by an earlier process.

        It is noted down before it is told: what a kill cuts off in between is missing, not twice.
        """
        record = self._record or self._begun()
        self._step = max(self._step, step)
        if step <= self._before.get(kind, -1):
            return False
        record.told[kind] = step
        self._write(record)
        return True

    def _has_result(self) -> bool:
        """Whether an earlier process has told the result of these very steps."""
        assert self._start is not None
        path = self._path(self._start)
        return path.is_file() and _read(path).told.get("result", -1) >= self._step

    def _begun(self) -> Record:
        assert self._start is not None
        path = self._path(self._start)
        new = not path.is_file()
        record = new_record(self._start.folder) if new else _read(path)
        result = {"result": record.told["result"]} if "result" in record.told else {}
        self._before = result if self.forgets else dict(record.told)
        make_folder(path.parent)
        self._record = record
        where = self.begin(self._start, record, new=new)
        self._write(record)
        self._note(f"{self.name}: {where}")
        return record

    def _write(self, record: Record) -> None:
        assert self._start is not None
        write_text(self._path(self._start), json.dumps(asdict(record), indent=2) + "\n")

    def _path(self, start: RunStart) -> Path:
        return start.folder / FOLDER / f"{self.name}.json"


def new_record(folder: Path) -> Record:
    """The record of a run that a tracker has not heard of: its id follows from path and birth."""
    born = (folder / ENVIRONMENT).stat().st_mtime_ns  # never written again
    digest = hashlib.sha256(f"{folder.absolute()} {born}".encode("utf-8", "surrogatepass"))
    return Record(digest.hexdigest()[:16], PROJECT, folder.name)


def _read(path: Path) -> Record:
    return Record(**json.loads(path.read_text(encoding="utf-8")))
