"""Scores samples by the verifier of a config: those of groups, or of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winnow.config.schema import Config, from_dict
from winnow.engines.factory import check_model
from winnow.errors import UserError
from winnow.reporting.observer import Progress
from winnow.rewards.base import Reward
from winnow.rewards.factory import RewardFunction, make_reward, reward_name
from winnow.rollouts.reward_errors import errors_of, failures, probe
from winnow.storage.sample_table import SampleTable
from winnow.types import Group, Prompt, Score

_BATCH = 1024
"""Samples that a verifier is given at a time."""


@dataclass(frozen=True)
class Scores:
    """Rewards of all rows, in the order of the files; NaN for an error."""

    rewards: NDArray[np.float64]
    errors: dict[int, str]
    right_at: float

    def of(self, rows: NDArray[np.int64]) -> tuple[Score, ...]:
        return tuple(
            Score.failed(self.errors[row]) if row in self.errors else Score(value)
            for row, value in zip(rows.tolist(), self.rewards[rows].tolist(), strict=True)
        )


def rescore(
    table: SampleTable,
    reward: str | RewardFunction,
    right_at: float = 1.0,
    options: Mapping[str, Any] | None = None,
    progress: Progress = lambda *_: None,
) -> Scores:
    """Score every sample of a file anew, by a reward or its name.

    Raises:
        UserError: there is no such reward; every score was an error.
    """
    config = from_dict({"reward": {"name": reward_name(reward) or "", "options": options or {}}})
    with reward_for(config, reward) as verifier:
        return _rescored(table, verifier, right_at, progress)


def _rescored(table: SampleTable, reward: Reward, right_at: float, progress: Progress) -> Scores:
    rewards = np.full(table.rows, np.nan)
    errors: dict[int, str] = {}
    items: list[tuple[Prompt, str]] = []
    rows: list[int] = []

    def score_batch() -> None:
        for row, score in zip(rows, reward.score(items), strict=True):
            if score.value is None:
                errors[row] = score.error or ""
            else:
                rewards[row] = score.value
        items.clear()
        rows.clear()

    for number, group in enumerate(table):
        items += [(group.prompt, sample.text) for sample in group.samples]
        rows += table.rows_of(number).tolist()
        if len(items) >= _BATCH:
            score_batch()
            progress("score", number + 1, len(table))
    if items:
        score_batch()
    if len(errors) == table.rows:
        raise UserError("reward", str(failures(list(errors.values()), table.rows)))
    return Scores(rewards, errors, right_at)


def score(groups: Sequence[Group], reward: Reward, right_at: float) -> list[Group]:
    """The groups with a score for each sample; a number that is there already is kept."""
    waiting = [
        (place, number)
        for place, group in enumerate(groups)
        for number in range(len(group.samples))
        if not group.scores or group.scores[number].error is not None
    ]
    items = [
        (groups[place].prompt, groups[place].samples[number].text) for place, number in waiting
    ]
    said = dict(zip(waiting, reward.score(items), strict=True))
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


_LEARNED = "model:"
"""Prefix of a reward that is a reward model."""


@contextmanager
def reward_for(
    config: Config,
    reward: str | RewardFunction | None = None,
    first: Prompt | None = None,
) -> Iterator[Reward]:
    """The verifier of a config, or a function instead of it; closed on leaving.

    Args:
        first: A prompt to try it on (`reward_errors.probe`), unless `reward.probe` says not to.

    Raises:
        UserError: it cannot be loaded, or fails on that prompt.
    """
    function = None if isinstance(reward, str) else reward
    learned = function is None and config.reward.name.startswith(_LEARNED)
    made = _learned(config) if learned else _verifier(config, function)
    try:
        if first is not None and config.reward.probe:
            probe(made, first)
        yield made
    finally:
        made.close()


def check_reward(config: Config) -> None:
    """Raise a `UserError` if the verifier of a config is not there, without loading a model."""
    if config.reward.name.startswith(_LEARNED):
        check_model(config.reward.name.removeprefix(_LEARNED), "reward")
        return
    with reward_for(config):
        pass


def _learned(config: Config) -> Reward:
    """A reward model, on the device of the run's model.

    Raises:
        UserError: it cannot be loaded, or has no such option.
    """
    from winnow.engines.devices import pick_device
    from winnow.engines.reward_models.model import RewardModel

    options = dict(config.reward.options)
    label = options.pop("label", None)
    if options:
        problem = "no such option"
        raise UserError(f"reward.options.{next(iter(options))}", problem, "known: label")
    return RewardModel(
        config.reward.name.removeprefix(_LEARNED),
        device=pick_device(config.device),
        dtype=config.dtype,
        label=label,
        field="reward",
    )


def _verifier(config: Config, reward: RewardFunction | None) -> Reward:
    return make_reward(
        config.reward.name if reward is None else reward,
        options=config.reward.options,
        time_limit=config.reward.time_limit,
        workers=config.reward.workers,
        import_seconds=config.reward.import_seconds,
        memory_gib=config.reward.memory_gib,
    )
