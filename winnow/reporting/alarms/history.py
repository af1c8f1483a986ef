"""What alarms look at: the rows of a run so far, and the scores of its prompts."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

Row = Mapping[str, Any]

LATEST = 3
"""Steps over which a number that jumps from step to step is taken together."""
_SUMMED = ("samples", "survivors", "samples_trained")
_KEPT_WINDOWS = 5
"""Windows of rows that are kept; what is older counts by its beginning alone."""


@dataclass(frozen=True)
class PromptScores:
    """Scores of the samples of one prompt in one step.

    Attributes:
        key: What tells the prompt apart.
        right, valid: Right samples, and those with a score.
        tied: Whether all of these have the same reward, so that none is better than another.
        difficulty: Its label, where it has one.
    """

    key: tuple[str | None, ...]
    right: int
    valid: int
    tied: bool
    difficulty: str | None = None

    @property
    def name(self) -> str:
        """How a message names it: the end of its text."""
        text = self.key[1] or self.key[0] or ""
        return repr(text if len(text) <= _NAMED else f"...{text[-_NAMED:]}")


_NAMED = 30


@dataclass
class Tally:
    """What became of a prompt through the run: steps it was sampled in, samples with a score."""

    visits: int = 0
    valid: int = 0
    right: int = 0


@dataclass(frozen=True)
class Evaluated:
    """A row of evals.jsonl, and the mean training reward of the window before it."""

    row: Row
    reward: float | None


class _Rows(NamedTuple):
    """The first and the latest rows of a phase."""

    first: list[Row]
    recent: deque[Row]

    @classmethod
    def of(cls, window: int) -> _Rows:
        return cls([], deque(maxlen=_KEPT_WINDOWS * max(window, LATEST)))


class History:
    """A run so far, in the order of its steps. Its length is bounded, but for a tally by prompt.

    Args:
        window: Steps over which most alarms look back.
        phases: Phases of a cycle; each has rows of its own, since what one learns from and how is
            no measure of another.

    Attributes:
        begun: The run's first row of metrics.jsonl.
        first: The first rows of the phase, as many as a window has; through all cycles.
        recent: Its latest rows, those of several windows.
        evaluations: Of the split `eval`, those that a step has followed.
        prompts: For each of the latest steps with new samples, their scores by prompt.
        ever: What became of each prompt through the run.
        idle: Of the latest steps, those in a row without an update: `steps`, and sums of
            `_SUMMED`.
    """

    def __init__(self, window: int, phases: int = 1) -> None:
        self.window = window
        self.begun: Row | None = None
        self._phases = [_Rows.of(window) for _ in range(phases)]
        self.first, self.recent = self._phases[0]
        self.evaluations: list[Evaluated] = []
        self.prompts: deque[Sequence[PromptScores]] = deque(maxlen=window)
        self.ever: dict[tuple[str | None, ...], Tally] = {}
        self.idle: Counter[str] = Counter()
        self._waiting: list[Row] = []

    def add_samples(self, scores: Sequence[PromptScores]) -> None:
        """The new samples of a step."""
        self.prompts.append(scores)
        for one in scores:
            tally = self.ever.setdefault(one.key, Tally())
            tally.visits += 1
            tally.valid += one.valid
            tally.right += one.right

    def add_evaluation(self, row: Row) -> None:
        """An evaluation; it counts from the step on that comes next, or that it ends."""
        if row.get("split", "eval") == "eval":
            self._waiting.append(row)

    def add_step(self, row: Row) -> None:
        """A row of metrics.jsonl, after its samples and its evaluation."""
        self.begun = self.begun or row
        self.first, self.recent = self._phases[((row.get("phase") or 1) - 1) % len(self._phases)]
        if len(self.first) < self.window:
            self.first.append(row)
        self.recent.append(row)
        if row.get("updates") or row.get("updates_skipped"):
            self.idle.clear()
        else:
            self.idle.update({"steps": 1, **{key: row.get(key) or 0 for key in _SUMMED}})
        if self._waiting:
            reward = mean(self.values("reward_mean"))
            self.evaluations += [Evaluated(one, reward) for one in self._waiting]
            self._waiting.clear()

    def rows(self, steps: int | None = None) -> list[Row]:
        """The latest rows, oldest first; default: those of the window."""
        steps = self.window if steps is None else steps
        return list(self.recent)[-steps:]

    def values(self, key: str, steps: int | None = None) -> list[float]:
        """A metric in these rows, where it has a value."""
        return numbers(self.rows(steps), key)

    def scored(self, least: int = 1) -> Iterator[PromptScores]:
        """The prompts of the window with so many scores at least."""
        return (one for step in self.prompts for one in step if one.valid >= least)


def numbers(rows: Sequence[Row], key: str) -> list[float]:
    """A metric in some rows, where it has a value."""
    return [float(row[key]) for row in rows if row.get(key) is not None]


def mean(values: Sequence[float]) -> float | None:
    """Mean; ``None`` of nothing."""
    return fmean(values) if values else None
