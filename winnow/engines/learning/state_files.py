"""The optimizer's state on the disk: one file, or a folder with the parts of many processes.

The folder is one of `torch.distributed.checkpoint`: tensors by name, of whatever parts. Both hold
the same, by the number of a parameter, so that a run can be resumed by more or fewer processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winnow.storage.checkpoints import OPTIMIZER, OPTIMIZER_PARTS

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_MASTERS, _REFERENCE = "master", "reference"
_NUMBERS = ("version", "updates")


def flat(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A learner's state as tensors by name."""
    made = {
        f"{moment}.{number}": own[moment]
        for number, own in state["adam"]["state"].items()
        for moment in _MOMENTS
    }
    for name, key in ((_MASTERS, "masters"), (_REFERENCE, "reference")):
        made |= {f"{name}.{number}": each for number, each in enumerate(state.get(key, ()))}
    return made | {name: torch.tensor(int(state[name])) for name in _NUMBERS}


def nested(found: Mapping[str, Tensor], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A learner's state of tensors by name.

    Args:
        groups: The optimizer's `param_groups`, which are made anew.
    """
    numbered: dict[str, dict[int, Tensor]] = {}
    for name, tensor in found.items():
        kind, _, number = name.partition(".")
        if number:
            numbered.setdefault(kind, {})[int(number)] = tensor
    steps = numbered.get("step", {})
    state: dict[str, Any] = {
        "adam": {
            "state": {i: {name: numbered[name][i] for name in _MOMENTS} for i in steps},
            "param_groups": list(groups),
        },
        **{name: int(found[name]) for name in _NUMBERS},
    }
    for name, key in ((_MASTERS, "masters"), (_REFERENCE, "reference")):
        if name in numbered:
            state[key] = [numbered[name][i] for i in sorted(numbered[name])]
    return state


def shapes(folder: Path) -> dict[str, torch.Size]:
    """The shapes of the tensors that many processes wrote, by name."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    told = FileSystemReader(folder / OPTIMIZER_PARTS).read_metadata()
    return {name: each.size for name, each in told.state_dict_metadata.items()}  # type: ignore[union-attr]


def read(folder: Path, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole state, whoever wrote it, for a process that is alone.

    Raises:
        FileNotFoundError: it is not there.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    if not (folder / OPTIMIZER_PARTS).is_dir():
        return one_file(folder)
    found: dict[str, Any] = {
        name: torch.zeros(shape, dtype=torch.int64 if name in _NUMBERS else torch.float32)
        for name, shape in shapes(folder).items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of being alone
        load(found, checkpoint_id=folder / OPTIMIZER_PARTS, no_dist=True)
    return nested(found, groups)


def one_file(folder: Path, *, mapped: bool = False) -> dict[str, Any]:
    """The whole state that one process wrote.

    Args:
        mapped: Whether what is not looked at is not read.
    """
    found: dict[str, Any] = torch.load(
        folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=mapped
    )
    return found
