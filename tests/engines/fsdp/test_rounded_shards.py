"""What processes gather in bfloat16 is what one process that holds all of it would round it to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.engines.fsdp.spawned import led
from winnow.config.schema import Config, from_dict
from winnow.engines.fsdp.engine import ShardedEngine
from winnow.engines.fsdp.worker import Worker
from winnow.engines.models.rounding import rounded

LOW = torch.bfloat16
HOST = {"learner": "fsdp", "cpu_offload": True}


def config(model: Path, **settings: Any) -> Config:
    return from_dict({"model": str(model), "device": "cpu", "dtype": "bfloat16", **settings})


def written(worker: Worker, given: Config, folder: Path) -> set[type]:
    """Writes the weights of the passes, twice. The kinds of tensors that are stepped."""
    engine = ShardedEngine(worker, given)
    engine.save(folder / "once", merged=False)
    engine.save(folder / "again", merged=False)
    return {type(part) for part in worker.policy(engine.number).tensors()}


@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (2, {}),
        pytest.param(1, {}, marks=pytest.mark.fsdp),
        pytest.param(3, {}, marks=pytest.mark.fsdp),
        pytest.param(
            3, {"engine": {"learner": "fsdp", "cpu_offload": True}}, marks=pytest.mark.fsdp
        ),
        pytest.param(2, {"engine": {"activation_checkpointing": True}}, marks=pytest.mark.fsdp),
    ],
)
def test_what_is_gathered_is_rounded_by_its_place(tiny_model, tmp_path, ranks, settings) -> None:
    assert led(ranks, written, config(tiny_model, **settings), tmp_path) == {Tensor}
    original = load_file(tiny_model / "model.safetensors")
    nearest = 0
    for folder in ("once", "again"):
        found = load_file(tmp_path / folder / "model.safetensors")
        assert found.keys() == original.keys()
        for name, weight in original.items():
            assert found[name].dtype == LOW
            assert torch.equal(found[name], rounded(weight)), name
            nearest += torch.equal(found[name], weight.to(LOW))
    assert nearest < len(original)  # else the test would not tell


@pytest.mark.fsdp
def test_what_is_not_trained_is_the_nearest(tiny_model, tmp_path) -> None:
    """Below adapters the base stays the same, and the nearest is nearer than up or down."""
    given = config(tiny_model, lora={"rank": 2})
    assert led(2, based, given, tmp_path / "base") is None
    original = load_file(tiny_model / "model.safetensors")
    found = load_file(tmp_path / "base" / "model.safetensors")
    for name, weight in original.items():
        assert torch.equal(found[name], weight.to(LOW)), name


def based(worker: Worker, given: Config, folder: Path) -> None:
    ShardedEngine(worker, given).save_base(folder)
