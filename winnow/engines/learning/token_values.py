"""Token annotations: reference log-probs and a critic's values. No gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from winnow.engines.base import PerToken
from winnow.engines.learning.microbatches import cut
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
) -> PerToken:
    """By group and sample, a number for each token; nothing for samples that are not asked for."""
    found: PerToken = [[()] * len(group.samples) for group in groups]
    for parts in cut(groups, asked, microbatch_tokens, share=share):
        values = compute([part.piece for part in parts]).double()
        lengths = [length for part in parts for length in part.lengths]
        members = [(part.place, i) for part in parts for i in part.samples]
        for (place, i), own in zip(members, torch.split(values, lengths), strict=True):
            found[place][i] = tuple(own.tolist())
    return found


def logprobs(forward: PolicyForward, temperature: float) -> Compute:
    """log pi of each token at a temperature, nats."""
    return lambda pieces: forward.logprobs(forward.contexts(pieces), temperature)


def sequence_logprobs(
    forward: PolicyForward, groups: Sequence[Group], temperature: float, microbatch_tokens: int
) -> list[list[float]]:
    """log pi of every whole completion at a temperature, nats, by group and sample."""
    every = [range(len(group.samples)) for group in groups]
    found = per_token(
        logprobs(forward, temperature),
        groups,
        every,
        share=forward.shares_prefix,
        microbatch_tokens=microbatch_tokens,
    )
    return [[sum(sample) for sample in group] for group in found]
