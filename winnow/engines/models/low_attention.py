"""Attention in bfloat16 on a CPU: products in bfloat16, softmax in float32.

torch's own kernel multiplies in small pieces there and is no faster in bfloat16 than in float32.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from winnow.engines.models.precision import wide_product

_SCORES = 2**20
"""Scores held at a time: 4 MiB, so that they stay in a cache."""
_FEW = 16
"""Scores of fewer queries than this are rounded: in float32 their product takes longer."""


def low_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """softmax(scale q k' + mask) v. Weights are computed again in the backward pass.

    Args:
        query: (batch, heads, queries, width), bfloat16; keys and values likewise.
        mask: Additive, float32, (batch, 1, queries, keys).

    Returns:
        (batch, heads, queries, width of a value), bfloat16.
    """
    if not torch.is_grad_enabled():
        return _attended(query, key, value, mask, scale)
    return cast(Tensor, cast(Any, _Attention).apply(query, key, value, mask, scale))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        return _attended(query, key, value, mask, scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        query, key, value, mask = ctx.saved_tensors
        to_query, to_key, to_value = map(torch.empty_like, (query, key, value))
        for part in _parts(query, key):
            weights = _weights(query[part], key[part], mask[part], ctx.scale)
            torch.matmul(weights.transpose(-1, -2), grad[part], out=to_value[part])
            slope = torch.matmul(grad[part], value[part].transpose(-1, -2))
            slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
            torch.matmul(slope, key[part], out=to_query[part])
            torch.matmul(slope.transpose(-1, -2), query[part], out=to_key[part])
        return to_query.mul_(ctx.scale), to_key.mul_(ctx.scale), to_value, None, None


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    parts = _parts(query, key)
    if len(parts) == 1:
        return torch.matmul(_weights(query, key, mask, scale), value)
    out = query.new_empty((*query.shape[:-1], value.shape[-1]))
    for part in parts:
        weights = _weights(query[part], key[part], mask[part], scale)
        torch.matmul(weights, value[part], out=out[part])
    return out


def _parts(query: Tensor, key: Tensor) -> list[slice]:
    batch, heads, queries, _ = query.shape
    size = max(1, _SCORES // (heads * queries * key.shape[2]))
    return [slice(start, start + size) for start in range(0, batch, size)]


def _weights(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    if query.shape[-2] < _FEW:
        scores = torch.matmul(query, key.transpose(-1, -2))
        return torch.add(mask, scores, alpha=scale).softmax(-1).to(query.dtype)
    with torch.autocast("cpu", enabled=False):
        scores = wide_product(query.float(), key.float())
    torch.add(mask, scores, alpha=scale, out=scores)  # in place: a second tensor leaves the cache
    return scores.softmax(-1).to(query.dtype)
