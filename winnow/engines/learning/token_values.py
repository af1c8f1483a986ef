"""Token annotations: reference log-probs and a critic's values. No gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from winnow.engines.base import PerToken
from winnow.engines.learning.microbatches import ALONE, Rank, turns
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.types import Group

Compute = Callable[[Sequence[Piece]], Tensor]
"""Some pieces -> a number for each of their completion tokens, shape (tokens,)."""


@torch.no_grad()
def per_token(
    compute: Compute,
    groups: Sequence[Group],
    asked: Sequence[Sequence[int]],
    *,
    share: bool,
    microbatch_tokens: int,
    rank: Rank = ALONE,
) -> PerToken:
    """By group and sample, a number for each token; nothing for samples that are not asked for.

    Args:
        rank: Which part of the groups is this process's own; it has nothing for others either.
    """
    found: PerToken = [[()] * len(group.samples) for group in groups]
    own, idle = turns(groups, asked, microbatch_tokens, rank, share=share)
    for parts in own:
        values = compute([part.piece for part in parts]).double()
        lengths = [length for part in parts for length in part.lengths]
        members = [(part.place, i) for part in parts for i in part.samples]
        for (place, i), row in zip(members, torch.split(values, lengths), strict=True):
            found[place][i] = tuple(row.tolist())
    for parts in idle:
        compute([part.piece for part in parts])
    return found


def merged(parts: Sequence[PerToken]) -> PerToken:
    """What `per_token` found, of what each rank found."""
    return [
        [next((found for found in one if found), ()) for one in zip(*group, strict=True)]
        for group in zip(*parts, strict=True)
    ]


def logprobs(forward: PolicyForward, temperature: float) -> Compute:
    """log pi of each token at a temperature, nats."""
    return lambda pieces: forward.logprobs(forward.contexts(pieces), temperature)


def completion_logprobs(
    forward: PolicyForward,
    groups: Sequence[Group],
    temperature: float,
    microbatch_tokens: int,
    rank: Rank = ALONE,
) -> PerToken:
    """log pi of each token of every completion at a temperature, nats; see `per_token`."""
    every = [range(len(group.samples)) for group in groups]
    return per_token(
        logprobs(forward, temperature),
        groups,
        every,
        share=forward.shares_prefix,
        microbatch_tokens=microbatch_tokens,
        rank=rank,
    )


def summed(found: PerToken) -> list[list[float]]:
    """log pi of every whole completion, nats, by group and sample."""
    return [[sum(sample) for sample in group] for group in found]


def sequence_logprobs(
    forward: PolicyForward, groups: Sequence[Group], temperature: float, microbatch_tokens: int
) -> list[list[float]]:
    """log pi of every whole completion at a temperature, nats, by group and sample."""
    return summed(completion_logprobs(forward, groups, temperature, microbatch_tokens))
