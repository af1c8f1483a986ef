"""A learner's state, of which every process writes and reads its part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from winnow.engines.fsdp.ranks import Team
from winnow.engines.fsdp.sharding import local, part_of
from winnow.engines.learning.state_files import flat, nested, one_file, shapes
from winnow.storage.checkpoints import OPTIMIZER_PARTS


class Parts:
    """Which tensors of a state are held in parts: those of a parameter that is.

    Args:
        parameters: The trained parameters of the policy, sharded; all that is numbered behind them
            is whole in every process.
    """

    def __init__(self, team: Team, parameters: Sequence[Tensor]) -> None:
        self._team, self._like = team, list(parameters)

    def write(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Write what all processes hold, together."""
        whole = {name: self._whole(name, tensor) for name, tensor in flat(state).items()}
        save(whole, checkpoint_id=folder / OPTIMIZER_PARTS, process_group=self._team.commands)

    def read(self, folder: Path, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What this process holds of a state, whoever wrote it."""
        if not (folder / OPTIMIZER_PARTS).is_dir():
            rank = self._team.rank
            whole = flat(one_file(folder, mapped=True))
            found = {
                name: tensor
                if self._parameter(name) is None
                else part_of(tensor, rank.number, rank.of).clone()
                for name, tensor in whole.items()
            }
            return nested(found, groups)
        state: dict[str, Any] = {}
        for name, shape in shapes(folder).items():
            like = self._parameter(name)
            if like is None:
                kind = torch.float32 if "." in name else torch.int64
                state[name] = torch.zeros(shape, dtype=kind)
            else:
                state[name] = torch.zeros_like(like, dtype=torch.float32)
        load(state, checkpoint_id=folder / OPTIMIZER_PARTS, process_group=self._team.commands)
        return nested({name: local(tensor) for name, tensor in state.items()}, groups)

    def _parameter(self, name: str) -> DTensor | None:
        """The parameter whose rows a tensor has; ``None`` if it is whole in every process."""
        kind, _, number = name.partition(".")
        if not number or kind == "step" or int(number) >= len(self._like):
            return None
        like = self._like[int(number)]
        return like if isinstance(like, DTensor) else None

    def _whole(self, name: str, tensor: Tensor) -> Tensor:
        like = self._parameter(name)
        if like is None:
            return tensor
        made = torch.zeros_like(like, dtype=tensor.dtype).detach()
        local(made).copy_(tensor)
        return made
