"""The advantages of the table. Pure; `weighing.py` lays them on the survivors.

An advantage maps the scaled rewards of one group's valid draws, shape (n,), to n numbers. A group
whose rewards are all equal has no advantage over itself: that is decided by max == min, never by
dividing by a tiny sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from winnow.algorithms.spec import Cell
from winnow.theory.importance import normalised_weights

Array = NDArray[np.float64]


class Advantage(Protocol):
    """One that says ``per_token`` is given (rewards, values) of the tokens of one draw instead."""

    def __call__(self, rewards: Array) -> Array:
        """Advantages of one group, shape (n,), from its rewards, shape (n,)."""
        ...


@dataclass(frozen=True)
class One(Cell):
    """Every survivor weighs the same: A = 1. Likelihood of what selection kept."""

    cell: ClassVar[str] = "one"
    of_rewards: ClassVar[bool] = False
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


@dataclass(frozen=True)
class Extremes(Cell):
    """+1 for the best survivor of the group, -1 for the worst, 0 between: the sides of a pair."""

    of_survivors: ClassVar[bool] = True
    """Draws that were rejected are not compared with."""
    cell: ClassVar[str] = "extremes"
    formula: ClassVar[str] = "+1 best, -1 worst"
    group_baseline: ClassVar[bool] = True

    def __call__(self, rewards: Array) -> Array:
        if _all_equal(rewards):
            return np.zeros_like(rewards)
        return np.where(
            rewards == rewards.max(), 1.0, np.where(rewards == rewards.min(), -1.0, 0.0)
        )


@dataclass(frozen=True)
class GAE(Cell):
    """Generalised advantage estimation, a number a token (1506.02438, eq. 16).

    delta_t = r_t + gamma V_(t+1) - V_t; A_t = delta_t + gamma lam A_(t+1); nothing is expected
    behind the last token, whatever ended the answer. `whiten` = `batch` gives the advantages of all
    survivors of a step mean 0 and deviation 1, a token counting once (a deviation below 1e-4 counts
    as that); `none` leaves them.
    """

    gamma: float = 1.0
    lam: float = 0.95
    whiten: Literal["batch", "none"] = "batch"
    cell: ClassVar[str] = "gae"
    formula: ClassVar[str] = "sum_k (gamma lam)^k delta_(t+k)"
    per_token: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError("gamma and lam are from 0 to 1")
        if self.whiten not in ("batch", "none"):
            raise ValueError("whiten is batch or none")

    def __call__(self, rewards: Array, values: Array | None = None) -> Array:
        """Advantages of the tokens of one draw, shape (tokens,), before whitening.

        Args:
            rewards: Of each token, shape (tokens,); the verifier's at the last.
            values: What the critic expects before each token, shape (tokens,); default: 0.
        """
        values = np.zeros_like(rewards) if values is None else values
        delta = rewards + self.gamma * np.append(values[1:], 0.0) - values
        advantages, ahead = np.empty_like(delta), 0.0
        for t in range(len(delta) - 1, -1, -1):
            ahead = advantages[t] = delta[t] + self.gamma * self.lam * ahead
        return advantages


def _all_equal(rewards: Array) -> bool:
    return bool(rewards.max() == rewards.min())
