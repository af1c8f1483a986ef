"""How long a run will still take, from what its steps have taken. Pure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from statistics import fmean, median

_RECENT = 15
"""Steps that say how long the next will take: so many latest ones of a phase."""


class Forecast:
    """Seconds that a run has left.

    A step is expected to take the median of the latest ones of its phase, so that one that was held
    up changes nothing; in a later cycle they are those of the cycle before, and a phase that has
    had no step yet is taken to be like the others. Evaluations and checkpoints are counted apart:
    they do not come with every step.

    Args:
        phases: For each phase of the run, cycles included, its name and its last step.
        every: Steps from one evaluation to the next; 0: only at the ends of phases.
        after: Evaluations after the last step: of a final model, of a chosen checkpoint.
    """

    def __init__(self, phases: Sequence[tuple[str, int]], every: int = 0, after: int = 0) -> None:
        self._phases, self._every, self._after = phases, every, after
        self._steps: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self._checkpoints: deque[float] = deque(maxlen=_RECENT)
        self._evaluation: float | None = None

    def step(self, step: int, seconds: Mapping[str, float]) -> None:
        """A step is over; `seconds` are those of its row of metrics."""
        apart = ("evaluate", "kl", "checkpoint")
        name = next((name for name, last in self._phases if step <= last), "")
        self._steps[name].append(sum(v for key, v in seconds.items() if key not in apart))
        self._checkpoints.append(seconds.get("checkpoint", 0.0))
        evaluation = seconds.get("evaluate", 0.0) + seconds.get("kl", 0.0)
        if evaluation:
            self._evaluation = evaluation

    def evaluated(self, seconds: float) -> None:
        """An evaluation is over that is part of no step."""
        if self._evaluation is None:
            self._evaluation = seconds

    def left(self, step: int, end: int | None = None) -> float | None:
        """Seconds from the end of a step to the end of the run; ``None`` before the first step.

        Args:
            end: The step that it will end with; ``None``: the last.
        """
        known = {name: median(taken) for name, taken in self._steps.items()}
        if not known:
            return None
        end = self._phases[-1][1] if end is None else end
        seconds = fmean(self._checkpoints) * max(end - step, 0)
        seconds += self._after * (self._evaluation or 0.0)
        before = step
        for name, planned in self._phases:
            last = min(planned, end)
            if last > before:
                seconds += (last - before) * known.get(name, fmean(known.values()))
                seconds += self._evaluations(before, last) * (self._evaluation or 0.0)
                before = last
        return seconds

    def _evaluations(self, before: int, last: int) -> int:
        """Evaluations after one step up to another, the last of a phase."""
        if not self._every:
            return 1
        return last // self._every - before // self._every + (last % self._every > 0)


def duration(seconds: float) -> str:
    """`0:42`, `3:07`, `1:02:03`; with days, `2 d 3:00:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if not hours:
        return f"{minute}:{second:02d}"
    return f"{f'{days} d ' if days else ''}{hour}:{minute:02d}:{second:02d}"
