"""Attention whose scores are capped, or whose softmax has a sink. No fused kernel has either."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout


def capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
    dropped: float,
    cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """softmax(cap tanh(scale q k' / cap) + mask) v, with one more column in the softmax for a sink.

    Args:
        query: (batch, heads, queries, width); keys and values likewise.
        mask: Additive, (batch, 1, queries, keys).
        dropped: Share of the weights that dropout takes.
        cap: As in Gemma 2 (Riviere et al., 2024).
        sinks: A score that takes weight and gives no value, (heads, queries, 1), as in gpt-oss.

    Returns:
        (batch, heads, queries, width of a value).
    """
    scores = query @ key.transpose(-1, -2) * scale
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores).expand(len(scores), -1, -1, -1)], dim=-1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(-1, dtype=exact).to(value.dtype)
    weights = weights if sinks is None else weights[..., :-1]
    return dropout(weights, dropped) @ value
