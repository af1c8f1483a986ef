"""One process's part of a model, and of copies of its weights by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from winnow.config.schema import Config
from winnow.engines.fsdp.ranks import Team
from winnow.engines.fsdp.reading import Files, files_of, skeleton
from winnow.engines.fsdp.rounded_shards import first_of, plain, round_shards
from winnow.engines.fsdp.sharding import (
    ShardedForward,
    gathered,
    local,
    materialise,
    part_of,
    settle,
    shard,
)
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.kept import keep
from winnow.engines.models.loading import ModelSource, check_weights, load_model, reading
from winnow.engines.models.lora import plain_state
from winnow.engines.models.policy import Policy
from winnow.engines.models.rounding import LOW, rounded

_WIDE = "float32"
"""What weights are held in, whatever the passes are computed in."""


class ShardedPolicy(Policy):
    """A policy of which every process holds some rows. All of them call the same methods."""

    def __init__(
        self,
        config: Config,
        team: Team,
        field: str = "model",
        checkpoint: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        own = folder if team.leads else None  # what is kept there is written once
        super().__init__(config, team.device, field, checkpoint, own)
        self.team = team
        self._home = torch.device("cpu") if config.engine.cpu_offload else team.device
        """Where what this process holds is between passes."""
        self._parameters: list[nn.Parameter] = []

    @property
    def config(self) -> Config:
        return self._config

    def forget(self, name: str) -> None:
        """Let go of a snapshot."""
        self._kept.pop(name, None)

    def module(self) -> nn.Module:
        if self._module is None:
            source = self.now.read_from()
            files = None if self._config.lora.rank else files_of(source)
            made = skeleton(source, self.field) if files is not None else None
            if made is None or files is None or not files.hold(made):
                files, made = None, self._whole()
            engine, compute = self._config.engine, getattr(torch, self.dtype)
            again, offload = engine.activation_checkpointing, engine.cpu_offload
            shard(made, self.team.mesh, compute, recompute=again, offload=offload)
            if files is not None:
                materialise(made, self._home)
                self._fill(made, files, source)
            if compute == LOW:
                round_shards(made)
            self._module = made
        return self._module

    def _whole(self) -> nn.Module:
        """The model read whole, adapters over it: each process takes its part of it."""
        module = load_model(self.now, _WIDE, torch.device("cpu"), self.field)
        if self.now.file is not None and self.team.leads:
            why = keep(self.now.file, module, self.tokenizer)
            self.said += () if why is None else (why,)
        if self._config.lora.rank:
            self._adapters = self._attached(module)
        return module

    @torch.no_grad()
    def _fill(self, module: nn.Module, files: Files, source: ModelSource) -> None:
        with reading(source, self.field):
            own = dict(module.named_parameters())
            for name, part in files.parts(module, self.team.rank):
                local(own[name]).copy_(part)
        parts = ((name, local(parameter)) for name, parameter in own.items())
        check_weights(parts, source, self.field)

    def forward(self) -> PolicyForward:
        if self._forward is None:
            module = self.module()
            compute = getattr(torch, self.dtype)
            self._forward = ShardedForward(module, compute, self._device)
            self._parameters = [p for p in module.parameters() if p.requires_grad]
        return self._forward

    def trained(self) -> list[nn.Parameter]:
        self.forward()
        return self._parameters

    def tensors(self) -> list[Tensor]:
        trained = self.trained()
        settle(self.module())
        return [local(p) for p in trained]

    def held(self, whole: Sequence[Tensor]) -> list[Tensor]:
        rank = self.team.rank
        return [part_of(each, rank.number, rank.of).to(self._home, torch.float32) for each in whole]

    def rounded(self, weights: Sequence[Tensor], start: int = 0) -> list[Tensor]:
        """In float32 all the same, as they are held."""
        low, rank = getattr(torch, self.dtype), self.team.rank
        firsts = [first_of(p.shape, rank.number, rank.of) for p in self.trained()]
        pairs = zip(weights, firsts, strict=True)
        return [rounded(plain(part), low, first + start).float() for part, first in pairs]

    def read(self, source: ModelSource, device: torch.device | None) -> list[Tensor]:
        source = source.read_from()
        files = files_of(source)
        if files is not None and files.hold(self.module()):
            with reading(source, self.field):
                parts = list(files.parts(self.module(), self.team.rank))
            check_weights(parts, source, self.field)
            return [part.to(device or self._home, torch.float32) for _, part in parts]
        other = load_model(source, _WIDE, torch.device("cpu"), self.field)
        return self.held([p.detach() for p in other.parameters()])

    def beside(self, config: Config) -> Policy:
        return ShardedPolicy(config, self.team, "reference")

    @contextmanager
    def swapped(self, others: Sequence[Tensor]) -> Iterator[None]:
        waiting = [own.clone() for own in self.tensors()]
        self.put(others)
        try:
            yield
        finally:
            self.put(waiting)

    @contextmanager
    def gathered(self) -> Iterator[PolicyForward]:
        """In the block, each process has all weights, in the data type of the passes."""
        forward = self.forward()
        with gathered(self.module()):
            yield forward

    def save(self, folder: Path, *, merged: bool = False, dtype: str | None = None) -> None:
        """Rank 0 writes."""
        with self.gathered():
            if self.team.leads:
                super().save(folder, merged=merged, dtype=dtype)

    def save_base(self, folder: Path) -> None:
        """Rank 0 writes."""
        with self.gathered():
            if self.team.leads:
                super().save_base(folder)

    def _state(self) -> Mapping[str, Tensor]:
        return plain_state(self.module())

    def close(self) -> None:
        super().close()
        self._parameters = []
