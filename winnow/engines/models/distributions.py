"""Entropy and KL of next-token distributions over the whole vocabulary, some positions at a time.

Logits are recomputed in the backward pass: the largest tensor is (some positions, vocabulary).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from winnow.engines.models.forward import Contexts, Piece, PolicyForward

_ELEMENTS, _GPU_ELEMENTS = 2**22, 2**25
"""Logits held at a time, on a CPU and on a GPU."""


@dataclass(frozen=True)
class Frozen:
    """The distributions of a reference at the contexts of some pieces.

    Attributes:
        features: Shape (contexts, hidden), or logits where ``head`` is the identity.
        head: Features -> logits.
    """

    features: Tensor
    head: Callable[[Tensor], Tensor]


@torch.no_grad()
def frozen(forward: PolicyForward, pieces: Sequence[Piece], *, copy: bool = False) -> Frozen:
    """The distributions of a module as it is now; they outlast changes of its weights.

    Args:
        copy: Whether of the head's weights too, where others will be in the same place.
    """
    at = forward.contexts(pieces)
    head = forward.module.get_output_embeddings()  # type: ignore[operator]
    if forward.splits_head and type(head) is nn.Linear:
        weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
        if copy:
            weight, bias = weight.clone(), None if bias is None else bias.clone()
        return Frozen(at.features, lambda part: nn.functional.linear(part, weight, bias))
    return Frozen(forward.logits(at.features), lambda part: part)


def entropies(forward: PolicyForward, at: Contexts, temperature: float) -> Tensor:
    """Entropy of the distribution behind each completion token, nats, shape (tokens,)."""

    def entropy(features: Tensor) -> Tensor:
        logp = _logp(forward.logits(features), temperature)
        return -_expected(logp, logp).sum(-1)

    return _by_part(forward, entropy, at.features)[at.index]


def divergences(
    forward: PolicyForward, at: Contexts, reference: Frozen, temperature: float
) -> Tensor:
    """KL(pi || pi_ref) of those distributions, nats, shape (tokens,)."""

    def divergence(features: Tensor, others: Tensor) -> Tensor:
        logp = _logp(forward.logits(features), temperature)
        ratio = logp - _logp(reference.head(others), temperature)
        return _expected(logp, ratio).sum(-1)

    return _by_part(forward, divergence, at.features, reference.features)[at.index]


def _logp(logits: Tensor, temperature: float) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits / temperature).log_softmax(-1)


def _expected(logp: Tensor, values: Tensor) -> Tensor:
    """p x values, 0 where p is 0: some models mask unused tokens."""
    return logp.exp() * values.masked_fill(logp.isneginf(), 0.0)


def _by_part(forward: PolicyForward, compute: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    elements = _GPU_ELEMENTS if rows[0].is_cuda else _ELEMENTS
    size = max(16, elements // forward.vocabulary)
    learns = torch.is_grad_enabled() and rows[0].requires_grad
    parts = zip(*(torch.split(tensor, size) for tensor in rows), strict=True)
    return torch.cat(
        [
            checkpoint(compute, *part, use_reentrant=False) if learns else compute(*part)
            for part in parts
        ]
    )
