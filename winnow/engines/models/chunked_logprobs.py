"""Log-probabilities from a linear head, without ever holding tokens x vocabulary.

The vocabulary is taken slice by slice, for all positions, and again in the backward pass: the
largest tensor is (positions, slice). Each slice of the head's gradient is written once.

In a block of `precision.mixed` the head's weight is rounded, its gradient is added to `.grad` slice
by slice, and the products of the backward pass are in bfloat16; logits, which a log-prob is the
difference of, are never rounded to it. Probabilities, which are rounded before those products
anyway, are kept for them where they take little room.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from winnow.engines.models.precision import gradient_of, is_mixed, low, wide_product
from winnow.engines.models.rounding import LOW

_ELEMENTS = 2**21
"""Logits held at a time: 8 MiB in float32, so that they stay in a cache."""
_GPU_ELEMENTS = 2**25
"""The same on a GPU, where a small product takes as long as a larger one."""
_LEAST = 1024
_KEPT_BYTES = 2**28
"""Most bytes of rounded probabilities that are kept, not computed again."""


def logprobs(
    features: Tensor, weight: Tensor, bias: Tensor | None, index: Tensor, targets: Tensor, t: float
) -> Tensor:
    """log softmax((features @ weight.T + bias) / t) at chosen places, float32 or better.

    Args:
        features: Shape (positions, hidden).
        weight: Of the head, shape (vocabulary, hidden).
        bias: Shape (vocabulary,), or None.
        index: For each item the position that predicts it, shape (items,).
        targets: For each item its token, shape (items,).
        t: Temperature.

    Returns:
        Shape (items,).
    """
    learns = torch.is_grad_enabled() and (features.requires_grad or weight.requires_grad)
    mixed = is_mixed()
    own = low(weight) if mixed else weight
    how = _How(t, mixed, learns)
    return cast(Tensor, cast(Any, _Head).apply(features, weight, own, bias, index, targets, how))


class _How(NamedTuple):
    t: float
    mixed: bool
    learns: bool


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        own: Tensor,
        bias: Tensor | None,
        index: Tensor,
        targets: Tensor,
        how: _How,
    ) -> Tensor:
        t, mixed, learns = how
        keeps = mixed and learns and LOW.itemsize * len(features) * len(weight) <= _KEPT_BYTES
        wide = torch.promote_types(features.dtype, torch.float32)
        top = features.new_full((len(features),), -torch.inf, dtype=wide)
        total = torch.zeros_like(top)
        chosen = torch.empty(len(index), dtype=wide, device=features.device)
        ctx.kept = []
        for part in _slices(features, own):
            logits = _logits(features, own, bias, part, t, mixed)
            here = _within(targets, part)
            chosen[here] = logits[index[here], targets[here] - part.start]
            new = torch.maximum(top, logits.amax(-1)).clamp_(min=torch.finfo(wide).min)
            total.mul_((top - new).exp_()).add_(logits.sub_(new[:, None]).exp_().sum(-1))
            top = new
            if keeps:  # the likeliest so far is 1 and not rounded: where p is near 1, 1 - p counts
                ctx.kept.append((logits.to(LOW), top))
        norm = top + total.log_()
        ctx.save_for_backward(features, own, bias, index, targets, norm)
        ctx.t, ctx.mixed, ctx.weight = t, mixed, weight
        return chosen - norm[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        features, own, bias, index, targets, norm = ctx.saved_tensors
        # d/d logits = sum of grads at the target - (sum of grads) x softmax
        each = torch.zeros_like(norm).index_add_(0, index, grad)
        to_features = torch.zeros_like(features, dtype=norm.dtype)  # a sum over many slices
        learns = ctx.needs_input_grad[1]
        to_weight = torch.empty_like(own) if learns and not ctx.mixed else None
        added = gradient_of(ctx.weight) if learns and ctx.mixed else None
        to_bias = None if bias is None else torch.empty_like(bias)
        rounded = features.to(LOW) if ctx.mixed else features
        for number, part in enumerate(_slices(features, own)):
            here = _within(targets, part)
            place = (index[here], targets[here] - part.start)
            if ctx.kept:  # of each part once: memory is needed for other gradients now
                weights, top = ctx.kept[number]
                ctx.kept[number] = None
                slope = torch.mul(weights, (-each * (top - norm).exp_())[:, None])
            else:
                logits = _logits(features, own, bias, part, ctx.t, ctx.mixed)
                slope = logits.sub_(norm[:, None]).exp_().mul_(-each[:, None])
            slope.index_put_(place, grad[here], accumulate=True)
            slope = (slope.div_(ctx.t) if ctx.t != 1 else slope).to(rounded.dtype)
            if rounded.dtype == norm.dtype:
                to_features.addmm_(slope, own[part])
            else:
                to_features += torch.mm(slope, own[part])
            if to_weight is not None:
                torch.mm(slope.t(), rounded, out=to_weight[part])
            if added is not None:
                added[part] += torch.mm(slope.t(), rounded)
            if to_bias is not None:
                to_bias[part] = slope.sum(0)
        return to_features.to(features.dtype), to_weight, None, to_bias, None, None, None


def _slices(features: Tensor, weight: Tensor) -> list[slice]:
    elements = _GPU_ELEMENTS if features.is_cuda else _ELEMENTS
    width = max(_LEAST, elements // max(1, len(features)))
    return [slice(a, min(a + width, len(weight))) for a in range(0, len(weight), width)]


def _logits(
    features: Tensor, weight: Tensor, bias: Tensor | None, part: slice, t: float, mixed: bool
) -> Tensor:
    """Of one slice of the vocabulary, in a tensor of their own, float32 or better."""
    own = weight[part]
    logits = wide_product(features, own) if mixed else torch.mm(features, own.t())
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if bias is not None:
        logits += bias[part]
    return logits.div_(t) if t != 1 else logits


def _within(targets: Tensor, part: slice) -> Tensor:
    """Numbers of the items whose target lies in a slice."""
    return torch.nonzero((targets >= part.start) & (targets < part.stop)).squeeze(-1)
