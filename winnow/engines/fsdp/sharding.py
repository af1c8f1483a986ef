"""A module sharded by FSDP2: groups of parameters that are gathered together, and its passes.

Each process holds a part of the rows of every parameter, in float32. A block is gathered when it is
run and let go of afterwards; gradients are summed over processes, never averaged, since their
denominators are global already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.made_again import keep_result
from winnow.engines.models.recompute import blocks_of, compute_again


def shard(
    module: nn.Module,
    mesh: DeviceMesh,
    compute: torch.dtype,
    *,
    recompute: bool = False,
    offload: bool = False,
) -> nn.Module:
    """Shard a causal language model in place: each block, its embeddings if untied, and the rest.

    Args:
        compute: Data type of the passes; gradients are reduced in float32.
        recompute: Whether the backward pass computes a block's activations again.
        offload: Whether what a process holds is in the host's memory, gradients too.
    """
    model = cast(Any, module)
    own = next(module.parameters()).dtype
    mixed = MixedPrecisionPolicy() if compute == own else MixedPrecisionPolicy(compute, own)
    pinned = mesh.device_type == "cuda"
    where = CPUOffloadPolicy(pin_memory=pinned) if offload else OffloadPolicy()
    how: dict[str, Any] = {"mesh": mesh, "mp_policy": mixed, "offload_policy": where}
    for block in blocks_of(module):
        if recompute:
            compute_again(block, module)
        keep_result(block)  # it would be made of weights that are gathered no more
        fully_shard(block, **how)
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is not words.weight:
        fully_shard(words, **how)
    fully_shard(module, **how)
    for part in parts_of(module):  # neither setting is passed on
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo cannot scale
    return module


def parts_of(module: nn.Module) -> list[FSDPModule]:
    """The modules whose parameters are gathered together."""
    return [inner for inner in module.modules() if isinstance(inner, FSDPModule)]


def settle(module: nn.Module) -> None:
    """Let go of all that is gathered, so that parameters and gradients are this process's part."""
    for part in parts_of(module):
        part.reshard()


@torch.no_grad()
def materialise(module: nn.Module, device: torch.device) -> None:
    """Give the parameters of a sharded module memory where they have none; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            if parameter.device.type == "meta":
                if id(parameter) not in made:
                    empty = torch.empty_like(parameter, device=device)
                    made[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
                inner.register_parameter(name, made[id(parameter)])


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """In the block, every process has the whole module, as plain tensors, and no pass waits.

    The module must have been run before.
    """
    for part in parts_of(module):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts_of(module):
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a sharded tensor; the same memory."""
    tensor = tensor.detach()
    return tensor.to_local().as_subclass(Tensor) if isinstance(tensor, DTensor) else tensor


def rows(length: int, rank: int, ranks: int) -> slice:
    """The rows that a process holds of a parameter that has so many."""
    each = -(-length // ranks)
    return slice(min(rank * each, length), min((rank + 1) * each, length))


def part_of(whole: Tensor, rank: int, ranks: int) -> Tensor:
    """What a process holds of a whole parameter."""
    return whole[rows(len(whole), rank, ranks)] if whole.dim() else whole


class ShardedForward(PolicyForward):
    """Passes of a sharded module.

    Its body is run without the module around it, and its head by its weight. So what is in neither
    of the blocks is gathered by hand before each pass, and stays until `settle`.

    Args:
        compute: Data type of the passes.
        device: Where they run; parameters may be elsewhere.
    """

    def __init__(self, module: nn.Module, compute: torch.dtype, device: torch.device) -> None:
        self._compute, self._device = compute, device
        super().__init__(module)
        settle(module)

    @property
    def dtype(self) -> torch.dtype:
        return self._compute

    @property
    def device(self) -> torch.device:
        return self._device

    def _run(self, **inputs: Any) -> Tensor:
        cast(FSDPModule, self.module).unshard()
        return super()._run(**inputs)
