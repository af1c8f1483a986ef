"""Advantages of groups: from rescaled scores, less a KL in the reward. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winnow.algorithms.advantages import Advantage, RewardScale
from winnow.algorithms.kl import InReward
from winnow.algorithms.own import checked_numbers, own_code
from winnow.errors import UserError
from winnow.theory.checks import Array
from winnow.theory.ties import all_equal
from winnow.types import Group, Outcome

ALL_EQUAL = "all rewards equal"
"""The reason of survivors that have no advantage over their group."""
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

    Survivors that have no advantage over their group, as its rewards are all equal, still count in
    denominators; the reason of their outcome says so.

    Args:
        penalty: Taken from the rewards for leaving the reference; needs the reference log-probs of
            every sample whose reward matters (`referred`).
    """
    if advantage.over == "token":
        return _token_advantages(groups, advantage, scale, penalty)
    rewards = [
        rescale(_values(group, advantage), scale) - _taken(group, penalty) for group in groups
    ]
    if advantage.over == "set":
        ends = np.cumsum([len(values) for values in rewards])[:-1]
        advantages = np.split(_called(advantage, np.concatenate(rewards)), ends)
    else:
        pairs = zip(groups, rewards, strict=True)
        advantages = [_of_group(advantage, group, values) for group, values in pairs]
    return [
        _explained(
            group.with_(advantages=tuple(_of_survivors(group, own).tolist())), advantage, values
        )
        for group, own, values in zip(groups, advantages, rewards, strict=True)
    ]


def remark(groups: Sequence[Group], advantage: Advantage, scale: RewardScale) -> str | None:
    """What a person should know of an advantage over a set of samples that is trained on whole."""
    scored = [group for group in groups if any(group.valid)]
    if not scored:
        return None
    rewards = [rescale(_values(group, advantage), scale) for group in scored]
    right = [np.array(group.right)[np.array(group.valid)] for group in scored]
    return advantage.remark(rewards, right)


def referred(group: Group, advantage: Advantage) -> tuple[int, ...]:
    """Numbers of the samples of a selected group whose reward decides some survivor's advantage."""
    if advantage.over == "set" or (advantage.over == "group" and group.survivors):
        return tuple(i for i, valid in enumerate(group.valid) if valid)
    return group.survivors


def _explained(group: Group, advantage: Advantage, rewards: Array) -> Group:
    """The group, its survivors' reason changed where they count 0 because all rewards are equal."""
    compared = rewards[_survived(group)] if advantage.of_survivors else rewards
    if advantage.over != "group" or any(group.advantages) or not all_equal(compared):
        return group
    return group.with_(
        outcomes=tuple(
            Outcome(True, ALL_EQUAL) if outcome.survived else outcome for outcome in group.outcomes
        )
    )


def _values(group: Group, advantage: Advantage) -> Array:
    """The scores of a group's valid samples, shape (valid,); one number if all are equal.

    So too of the survivors, where only they are compared. Decided before they are rescaled: 2 r - 1
    leaves nothing but the rounding of an r near 1/2.
    """
    values = np.array(group.values, dtype=np.float64)
    every = np.ones(len(values), dtype=bool)
    for among in (every, _survived(group)) if advantage.of_survivors else (every,):
        if all_equal(values[among], group.right_at):
            values[among] = values[among].max(initial=-math.inf)
    return values


def _survived(group: Group) -> NDArray[np.bool_]:
    """Whether each of the valid samples of a group survived, shape (valid,)."""
    pairs = zip(group.outcomes, group.valid, strict=True)
    return np.array([outcome.survived for outcome, valid in pairs if valid], dtype=bool)


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
                with own_code(advantage, "advantage"):
                    own = call(rewards, values if values.size else None)
                own = checked_numbers(advantage, "advantage", own, rewards.shape)
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
    survived = _survived(group)
    advantages = np.zeros_like(rewards)
    advantages[survived] = _called(advantage, rewards[survived])
    return advantages


def _called(advantage: Advantage, rewards: Array) -> Array:
    if not rewards.size:
        return rewards
    with own_code(advantage, "advantage"):
        given = advantage(rewards)
    return checked_numbers(advantage, "advantage", given, rewards.shape)


def _of_survivors(group: Group, valid_advantages: Array) -> Array:
    """An advantage for each sample of a group, from those of its valid samples."""
    advantages = np.zeros(len(group.samples))
    advantages[np.array(group.valid, dtype=bool)] = valid_advantages
    return np.where([outcome.survived for outcome in group.outcomes], advantages, 0.0)
