"""What a run has gained on the held-out prompts: after against before, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from winnow.reporting.metrics import rates_of
from winnow.storage.counted import Counted
from winnow.storage.run_folder import RunStore
from winnow.theory.intervals import mean_interval, paired_difference

_ROUNDING = 1e-9
"""Between a mean of rewards 0 and 1 and the share of them that are right."""


@dataclass(frozen=True)
class Gain:
    """Accuracy after minus accuracy before, and mean reward likewise, with 95 % intervals.

    Attributes:
        value: Mean over the prompts that have a score both times of the difference of their rates.
        low, high: `theory.intervals.paired_difference`; ``None`` for fewer than two such prompts.
        reward: Mean over the same prompts of the difference of their mean rewards.
        reward_low, reward_high: `theory.intervals.mean_interval` of these differences; where the
            rewards are the rates themselves, `low` and `high`.
        left_out: Prompts that have no score in one of the two.
    """

    value: float
    low: float | None
    high: float | None
    reward: float | None = None
    reward_low: float | None = None
    reward_high: float | None = None
    left_out: int = 0


def gain_between(store: RunStore, first: Mapping[str, Any], last: Mapping[str, Any]) -> Gain | None:
    """The gain between two evaluations; ``None`` where their samples are not there any more.

    Args:
        first, last: Their rows of evals.jsonl.
    """
    before, after = (_place(row) for row in (first, last))
    if before == after:
        none = (0.0, 0.0, 0.0)  # it is the model that it began with
        return None if first["accuracy"] is None else Gain(*none, *none)
    counted = [store.counted(split, step) for split, step in (before, after)]
    if counted[0] is None or counted[1] is None:
        return None
    return gain(counted[0], counted[1])


def gain(before: Sequence[Counted], after: Sequence[Counted]) -> Gain | None:
    """The gain over the prompts with a valid sample in both.

    ``None`` if there is none, or if the two are of other prompts (they may change on resuming).
    """
    if [one.prompt for one in before] != [one.prompt for one in after]:
        return None
    pairs = zip(before, after, strict=True)
    both = [(one, other) for one, other in pairs if one.valid and other.valid]
    left_out = len(before) - len(both)
    if not both:
        return None
    (rates, blocks), (later, later_blocks) = (
        rates_of([(side.right, side.valid) for side in sides]) for sides in zip(*both, strict=True)
    )
    gained = paired_difference(rates, later, (blocks, later_blocks))
    means, later_means = (
        np.array([np.mean(side.rewards) for side in sides]) for sides in zip(*both, strict=True)
    )
    if np.allclose(means, rates, rtol=0, atol=_ROUNDING) and np.allclose(
        later_means, later, rtol=0, atol=_ROUNDING
    ):
        return Gain(*gained, *gained, left_out)
    return Gain(*gained, *mean_interval(later_means - means), left_out)


def _place(row: Mapping[str, Any]) -> tuple[Any, int]:
    return row.get("split", "eval"), int(row["step"])
