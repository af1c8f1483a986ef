"""Draws -> their scores: the verifier of a config, over groups or over a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winnow.config.schema import Config
from winnow.engines.models.loading import resolve
from winnow.errors import UserError
from winnow.reporting.observer import Progress
from winnow.rewards.base import Reward
from winnow.rewards.factory import make_reward
from winnow.storage.sample_table import DrawTable
from winnow.types import Group, Prompt, Score

_BATCH = 1024
"""Draws that a verifier is given at a time."""


@dataclass(frozen=True)
class Scores:
    """Rewards of all rows, in the order of the files; NaN beside an error."""

    rewards: NDArray[np.float64]
    errors: dict[int, str]
    right_at: float

    def of(self, rows: NDArray[np.int64]) -> tuple[Score, ...]:
        return tuple(
            Score.failed(self.errors[row]) if row in self.errors else Score(value)
            for row, value in zip(rows.tolist(), self.rewards[rows].tolist(), strict=True)
        )


def rescore(
    table: DrawTable, reward: Reward, right_at: float, progress: Progress = lambda *_: None
) -> Scores:
    """Score every draw of a file anew; nothing is drawn.

    Raises:
        UserError: every verdict was an error.
    """
    rewards = np.full(table.rows, np.nan)
    errors: dict[int, str] = {}
    items: list[tuple[Prompt, str]] = []
    rows: list[int] = []

    def judge() -> None:
        for row, score in zip(rows, reward.score(items), strict=True):
            if score.value is None:
                errors[row] = score.error or ""
            else:
                rewards[row] = score.value
        items.clear()
        rows.clear()

    for number, group in enumerate(table):
        items += [(group.prompt, draw.text) for draw in group.draws]
        rows += table.rows_of(number).tolist()
        if len(items) >= _BATCH:
            judge()
            progress("score", number + 1, len(table))
    if items:
        judge()
    if len(errors) == table.rows:
        raise UserError(f"reward: every verdict was an error, e.g. {next(iter(errors.values()))}")
    return Scores(rewards, errors, right_at)


def score(groups: Sequence[Group], reward: Reward, right_at: float) -> list[Group]:
    """The groups with a score for each draw; draws that have a number already keep it."""
    waiting = [
        (place, number)
        for place, group in enumerate(groups)
        for number in range(len(group.draws))
        if not group.scores or group.scores[number].error is not None
    ]
    items = [(groups[place].prompt, groups[place].draws[number].text) for place, number in waiting]
    said = dict(zip(waiting, reward.score(items), strict=True))
    return [
        group.with_(
            right_at=right_at,
            scores=tuple(
                said[place, number] if (place, number) in said else group.scores[number]
                for number in range(len(group.draws))
            ),
        )
        for place, group in enumerate(groups)
    ]


_LEARNED = "model:"
"""Before the name of a sequence classifier that scores."""


@contextmanager
def reward_for(
    config: Config, reward: Callable[[Prompt, str], Any] | None = None
) -> Iterator[Reward]:
    """The verifier of a config (or the one given), its processes ended on leaving."""
    made = (
        _learned(config)
        if reward is None and config.reward.name.startswith(_LEARNED)
        else _verifier(config, reward)
    )
    try:
        yield made
    finally:
        made.close()


def check_reward(config: Config) -> None:
    """See that the verifier of a config is there, without loading a model.

    Raises:
        UserError: it is not.
    """
    if config.reward.name.startswith(_LEARNED):
        resolve(config.reward.name.removeprefix(_LEARNED), "reward")
        return
    with reward_for(config):
        pass


def _learned(config: Config) -> Reward:
    """A reward model, on the device where the run's model is.

    Raises:
        UserError: it cannot be had, or an option that it does not have.
    """
    from winnow.engines.devices import pick_device
    from winnow.engines.reward_models.model import RewardModel

    options = dict(config.reward.options)
    label = options.pop("label", None)
    if options:
        raise UserError(f"reward.options.{next(iter(options))}: a reward model has only: label")
    return RewardModel(
        config.reward.name.removeprefix(_LEARNED),
        device=pick_device(config.device),
        dtype=config.dtype,
        label=label,
        field="reward",
    )


def _verifier(config: Config, reward: Callable[[Prompt, str], Any] | None) -> Reward:
    return make_reward(
        config.reward.name if reward is None else reward,
        options=config.reward.options,
        time_limit=config.reward.time_limit,
        workers=config.reward.workers,
    )
