"""What each survivor weighs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from winnow.algorithms.advantages import Advantage
from winnow.algorithms.kl import InReward
from winnow.errors import UserError
from winnow.types import Group

Array = NDArray[np.float64]
RewardScale = Literal["0/1", "-1/+1"]
_NOISE = 1e-4
"""Advantages that differ by less are not blown up: a KL of 0 is a rounding error, not 0."""


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


def weigh(
    groups: Sequence[Group],
    advantage: Advantage,
    scale: RewardScale,
    penalty: InReward | None = None,
) -> list[Group]:
    """The groups with a weight for each draw: its advantage if it survived, else 0.

    Statistics run over all valid draws of a group, the rejected ones included: a baseline made of
    survivors alone would be another estimator; only an advantage that says ``of_survivors`` is
    given theirs alone. An advantage that says ``over_set`` is given the rewards of all groups at
    once; one that says ``per_token`` those of each token of a draw, and the critic's values.

    Args:
        penalty: What is taken from the rewards for leaving the reference; wants ``ref`` among the
            signals of every draw whose reward matters (`referred`).
    """
    if getattr(advantage, "per_token", False):
        return _weigh_tokens(groups, advantage, scale, penalty)
    rewards = [
        rescale(np.array(group.values, dtype=np.float64), scale) - _taken(group, penalty)
        for group in groups
    ]
    if getattr(advantage, "over_set", False):
        ends = np.cumsum([len(values) for values in rewards])[:-1]
        weights = np.split(_called(advantage, np.concatenate(rewards)), ends)
    else:
        pairs = zip(groups, rewards, strict=True)
        weights = [_of_group(advantage, group, values) for group, values in pairs]
    return [
        group.with_(weights=tuple(_of_survivors(group, own).tolist()))
        for group, own in zip(groups, weights, strict=True)
    ]


def referred(group: Group, advantage: Advantage) -> tuple[int, ...]:
    """Numbers of the draws of a selected group whose reward decides what a survivor weighs."""
    together = getattr(advantage, "over_set", False)
    if together or (group.survivors and getattr(advantage, "group_baseline", False)):
        return tuple(i for i, valid in enumerate(group.valid) if valid)
    return group.survivors


def _taken(group: Group, penalty: InReward | None) -> Array:
    """What the penalty takes from the reward of each valid draw, shape (valid,)."""
    taken = [
        0.0 if penalty is None else float(_by_token(group, i, penalty).sum())
        for i, valid in enumerate(group.valid)
        if valid
    ]
    return np.array(taken, dtype=np.float64)


def _by_token(group: Group, number: int, penalty: InReward | None) -> Array:
    """What the penalty takes from each token of a draw; 0 where its reward decides nothing."""
    ref, old = group.signal(number).ref, group.draws[number].logprobs
    if penalty is None or not ref:
        return np.zeros(group.draws[number].length)
    return penalty(np.array(old), np.array(ref))


def _weigh_tokens(
    groups: Sequence[Group], advantage: Advantage, scale: RewardScale, penalty: InReward | None
) -> list[Group]:
    call: Any = advantage  # of two arguments, as it is `per_token`
    found: dict[tuple[int, int], tuple[Array, Array]] = {}
    for place, group in enumerate(groups):
        scaled = iter(rescale(np.array(group.values, dtype=np.float64), scale).tolist())
        for number, valid in enumerate(group.valid):
            reward = next(scaled) if valid else 0.0
            if valid and group.verdicts[number].kept:
                rewards = -_by_token(group, number, penalty)
                rewards[-1] += reward
                values = np.array(group.signal(number).values, dtype=np.float64)
                own = call(rewards, values if values.size else None)
                found[place, number] = own, own + (values if values.size else 0.0)
    whitened = {key: own for key, (own, _) in found.items()}
    if found and getattr(advantage, "whiten", "none") == "batch":
        every = np.concatenate([own for own, _ in found.values()])
        alike = every.max() == every.min()  # whose mean, rounded, need not be theirs
        mean, sigma = (every[0], 1.0) if alike else (every.mean(), max(every.std(), _NOISE))
        whitened = {key: (own - mean) / sigma for key, own in whitened.items()}
    return [
        group.with_(
            weights=tuple(
                float(whitened[place, number].mean()) if (place, number) in found else 0.0
                for number in range(len(group.draws))
            ),
            signals=tuple(
                replace(
                    group.signal(number),
                    advantages=tuple(whitened[place, number].tolist()),
                    returns=tuple(found[place, number][1].tolist()),
                )
                if (place, number) in found
                else replace(group.signal(number), advantages=(), returns=())
                for number in range(len(group.draws))
            ),
        )
        for place, group in enumerate(groups)
    ]


def _of_group(advantage: Advantage, group: Group, rewards: Array) -> Array:
    """Advantages of the valid draws of a group, from their rewards."""
    if not getattr(advantage, "of_survivors", False):
        return _called(advantage, rewards)
    pairs = zip(group.verdicts, group.valid, strict=True)
    kept = np.array([verdict.kept for verdict, valid in pairs if valid], dtype=bool)
    weights = np.zeros_like(rewards)
    weights[kept] = _called(advantage, rewards[kept])
    return weights


def _called(advantage: Advantage, rewards: Array) -> Array:
    return advantage(rewards) if rewards.size else rewards


def _of_survivors(group: Group, valid_weights: Array) -> Array:
    """A weight for each draw of a group, from those of its valid draws."""
    weights = np.zeros(len(group.draws))
    weights[np.array(group.valid, dtype=bool)] = valid_weights
    return np.where([verdict.kept for verdict in group.verdicts], weights, 0.0)
