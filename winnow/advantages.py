"""What each survivor weighs. Pure.

An advantage maps the scaled rewards of one group's valid draws, shape (n,), to n numbers. A group
whose rewards are all equal has no advantage over itself: that is decided by max == min, never by
dividing by a tiny sigma.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from winnow.cells import Cell, by_name
from winnow.errors import UserError
from winnow.theory.importance import normalised_weights
from winnow.types import Group

Array = NDArray[np.float64]
RewardScale = Literal["0/1", "-1/+1"]


class Advantage(Protocol):
    def __call__(self, rewards: Array) -> Array:
        """Advantages of one group, shape (n,), from its rewards, shape (n,)."""
        ...


@dataclass(frozen=True)
class One(Cell):
    """Every survivor weighs the same: A = 1. Likelihood of what selection kept."""

    cell: ClassVar[str] = "one"
    formula: ClassVar[str] = "1"
    group_baseline: ClassVar[bool] = False

    def __call__(self, rewards: Array) -> Array:
        return np.ones_like(rewards)


@dataclass(frozen=True)
class Reward(Cell):
    """A = r: REINFORCE without a baseline (Williams 1992)."""

    cell: ClassVar[str] = "reward"
    formula: ClassVar[str] = "r"
    group_baseline: ClassVar[bool] = False

    def __call__(self, rewards: Array) -> Array:
        return rewards.astype(np.float64)


@dataclass(frozen=True)
class Centred(Cell):
    """A = r - mean(r): Dr. GRPO (2503.20783)."""

    cell: ClassVar[str] = "centred"
    formula: ClassVar[str] = "r - mean"
    group_baseline: ClassVar[bool] = True

    def __call__(self, rewards: Array) -> Array:
        if _all_equal(rewards):
            return np.zeros_like(rewards)
        return np.asarray(rewards - rewards.mean())


@dataclass(frozen=True)
class Standardised(Cell):
    """A = (r - mean(r)) / sigma(r): GRPO (2402.03300).

    sigma is the sample deviation (divides by n - 1, as the released codes do) or the population's.
    """

    sigma: Literal["sample", "population"] = "sample"
    cell: ClassVar[str] = "standardised"
    formula: ClassVar[str] = "(r - mean) / sigma"
    group_baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.sigma not in ("sample", "population"):
            raise ValueError("sigma is 'sample' or 'population'")

    def __call__(self, rewards: Array) -> Array:
        if _all_equal(rewards):
            return np.zeros_like(rewards)
        centred = rewards - rewards.mean()
        # Scaled first, so that the square of a tiny or huge reward neither vanishes nor overflows.
        unit = centred / np.abs(centred).max()
        return np.asarray(unit / unit.std(ddof=1 if self.sigma == "sample" else 0))


@dataclass(frozen=True)
class LeaveOneOut(Cell):
    """A_i = r_i - mean of the others = n/(n-1) (r_i - mean): RLOO (2402.14740)."""

    cell: ClassVar[str] = "leave-one-out"
    formula: ClassVar[str] = "r - mean of the others"
    group_baseline: ClassVar[bool] = True

    def __call__(self, rewards: Array) -> Array:
        if _all_equal(rewards):
            return np.zeros_like(rewards)
        n = len(rewards)
        return np.asarray((rewards - rewards.mean()) * (n / (n - 1)))


@dataclass(frozen=True)
class Softmax(Cell):
    """A_i = n exp(r_i / beta) / sum exp(r / beta): self-normalised importance weights of pi*.

    The draws being pi_ref's, the weighted draws stand for pi* = pi_ref exp(r / beta) / Z; mean
    weight 1. `over` = `group` normalises each prompt by itself, so that every prompt counts the
    same; `set` all draws together, so that a prompt counts by its Z, as it does among the survivors
    of exact rejection sampling.
    """

    beta: float
    over: Literal["group", "set"] = "group"
    cell: ClassVar[str] = "softmax"
    one_policy: ClassVar[bool] = True
    """The draws of a prompt must all be of one distribution."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta is above 0 and finite")
        if self.over not in ("group", "set"):
            raise ValueError("over is group or set")

    @property
    def formula(self) -> str:
        return f"n softmax(r / {self.beta:g})"

    @property
    def group_baseline(self) -> bool:
        return self.over == "group"

    @property
    def over_set(self) -> bool:
        return self.over == "set"

    def __call__(self, rewards: Array) -> Array:
        with np.errstate(over="ignore"):  # to -inf: a weight of 0
            log_weights = (rewards - rewards.max()) / self.beta
        return np.asarray(len(rewards) * normalised_weights(log_weights))


ADVANTAGES = by_name([One, Reward, Centred, Standardised, LeaveOneOut, Softmax])


def rescale(rewards: Array, scale: RewardScale) -> Array:
    """Rewards as they are (`0/1`), or 2 r - 1 (`-1/+1`).

    Raises:
        UserError: `-1/+1` over rewards outside [0, 1].
    """
    if scale == "0/1":
        return rewards
    if rewards.size and (rewards.min() < 0 or rewards.max() > 1):
        worst = rewards[np.argmax(np.abs(rewards - 0.5))]
        raise UserError(
            f"algorithm.reward_scale = '-1/+1' maps rewards in [0, 1] to 2r - 1, but a reward was "
            f"{worst:g}: let the verifier return 0 to 1, or set algorithm.reward_scale = '0/1' "
            "(rewards as they are)"
        )
    return 2.0 * rewards - 1.0


def weigh(groups: Sequence[Group], advantage: Advantage, scale: RewardScale) -> list[Group]:
    """The groups with a weight for each draw: its advantage if it survived, else 0.

    Statistics run over all valid draws of a group, the rejected ones included: a baseline made of
    survivors alone would be another estimator. An advantage that says ``over_set`` is given the
    rewards of all groups at once.
    """
    rewards = [rescale(np.array(group.values, dtype=np.float64), scale) for group in groups]
    if getattr(advantage, "over_set", False):
        ends = np.cumsum([len(values) for values in rewards])[:-1]
        weights = np.split(_called(advantage, np.concatenate(rewards)), ends)
    else:
        weights = [_called(advantage, values) for values in rewards]
    return [
        group.with_(weights=tuple(_of_survivors(group, own).tolist()))
        for group, own in zip(groups, weights, strict=True)
    ]


def _called(advantage: Advantage, rewards: Array) -> Array:
    return advantage(rewards) if rewards.size else rewards


def _of_survivors(group: Group, valid_weights: Array) -> Array:
    """A weight for each draw of a group, from those of its valid draws."""
    weights = np.zeros(len(group.draws))
    weights[np.array(group.valid, dtype=bool)] = valid_weights
    return np.where([verdict.kept for verdict in group.verdicts], weights, 0.0)


def _all_equal(rewards: Array) -> bool:
    return bool(rewards.max() == rewards.min())
