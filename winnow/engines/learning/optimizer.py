"""The learning rate of an update, float32 copies of rounded weights, where gradients lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from winnow.config.schema.optimizer import OptimizerConfig
from winnow.engines.devices import for_a_while


def learning_rate(config: OptimizerConfig, update: int, total: int) -> float:
    """Learning rate of the update with this number, from 0: warm-up, then the schedule."""
    if update < config.warmup:
        return config.lr * (update + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = min(1.0, (update - config.warmup) / max(1, total - config.warmup))
    if config.schedule == "linear":
        return config.lr * (1 - done)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def zeros_like_each(like: Sequence[Tensor]) -> Iterator[Tensor]:
    """Zeros in one block, cut to shape. Allocated one by one they would take seconds.

    A CPU's are memory that the system has zeroed, which it does when it is first written to: a run
    samples before it learns.
    """
    size = sum(w.numel() for w in like)
    dtype, device = like[0].dtype, like[0].device
    if device.type == "cpu" and dtype == torch.float32:
        block = torch.from_numpy(np.zeros(size, np.float32))
    else:
        block = torch.zeros(size, dtype=dtype, device=device)
    return _cut(block, like)


def _cut(block: Tensor, like: Sequence[Tensor]) -> Iterator[Tensor]:
    """Parts of a block, in the shapes of some tensors."""
    parts = torch.split(block, [w.numel() for w in like])
    return (part.view_as(w) for part, w in zip(parts, like, strict=True))


@torch.no_grad()
def side_by_side(stepped: Sequence[Tensor]) -> None:
    """Move the gradients of tensors in a CPU's memory into one block.

    A backward pass leaves them where there was room between what it still kept. What the next
    micro-batch keeps would not fit in between.
    """
    found = [w for w in stepped if w.grad is not None and _is_in_memory(w.grad)]
    if len({cast(Tensor, w.grad).untyped_storage().data_ptr() for w in found}) < 2:
        return
    with for_a_while():
        block = torch.empty(sum(w.numel() for w in found))
    for weight, own in zip(found, _cut(block, found), strict=True):
        weight.grad = own.copy_(cast(Tensor, weight.grad))


def _is_in_memory(x: Tensor) -> bool:
    """Whether all of it is here, number after number, in float32."""
    plain = type(x) is Tensor and x.layout == torch.strided and x.device.type == "cpu"
    return plain and x.dtype == torch.float32 and x.is_contiguous()


def master_of(weight: nn.Parameter, hooks: list[Any]) -> Tensor:
    """What the optimizer steps: the weight itself, or a float32 copy that gathers its gradients.

    Args:
        hooks: The hook that gathers them is added here.
    """
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return weight
    master = weight.detach().float().clone()

    def gather(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    hooks.append(cast(Any, weight).register_post_accumulate_grad_hook(gather))
    return master
