"""Preferences: which of two completions is better, and the loss that learns from it. Pure.

    pairs(groups, per_prompt=4, rng=random.Random(0)) -> [Pair(prompt, better, worse), ...]
    bradley_terry(r(better), r(worse))                -> loss of each pair

Only tensor methods are used: importing this module does not import torch.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING

from winnow.algorithms.losses import minus_log_sigmoid
from winnow.errors import UserError
from winnow.theory.ties import rounding
from winnow.types import Group, Prompt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one prompt, as texts; the first was preferred."""

    prompt: Prompt
    better: str
    worse: str


@dataclass(frozen=True)
class FitSettings:
    """How a reward model is fitted to pairs.

    Attributes:
        epochs: Passes over the pairs, each in an order of its own.
        lr: Learning rate of the first update.
        batch_pairs: Pairs of an update; the last one of an epoch may have fewer.
        seed: Decides the order of the pairs.
        dtype: Of the passes and the result; what is trained is in float32 all the same.
        layers: Keep only the first so many layers of the base: a smaller, quicker model.
        microbatch_tokens: Tokens through the model at a time, padding counted; about.
    """

    epochs: int = 1
    lr: float = 1e-5
    batch_pairs: int = 16
    seed: int = 0
    dtype: str = "float32"
    layers: int | None = None
    microbatch_tokens: int = 8192

    def check(self) -> None:
        """Raise UserError for a setting out of range."""
        for name, value in (("epochs", self.epochs), ("batch_pairs", self.batch_pairs)):
            if value < 1:
                raise UserError(name, f"must be at least 1 (got {value})")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError("lr", f"must be a number above 0 (got {self.lr})")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError("dtype", f"must be 'float32' or 'bfloat16' (got {self.dtype!r})")


def pairs(groups: Iterable[Group], *, per_prompt: int, rng: Random) -> list[Pair]:
    """Pairs of different reward from scored groups; the higher reward is the better one.

    A text that was sampled several times enters once, with the mean of its scores, so that no pair
    contradicts another. Samples without a score are left out; a group whose texts all have the same
    reward gives no pair.

    Args:
        groups: Scored groups. Each is taken by itself, also where two have the same prompt.
        per_prompt: Most pairs of a group, chosen without replacement, all equally likely.
        rng: Chooses the pairs and their order within a group; groups keep theirs.

    Raises:
        ValueError: ``per_prompt`` is below 1, or a group has not been scored.
    """
    if per_prompt < 1:
        raise ValueError(f"at least one pair a prompt, not {per_prompt}")
    found = []
    for group in groups:
        ranked = sorted(_rewards(group).items(), key=lambda item: item[1])
        within = rounding([value for _, value in ranked], group.right_at)  # means round too
        unequal = [
            Pair(group.prompt, better, worse)
            for (worse, low), (better, high) in combinations(ranked, 2)
            if high - low > within
        ]
        found.extend(rng.sample(unequal, min(per_prompt, len(unequal))))
    return found


def bradley_terry(better: Tensor, worse: Tensor) -> Tensor:
    """-log sigmoid(r_better - r_worse): negative log-likelihood of each preference, in nats.

    The probability that one is preferred is sigma(r_better - r_worse) (Bradley & Terry 1952); as a
    loss for reward models Christiano et al. 2017 (1706.03741) and, with this sign and form, Ouyang
    et al. 2022 (2203.02155, eq. 1). Its gradient with respect to r_better is
    -sigma(r_worse - r_better).

    Args:
        better: Rewards of the preferred completions, shape (pairs,).
        worse: Rewards of the others, shape (pairs,).

    Returns:
        Shape (pairs,), unreduced.
    """
    return minus_log_sigmoid(better - worse)


def _rewards(group: Group) -> dict[str, float]:
    """The reward of each distinct text that has one."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for sample, score in zip(group.samples, group.scores, strict=True):
        if score.value is not None:
            values[sample.text].append(score.value)
    # statistics.mean is exact: equal scores have exactly their value as a mean
    return {text: statistics.mean(scores) for text, scores in values.items()}
