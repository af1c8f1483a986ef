"""The learning rate of an update, and the float32 copies of rounded weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from winnow.config.schema.optimizer import OptimizerConfig


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
    sizes = [w.numel() for w in like]
    dtype, device = like[0].dtype, like[0].device
    if device.type == "cpu" and dtype == torch.float32:
        block = torch.from_numpy(np.zeros(sum(sizes), np.float32))
    else:
        block = torch.zeros(sum(sizes), dtype=dtype, device=device)
    return (part.view_as(w) for part, w in zip(torch.split(block, sizes), like, strict=True))


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
