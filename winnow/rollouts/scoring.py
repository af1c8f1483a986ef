"""Scores samples by a reward: those of groups, or of a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winnow.errors import UserError
from winnow.reporting.observer import Progress
from winnow.rewards.base import AnyReward, scores_of
from winnow.rewards.given import RewardGiven
from winnow.rollouts.reward_errors import errors_of, failures
from winnow.rollouts.rewards import rescoring, reward_for
from winnow.storage.sample_table import SampleTable
from winnow.types import Group, Prompt, Sample, Score

_BATCH = 1024
"""Samples that a verifier is given at a time."""


@dataclass(frozen=True)
class Scores:
    """Rewards of all rows, in the order of the files; NaN for an error.

    Attributes:
        parts: Of several rewards, by label, what each gave; NaN where it failed.
        right_by: What decides which samples are right, where it is not the reward; else empty.
    """

    rewards: NDArray[np.float64]
    errors: dict[int, str]
    right_at: float
    parts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    right_by: NDArray[np.float64] | None = None

    @property
    def decides(self) -> NDArray[np.float64]:
        """What `right_at` is compared with."""
        return self.rewards if self.right_by is None else self.right_by

    def of(self, rows: NDArray[np.int64]) -> tuple[Score, ...]:
        return tuple(map(self.of_row, rows.tolist()))

    def of_row(self, row: int) -> Score:
        """The score of one row."""
        own = [(label, float(values[row])) for label, values in self.parts.items()]
        parts = tuple(pair for pair in own if not np.isnan(pair[1]))
        if row in self.errors:
            return replace(Score.failed(self.errors[row]), parts=parts)
        right_by = None if self.right_by is None else float(self.right_by[row])
        return Score(float(self.rewards[row]), None, parts, right_by)


def rescore(
    table: SampleTable,
    reward: RewardGiven,
    right_at: float = 1.0,
    options: Mapping[str, Any] | None = None,
    progress: Progress = lambda *_: None,
) -> Scores:
    """Score every sample of a file anew, by a reward, its name, or several.

    Raises:
        UserError: there is no such reward; every score was an error.
    """
    with reward_for(rescoring(reward, options), reward, sampled=False) as scorer:
        return _rescored(table, scorer, right_at, progress)


def _rescored(table: SampleTable, reward: AnyReward, right_at: float, progress: Progress) -> Scores:
    found = _Found(table.rows)
    items: list[tuple[Prompt, Sample]] = []
    rows: list[int] = []

    def score_batch() -> None:
        for row, score in zip(rows, scores_of(reward, items), strict=True):
            found.add(row, score)
        items.clear()
        rows.clear()

    for number, group in enumerate(table):
        items += [(group.prompt, sample) for sample in group.samples]
        rows += table.rows_of(number).tolist()
        if len(items) >= _BATCH:
            score_batch()
            progress("score", number + 1, len(table))
    if items:
        score_batch()
    if len(found.errors) == table.rows:
        raise UserError("reward", str(failures(list(found.errors.values()), table.rows)))
    decides = found.right_by if found.apart else None
    return Scores(found.rewards, found.errors, right_at, found.parts, decides)


class _Found:
    """New scores, gathered by row."""

    def __init__(self, rows: int) -> None:
        self.rewards = np.full(rows, np.nan)
        self.right_by = np.full(rows, np.nan)
        self.errors: dict[int, str] = {}
        self.parts: dict[str, NDArray[np.float64]] = {}
        self.apart = False

    def add(self, row: int, score: Score) -> None:
        for label, value in score.parts:
            own = self.parts.setdefault(label, np.full(len(self.rewards), np.nan))
            own[row] = value
        if score.value is None:
            self.errors[row] = score.error or ""
            return
        self.rewards[row] = score.value
        if score.right_by is not None:
            self.right_by[row], self.apart = score.right_by, True


def score(groups: Sequence[Group], reward: AnyReward, right_at: float) -> list[Group]:
    """The groups with a score for each sample; a number that is there already is kept."""
    waiting = [
        (place, number)
        for place, group in enumerate(groups)
        for number in range(len(group.samples))
        if not group.scores or group.scores[number].error is not None
    ]
    items = [(groups[place].prompt, groups[place].samples[number]) for place, number in waiting]
    said = dict(zip(waiting, scores_of(reward, items), strict=True))
    return [
        group.with_(
            right_at=right_at,
            scores=tuple(
                said[place, number] if (place, number) in said else group.scores[number]
                for number in range(len(group.samples))
            ),
        )
        for place, group in enumerate(groups)
    ]


class Patience:
    """Stops a run whose verifier mostly fails, three times running; or on all scores of a step.

    Args:
        resume: The command that resumes the run.
        enough: Least number of scores that are looked at together.
    """

    def __init__(self, resume: str, enough: int = 0) -> None:
        self._resume, self._enough = resume, enough
        self._scores: list[Score] = []
        self._bad: list[int | None] = []

    def __call__(self, scores: Iterable[Score], step: int | None = None) -> None:
        """Look at further scores, those of a step where there are steps.

        Raises:
            UserError: more than half of them were errors for the third time running; or all scores
                of a step were.
        """
        scores = list(scores)
        broken = errors_of(scores)
        if step is not None and broken and len(broken) == len(scores):
            problem = f"step {step}: {failures(broken, len(scores))}"
            raise UserError("reward", problem, f"fix the verifier and resume: {self._resume}")
        self._scores += scores
        if len(self._scores) < self._enough:
            return
        errors = [score.error for score in self._scores if score.error is not None]
        self._bad = [*self._bad, step] if 2 * len(errors) > len(self._scores) else []
        self._scores = []
        if len(self._bad) >= 3:
            where = "" if step is None else f" of steps {self._bad[0]} to {step}"
            problem = f"most scores{where} are errors, the last of them: {errors[-1]}"
            raise UserError("reward", problem, f"fix the verifier and resume: {self._resume}")
