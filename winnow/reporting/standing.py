"""Where a run stands: its step, what is done, how long it has taken and will take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from winnow.reporting.cost import cost_of, last_step
from winnow.reporting.events import RunStart, StageProgress, StepEnd
from winnow.reporting.forecast import Forecast, duration
from winnow.reporting.metrics import Evaluation

STAGES = {
    "start": "starting",
    "load model": "loading the model",
    "load samples_from": "loading the model to sample from",
    "sample": "sampling",
    "score": "scoring",
    "annotate": "asking reference and critic",
    "update": "updating",
    "evaluate": "evaluating",
    "kl": "measuring KL to the start",
    "checkpoint": "saving a checkpoint",
    "read": "reading samples",
    "select": "selecting",
    "vote": "voting",
    "fit": "fitting",
}
"""Stages as a person reads them; what is not here is named by itself."""
_OF_STEPS = ("sample", "score", "annotate", "update")


def _after(settings: Mapping[str, Any]) -> int:
    """Evaluations after the last step."""
    evaluation, checkpoint = settings.get("eval", {}), settings.get("checkpoint", {})
    if evaluation.get("size") == 0:
        return 0
    tested = evaluation.get("patience") and evaluation.get("test_size") != 0
    merged = settings.get("lora", {}).get("merge") and settings.get("lora", {}).get("rank")
    return int(bool(tested or merged or checkpoint.get("average")))


class Standing:
    """Where a run stands, by what its observers are told.

    Args:
        clock: Seconds, from whatever moment.

    Attributes:
        begun: Whether a run has begun: other commands have stages alone.
        made: Steps made since.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.begun, self.made = False, 0
        self._from = self._stage_from = self._step_from = clock()
        self._forecast = Forecast(())
        self._limits: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._last = self._ended = self._step = 0
        self._stage, self._done, self._first, self._total = "start", 0, 0, 1

    def begin(self, start: RunStart) -> None:
        """A run begins."""
        self.begun = True
        self._last = start.last_step
        self._ended = self._step = max(start.first_step - 1, 0)
        evaluation = start.settings.get("eval", {})
        every = evaluation.get("every", 0) if evaluation.get("size") != 0 else 0
        phases = start.phases or [("", start.last_step)]
        self._forecast = Forecast(phases, every, _after(start.settings))
        budget = start.settings.get("budget", {})
        self._limits = {kind: limit for kind, limit in budget.items() if limit}
        self._spent = dict(start.spent)
        if start.evaluation:
            self._forecast.evaluated(start.evaluation)

    def at(self, progress: StageProgress) -> None:
        """A stage has come further."""
        if progress.stage != self._stage or progress.done < self._done:
            self._stage, self._first, self._stage_from = (
                progress.stage,
                progress.done,
                self._clock(),
            )
        self._done, self._total = progress.done, progress.total
        if progress.stage in _OF_STEPS and self._step == self._ended < self._last:
            self._step, self._step_from = self._ended + 1, self._clock()

    def step(self, step: StepEnd) -> None:
        """A step is over."""
        self.made += 1
        self._ended = self._step = step.step
        self._step_from = self._clock()
        self._forecast.step(step.step, step.metrics["seconds"])
        for kind, cost in cost_of(step.metrics).items() if self._limits else ():
            self._spent[kind] = self._spent.get(kind, 0) + cost

    def evaluated(self, evaluation: Evaluation) -> None:
        """An evaluation is over."""
        self._forecast.evaluated(evaluation.seconds)

    def elapsed(self) -> str:
        """Wall time so far."""
        return duration(self._clock() - self._from)

    def left(self) -> str | None:
        """What the run still takes by its steps; by its stage where that is its only or last one.

        ``None``: not known yet, or it takes longer than was expected.
        """
        seconds = None
        if self._last:
            end = self._last
            if self._limits and self._ended:
                end = last_step(self._ended, end, self._limits, self._spent)
            seconds = self._forecast.left(self._ended, end)
            if seconds is None:
                return None
            seconds -= self._clock() - self._step_from
        if seconds is None or seconds <= 0:
            seconds = self._of_stage()
        return None if seconds is None or round(seconds) == 0 else duration(seconds)

    def _of_stage(self) -> float | None:
        """Seconds that are left of the present stage."""
        done = self._done - self._first
        if done <= 0 or self._done >= self._total:
            return None
        return (self._clock() - self._stage_from) / done * (self._total - self._done)

    def stage(self) -> str:
        """The step and what is done: `step 3/30: sampling 4/16`."""
        step = f"step {self._step}/{self._last}: " if self._last else ""
        what = STAGES.get(self._stage, self._stage)
        return step + what + (f" {self._done}/{self._total}" if self._total > 1 else "")

    def times(self) -> str:
        """Wall time, and what is left of it: `1:23, 4:56 left`."""
        left = self.left()
        return self.elapsed() + ("" if left is None else f", about {left} left")

    def line(self) -> str:
        """All of it on a line."""
        return f"{self.stage()} ({self.times()})"
