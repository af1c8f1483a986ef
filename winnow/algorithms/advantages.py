"""Advantages: what each survivor counts for. Pure.

An advantage maps the scaled rewards of one group's valid samples, shape (n,), to n numbers. A group
whose rewards are all equal has no advantage over itself: that is decided by `theory.ties`, which
knows what is rounding, never by dividing by a tiny sigma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from winnow.algorithms.kl import InReward
from winnow.algorithms.spec import Cell
from winnow.errors import UserError
from winnow.theory.checks import Array
from winnow.theory.importance import normalised_weights
from winnow.theory.ties import all_equal, centred, levels
from winnow.types import Group

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
    """A_i = n exp(r_i / beta) / sum exp(r / beta): self-normalised importance weights of pi*.

    Samples of pi_ref with these advantages, mean 1, stand for pi* = pi_ref exp(r / beta) / Z.
    `over` = `group` normalises each prompt by itself: every prompt counts the same. `set`
    normalises all samples together: a prompt counts by its Z, as after exact rejection sampling.
    """

    beta: float
    over: Literal["group", "set"] = "group"
    cell = "softmax"
    one_policy = True

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta must be above 0 and finite")
        if self.over not in ("group", "set"):
            raise ValueError("over must be group or set")

    def __call__(self, rewards: Array) -> Array:
        with np.errstate(over="ignore"):  # to -inf: a weight of 0
            log_weights = (rewards - rewards.max()) / self.beta
        return np.asarray(len(rewards) * normalised_weights(log_weights))


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


_NOISE = 1e-4
"""Differences below this are not blown up: a KL of 0 comes out as a rounding error."""


def rescale(rewards: Array, scale: RewardScale) -> Array:
    """Rewards as they are (`0/1`), or 2 r - 1 (`-1/+1`).

    Raises:
        UserError: `-1/+1` over rewards outside [0, 1].
    """
    if scale == "0/1":
        return rewards
    if rewards.size and (rewards.min() < 0 or rewards.max() > 1):
        worst = rewards[np.argmax(np.abs(rewards - 0.5))]
        problem = f"'-1/+1' needs rewards from 0 to 1, and one was {worst:g}"
        remedy = "let the verifier return 0 to 1, or set algorithm.reward_scale = '0/1'"
        raise UserError("algorithm.reward_scale", problem, remedy)
    return 2.0 * rewards - 1.0


def assign_advantages(
    groups: Sequence[Group],
    advantage: Advantage,
    scale: RewardScale,
    penalty: InReward | None = None,
) -> list[Group]:
    """The groups with an advantage for each sample; it is 0 for rejected ones.

    Statistics run over all valid samples of a group, the rejected ones included: a baseline of
    survivors alone would be another estimator (only an advantage with ``of_survivors`` uses it). An
    advantage over a `set` is given the rewards of all groups at once; one over `token`, those of
    each token of a sample, and the critic's values.

    Args:
        penalty: Taken from the rewards for leaving the reference; needs the reference log-probs of
            every sample whose reward matters (`referred`).
    """
    if advantage.over == "token":
        return _token_advantages(groups, advantage, scale, penalty)
    rewards = [rescale(_values(group), scale) - _taken(group, penalty) for group in groups]
    if advantage.over == "set":
        ends = np.cumsum([len(values) for values in rewards])[:-1]
        advantages = np.split(_called(advantage, np.concatenate(rewards)), ends)
    else:
        pairs = zip(groups, rewards, strict=True)
        advantages = [_of_group(advantage, group, values) for group, values in pairs]
    return [
        group.with_(advantages=tuple(_of_survivors(group, own).tolist()))
        for group, own in zip(groups, advantages, strict=True)
    ]


def referred(group: Group, advantage: Advantage) -> tuple[int, ...]:
    """Numbers of the samples of a selected group whose reward decides some survivor's advantage."""
    if advantage.over == "set" or (advantage.over == "group" and group.survivors):
        return tuple(i for i, valid in enumerate(group.valid) if valid)
    return group.survivors


