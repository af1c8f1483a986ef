"""Advantages: what each survivor counts for. Pure.

An advantage maps the scaled rewards of one group's valid samples, shape (n,), to n numbers. A group
whose rewards are all equal has no advantage over itself: that is decided by `theory.ties`, which
knows what is rounding, never by dividing by a tiny sigma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from winnow.algorithms.spec import Cell
from winnow.theory.checks import Array
from winnow.theory.importance import (
    effective_sample_size,
    normalised_weights,
    self_normalised_bias,
)
from winnow.theory.ties import all_equal, centred, levels

Over = Literal["sample", "group", "set", "token"]
RewardScale = Literal["0/1", "-1/+1"]


class Advantage(Cell):
    """An advantage of the table; a user's function becomes one with these defaults."""

    declares: ClassVar[Mapping[str, Sequence[str]]] = {
        "over": get_args(Over),
        "whiten": ("batch", "none"),
    }
    of_rewards: ClassVar[bool] = True
    """Whether it depends on rewards at all."""
    of_survivors: ClassVar[bool] = False
    """Whether it is given the rewards of the survivors alone."""

    @property
    def over(self) -> Over:
        """What it compares: nothing (`sample`), the samples of a `group`, or of all groups (`set`).

        One over `token` is given (rewards, values) of the tokens of one sample instead.
        """
        return "group"

    @property
    def whiten(self) -> Literal["batch", "none"]:
        """Whether token advantages are given mean 0 and deviation 1 over all survivors."""
        return "none"

    def __call__(self, rewards: Array) -> Array:
        """Advantages of one group, shape (n,), from its rewards, shape (n,)."""
        raise NotImplementedError

    def remark(self, rewards: Sequence[Array], right: Sequence[NDArray[np.bool_]]) -> str | None:
        """What a person should know of it over a set of samples that is trained on whole.

        Args:
            rewards: Scaled, of each prompt's valid samples, shape (n,) each; of one prompt at
                least.
            right: Whether each is right, of the same shapes.
        """
        return None


@dataclass(frozen=True)
class One(Advantage):
    """A = 1: every survivor counts the same."""

    cell = "one"
    over = "sample"
    of_rewards = False

    def __call__(self, rewards: Array) -> Array:
        return np.ones_like(rewards)


@dataclass(frozen=True)
class Reward(Advantage):
    """A = r: REINFORCE without a baseline (Williams 1992)."""

    cell = "reward"
    over = "sample"

    def __call__(self, rewards: Array) -> Array:
        return rewards.astype(np.float64)


@dataclass(frozen=True)
class Centred(Advantage):
    """A = r - mean(r): Dr. GRPO (2503.20783)."""

    cell = "centred"

    def __call__(self, rewards: Array) -> Array:
        if all_equal(rewards):
            return np.zeros_like(rewards)
        return centred(rewards)


@dataclass(frozen=True)
class Standardised(Advantage):
    """A = (r - mean(r)) / sigma(r): GRPO (2402.03300).

    sigma is the sample deviation (divides by n - 1, as the released codes do) or the population's.
    """

    sigma: Literal["sample", "population"] = "sample"
    cell = "standardised"

    def __post_init__(self) -> None:
        if self.sigma not in ("sample", "population"):
            raise ValueError("sigma must be 'sample' or 'population'")

    def __call__(self, rewards: Array) -> Array:
        if all_equal(rewards):
            return np.zeros_like(rewards)
        apart = centred(rewards)
        # Scaled first, so that the square of a tiny or huge reward neither vanishes nor overflows.
        unit = apart / np.abs(apart).max()
        return np.asarray(unit / unit.std(ddof=1 if self.sigma == "sample" else 0))


@dataclass(frozen=True)
class LeaveOneOut(Advantage):
    """A_i = r_i - mean of the others = n/(n-1) (r_i - mean): RLOO (2402.14740)."""

    cell = "leave-one-out"

    def __call__(self, rewards: Array) -> Array:
        if all_equal(rewards):
            return np.zeros_like(rewards)
        n = len(rewards)
        return np.asarray(centred(rewards) * (n / (n - 1)))


@dataclass(frozen=True)
class Softmax(Advantage):
    """A_i = n exp(r_i / beta) / sum exp(r / beta): self-normalized importance weights of pi*.

    Samples of pi_ref with these advantages, mean 1, stand for pi* = pi_ref exp(r / beta) / Z.
    `over` = `set` normalises all samples together: a prompt counts by its Z, as after exact
    rejection sampling, and the bias falls as one over all samples. `group` normalises each prompt
    by itself: every prompt counts the same, and the bias falls as one over the samples of a prompt,
    however many prompts there are. Where all n samples of one are wrong, with probability
    (1 - p)^n, each has advantage 1 at any beta.
    """

    beta: float
    over: Literal["group", "set"] = "set"
    cell = "softmax"
    one_policy = True

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta must be above 0 and finite")
        if self.over not in ("group", "set"):
            raise ValueError("over must be group or set")

    def __call__(self, rewards: Array) -> Array:
        return np.asarray(len(rewards) * normalised_weights(self._log_weights(rewards)))

    def remark(self, rewards: Sequence[Array], right: Sequence[NDArray[np.bool_]]) -> str:
        hopeless = sum(not own.any() for own in right)
        without = f"{hopeless} of {len(right)} prompts have no right sample"
        if self.over == "group":
            n = max(map(len, rewards))
            return (
                f"{self}: the weights of each prompt's {n} samples lead to pi* with a bias "
                f"of O(1/{n}), however many prompts there are; {without}, and every wrong one "
                f"there counts 1"
            )
        values = np.concatenate(right).astype(np.float64)
        log_weights = self._log_weights(np.concatenate(rewards))
        share = float(normalised_weights(log_weights) @ values)
        bias = self_normalised_bias(values, log_weights, [len(own) for own in right])
        return (
            f"{self}: {len(values)} weights worth {effective_sample_size(log_weights):.0f} equal "
            f"ones; share right under them {share:.4f}, its bias to that of pi* about {bias:+.1g}; "
            f"{without}"
        )

    def _log_weights(self, rewards: Array) -> Array:
        with np.errstate(over="ignore"):  # to -inf: a weight of 0
            return np.asarray((rewards - rewards.max()) / self.beta)


@dataclass(frozen=True)
class Extremes(Advantage):
    """A = +1 for the best survivor of the group, -1 for the worst, 0 between: a pair."""

    cell = "extremes"
    of_survivors = True

    def __call__(self, rewards: Array) -> Array:
        level = levels(rewards)
        return np.asarray(1.0 * (level == 0) - (level == level.max()))


@dataclass(frozen=True)
class GAE(Advantage):
    """Generalised advantage estimation, one advantage for each token (1506.02438, eq. 16).

    delta_t = r_t + gamma V_(t+1) - V_t; A_t = delta_t + gamma lam A_(t+1); V is 0 after the last
    token, however the completion ended. `whiten` = `batch` gives the token advantages of all
    survivors of a step mean 0 and deviation 1 (a deviation below 1e-4 counts as 1e-4).
    """

    gamma: float = 1.0
    lam: float = 0.95
    whiten: Literal["batch", "none"] = "batch"
    cell = "gae"
    over = "token"

    def __post_init__(self) -> None:
        if not (0 <= self.gamma <= 1 and 0 <= self.lam <= 1):
            raise ValueError("gamma and lam must be from 0 to 1")
        if self.whiten not in ("batch", "none"):
            raise ValueError("whiten must be batch or none")

    def __call__(self, rewards: Array, values: Array | None = None) -> Array:
        """Advantages of the tokens of one sample, shape (tokens,), before whitening.

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
