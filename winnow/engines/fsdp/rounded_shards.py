"""Parts of parameters in float32 that are gathered in bfloat16, rounded as `models/rounding.py` has
it. FSDP's own policy rounds to the nearest, which hides a part of what an update changes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from winnow.engines.models.rounding import rounded


class RoundedShard(Tensor):
    """What a process holds of a parameter, by FSDP2's hooks about an all-gather.

    Every tensor that torch makes of one is one too, since FSDP pads it and moves it. Its place in
    the whole decides how it is rounded, so that the number of processes changes nothing.
    """

    def fsdp_pre_all_gather(
        self,
        mesh: DeviceMesh,
        outer_size: torch.Size,
        outer_stride: tuple[int, ...],
        module: nn.Module,
        policy: Any,
    ) -> tuple[tuple[Tensor, ...], Any]:
        each = -(-outer_size[0] // mesh.size())
        first = first_of(outer_size, mesh.get_local_rank(), mesh.size())
        own = rounded(plain(self), policy.param_dtype, first)
        if len(own) < each:  # nccl and gloo gather parts of one size
            own = torch.cat([own, own.new_zeros(each - len(own), *outer_size[1:])])
        return (own,), None

    def fsdp_post_all_gather(
        self, gathered: tuple[Tensor, ...], made: Any, dtype: torch.dtype, *, out: Any = None
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """What was gathered is the parameter, padding at its end; ``out`` is the same memory."""
        return (gathered[0], ()) if out is None else None


def first_of(whole: torch.Size, rank: int, of: int) -> int:
    """The place of the first number of a process's rows, in a parameter of this shape."""
    return rank * -(-whole[0] // of) * whole[1:].numel()


def plain(part: Tensor) -> Tensor:
    """A part as a tensor that nothing is known of."""
    return part.as_subclass(Tensor)


def round_shards(module: nn.Module) -> None:
    """Have what is trained of a sharded module gathered so. Before its first pass.

    What is not trained stays the same, so the nearest number hides nothing of it.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and isinstance(parameter, DTensor):
            parameter._local_tensor = parameter._local_tensor.as_subclass(RoundedShard)
