"""Who is told of a run as it happens, and what becomes of an error in one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

from winnow.errors import Stopped, StoppedByAlarm, UserError, from_here, printable
from winnow.reporting.events import (
    Alarm,
    CheckpointSaved,
    Note,
    RunEnd,
    RunStart,
    SamplesScored,
    StageProgress,
    StepEnd,
)
from winnow.reporting.metrics import Evaluation
from winnow.storage.paths import shown
from winnow.user_code import raised

Progress = Callable[[str, int, int], None]
"""(stage, done, of how many)."""


class Observer:
    """Is told of a run as it happens; does nothing. Override what you want to hear of."""

    def on_start(self, start: RunStart) -> None:
        """A run begins or is resumed: before all other events."""

    def on_samples(self, samples: SamplesScored) -> None:
        """The samples of a step or of an evaluation are scored, and on the disk."""

    def on_step(self, step: StepEnd) -> None:
        """A step is over."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The held-out prompts were evaluated; the row of evals.jsonl is written."""

    def on_checkpoint(self, checkpoint: CheckpointSaved) -> None:
        """A checkpoint was saved."""

    def on_note(self, note: Note) -> None:
        """There is something that a person should know."""

    def on_alarm(self, alarm: Alarm) -> None:
        """Something goes wrong, or has stopped to."""

    def on_progress(self, progress: StageProgress) -> None:
        """A stage has come further: often, so be quick."""

    def on_end(self, end: RunEnd) -> None:
        """The run is over, also if it was stopped or failed: after all other events."""


class Observers(Observer):
    """All observers of a run: records, the terminal, trackers, callbacks, then what raises alarms.

    An error in a record is the run's. A terminal or a tracker that raises is left out, which is
    said once. A callback that raises is left out too, and ends the run where it next calls `check`,
    when all that it resumes from is on the disk.

    Attributes:
        records: What writes the files that a run resumes from.
        trackers: What tells experiment trackers, by their names.
        watchers: What tells `on_alarm`; told last, so that an alarm comes after what caused it.
        alarm: The first alarm that is to end the run.
        failed: What the first such callback raised, as a `UserError`.
    """

    def __init__(self, own: Sequence[Observer] = (), callbacks: Sequence[Observer] = ()) -> None:
        self.records: Sequence[Observer] = ()
        self.trackers: Mapping[str, Observer] = {}
        self.watchers: Sequence[Observer] = ()
        self.alarm: Alarm | None = None
        self.failed: UserError | None = None
        self._own, self._callbacks = own, callbacks
        self._start: RunStart | None = None
        self._ended = False

    @contextmanager
    def running(self, start: RunStart) -> Iterator[None]:
        """Tell that a run starts, and that it was cut short; that it is done, the block tells."""

        def over(status: Literal["stopped", "failed"], error: BaseException) -> None:
            self.on_end(RunEnd(start.folder, status, error=str(error) or type(error).__name__))
            if self.failed is not None and self.failed is not error:
                error.add_note(str(self.failed))

        self._start = start
        try:
            self.on_start(start)
            self.check()
            yield
        except (KeyboardInterrupt, Stopped, StoppedByAlarm) as stop:
            over("stopped", stop)
            raise
        except BaseException as error:
            over("failed", error)
            raise
        self.check()

    def done(self, end: RunEnd) -> None:
        """Tell that the run is done, unless a callback has raised."""
        self.check()
        self.on_end(end)

    @property
    def ending(self) -> bool:
        """Whether `check` will end the run."""
        return self.failed is not None or self.alarm is not None

    def check(self) -> None:
        """End the run if a callback has raised, or an alarm is to end it.

        Raises:
            UserError: names the callback, what it raised and where.
            StoppedByAlarm: names the alarm, what it says and how to go on.
        """
        if self.failed is not None:
            remedy, start, cause = "fix it or leave it out", self._start, self.failed.__cause__
            if start and start.command != "evaluate" and (start.folder / "config.toml").is_file():
                how = f"winnow.{start.command}(resume={shown(start.folder)!r})"
                remedy += f", and resume: {how}"
            self.failed = self.failed.with_(remedy=remedy)
            raise self.failed from cause
        if self.alarm is not None:
            alarm, folder = self.alarm, self._start and self._start.folder
            how = f"; all is saved; resume: winnow train --resume {shown(folder)}" if folder else ""
            text = alarm.text.rstrip(".")
            raise StoppedByAlarm(f"stopped by the alarm {alarm.name}: {text}{how}")

    def progress(self, stage: str, done: int, total: int) -> None:
        """A stage has done so many of so many."""
        self.on_progress(StageProgress(stage, done, total))

    def note(self, text: str) -> None:
        """Something that a person should know."""
        self.on_note(Note(from_here(text)))

    def on_start(self, start: RunStart) -> None:
        self._tell(lambda each: each.on_start(start))

    def on_samples(self, samples: SamplesScored) -> None:
        self._tell(lambda each: each.on_samples(samples))

    def on_step(self, step: StepEnd) -> None:
        self._tell(lambda each: each.on_step(step))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._tell(lambda each: each.on_evaluation(evaluation))

    def on_checkpoint(self, checkpoint: CheckpointSaved) -> None:
        self._tell(lambda each: each.on_checkpoint(checkpoint))

    def on_note(self, note: Note) -> None:
        self._tell(lambda each: each.on_note(note))

    def on_alarm(self, alarm: Alarm) -> None:
        if alarm.stops and not alarm.cleared and self.alarm is None:
            self.alarm = alarm
        self._tell(lambda each: each.on_alarm(alarm))

    def on_progress(self, progress: StageProgress) -> None:
        self._tell(lambda each: each.on_progress(progress))

    def on_end(self, end: RunEnd) -> None:
        if not self._ended:  # also if it was interrupted while telling that
            self._ended = True
            self._tell(lambda each: each.on_end(end))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for record in self.records:
            tell(record)
        for own in (*self._own, *self.trackers.values()):
            try:
                tell(own)
            except (Exception, SystemExit) as error:  # noqa: BLE001 (rich exits if a pipe breaks)
                self._leave_out(own, error)
        for callback in self._callbacks:
            try:
                tell(callback)
            except Exception as error:  # noqa: BLE001 (the user's code; `check` raises it)
                self._callbacks = [each for each in self._callbacks if each is not callback]
                problem = f"{type(callback).__name__} {raised(error)}"
                self._fail(UserError("callbacks", problem), error)
        for watcher in self.watchers:
            tell(watcher)

    def _leave_out(self, own: Observer, error: BaseException) -> None:
        if own in self._own:
            self._own = [each for each in self._own if each is not own]
            what = f"{type(own).__name__} {raised(error)}; it is left out"
            if isinstance(error, SystemExit | BrokenPipeError):
                what = "the terminal is gone; the run continues without it"
        else:
            (name,) = (name for name, each in self.trackers.items() if each is own)
            self.trackers = {n: each for n, each in self.trackers.items() if n != name}
            what = f"the tracker {name} {raised(error)}; the run continues without it"
        with suppress(OSError, ValueError):  # stderr may be gone as well
            print(printable(f"winnow: {what}"), file=sys.stderr)

    def _fail(self, failure: UserError, error: Exception) -> None:
        if self.failed is None:
            self.failed = failure
            failure.__cause__ = error
        else:
            self.failed.add_note(str(failure))