def _values(group: Group) -> Array:
    """The scores of a group's valid samples, shape (valid,); one number if all are equal.

    Decided before they are rescaled: 2 r - 1 leaves nothing but the rounding of an r near 1/2.
    """
    values = np.array(group.values, dtype=np.float64)
    if all_equal(values, group.right_at):
        values = np.full_like(values, values.max(initial=-math.inf))
    return values


def _taken(group: Group, penalty: InReward | None) -> Array:
    """What the penalty takes from the reward of each valid sample, shape (valid,)."""
    taken = [
        0.0 if penalty is None else float(_by_token(group, i, penalty).sum())
        for i, valid in enumerate(group.valid)
        if valid
    ]
    return np.array(taken, dtype=np.float64)


def _by_token(group: Group, number: int, penalty: InReward | None) -> Array:
    """What the penalty takes from each token of a sample; 0 where its reward decides nothing."""
    ref, old = group.annotation(number).ref_logprobs, group.samples[number].logprobs
    if penalty is None or not ref:
        return np.zeros(group.samples[number].length)
    return penalty(np.array(old), np.array(ref))


def _token_advantages(
    groups: Sequence[Group], advantage: Advantage, scale: RewardScale, penalty: InReward | None
) -> list[Group]:
    call: Any = advantage  # of two arguments, as it is over `token`
    found: dict[tuple[int, int], tuple[Array, Array]] = {}
    for place, group in enumerate(groups):
        scaled = iter(rescale(np.array(group.values, dtype=np.float64), scale).tolist())
        for number, valid in enumerate(group.valid):
            reward = next(scaled) if valid else 0.0
            if valid and group.outcomes[number].survived:
                rewards = -_by_token(group, number, penalty)
                rewards[-1] += reward
                values = np.array(group.annotation(number).values, dtype=np.float64)
                own = call(rewards, values if values.size else None)
                found[place, number] = own, own + (values if values.size else 0.0)
    whitened = {key: own for key, (own, _) in found.items()}
    if found and advantage.whiten == "batch":
        every = np.concatenate([own for own, _ in found.values()])
        mean = every.mean()
        sigma = math.inf if all_equal(every) else max(every.std(), _NOISE)
        whitened = {key: (own - mean) / sigma for key, own in whitened.items()}
    return [
        group.with_(
            advantages=tuple(
                float(whitened[place, number].mean()) if (place, number) in found else 0.0
                for number in range(len(group.samples))
            ),
            annotations=tuple(
                replace(
                    group.annotation(number),
                    token_advantages=tuple(whitened[place, number].tolist()),
                    returns=tuple(found[place, number][1].tolist()),
                )
                if (place, number) in found
                else replace(group.annotation(number), token_advantages=(), returns=())
                for number in range(len(group.samples))
            ),
        )
        for place, group in enumerate(groups)
    ]


def _of_group(advantage: Advantage, group: Group, rewards: Array) -> Array:
    """Advantages of the valid samples of a group, from their rewards."""
    if not advantage.of_survivors:
        return _called(advantage, rewards)
    pairs = zip(group.outcomes, group.valid, strict=True)
    survived = np.array([outcome.survived for outcome, valid in pairs if valid], dtype=bool)
    advantages = np.zeros_like(rewards)
    advantages[survived] = _called(advantage, rewards[survived])
    return advantages


def _called(advantage: Advantage, rewards: Array) -> Array:
    return advantage(rewards) if rewards.size else rewards


def _of_survivors(group: Group, valid_advantages: Array) -> Array:
    """An advantage for each sample of a group, from those of its valid samples."""
    advantages = np.zeros(len(group.samples))
    advantages[np.array(group.valid, dtype=bool)] = valid_advantages
    return np.where([outcome.survived for outcome in group.outcomes], advantages, 0.0)
