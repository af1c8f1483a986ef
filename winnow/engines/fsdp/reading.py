"""Reads a process's part of a model from safetensors, so that none has to hold the whole of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from winnow.engines.fsdp.sharding import rows
from winnow.engines.learning.microbatches import Rank
from winnow.engines.models.loading import ModelSource, base_of, load_config, reading

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Files:
    """The weights of a folder by name, each read a part at a time."""

    def __init__(self, folder: Path) -> None:
        if (folder / _INDEX).is_file():
            told: Mapping[str, str] = json.loads((folder / _INDEX).read_text())["weight_map"]
            self._of = {name: folder / file for name, file in told.items()}
        else:
            with safe_open(folder / _ONE, "pt") as file:
                self._of = dict.fromkeys(file.keys(), folder / _ONE)

    def hold(self, module: nn.Module) -> bool:
        """Whether each parameter of a module is there under its own name."""
        return all(name in self._of for name, _ in module.named_parameters())

    def parts(self, module: nn.Module, rank: Rank) -> Iterator[tuple[str, Tensor]]:
        """What a process holds of each parameter of a module, in the module's order."""
        with ExitStack() as stack:
            opened = {
                path: stack.enter_context(safe_open(path, "pt"))
                for path in sorted(set(self._of.values()))
            }
            for name, parameter in module.named_parameters():
                found = opened[self._of[name]].get_slice(name)
                if parameter.dim():
                    yield name, found[rows(parameter.shape[0], rank.number, rank.of)]
                else:
                    yield name, found[:]


def files_of(source: ModelSource) -> Files | None:
    """The files of a model that can be read in parts; ``None`` if it is not a plain folder."""
    folder = Path(source.name)
    plain = source.gguf is None and base_of(source) is None
    there = plain and any((folder / name).is_file() for name in (_ONE, _INDEX))
    return Files(folder) if there else None


def skeleton(source: ModelSource, field: str) -> nn.Module:
    """A model whose buffers are there and whose parameters are not.

    Raises:
        UserError: its config cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    config = load_config(source, field)
    with reading(source, field, weights=False), _without_parameters():
        made: Any = cast(Any, AutoModelForCausalLM).from_config(config, dtype=torch.float32)
    if Path(source.name, "generation_config.json").is_file():
        made.generation_config = GenerationConfig.from_pretrained(source.name)
    made.eval()
    return cast(nn.Module, made)


@contextmanager
def _without_parameters() -> Iterator[None]:
    """In the block, parameters of new modules are without memory, buffers as they are.

    Buffers that are in no file, such as the frequencies of rotary positions, are made in the
    module's constructor and nowhere else.
    """
    plain = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)
        plain(self, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = plain  # type: ignore[method-assign]
