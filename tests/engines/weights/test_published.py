"""What servers are sent: the weights as they compute with them, rounded before they would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import local
from winnow.engines.local.engine import LocalEngine
from winnow.engines.models.rounding import rounded

LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def sent(
    model: Path, folder: Path, dtype: str | None, **settings: Any
) -> tuple[LocalEngine, dict[str, Tensor]]:
    """An engine whose servers compute in a data type, and the weights that it sends."""
    engine: dict[str, Any] = {"sampler": "vllm", "transfer_dir": str(folder), "servers": 1}
    engine |= {"transfer": settings.pop("transfer", "folder"), "vllm_python": "python"}
    engine |= {} if dtype is None else {"vllm_dtype": dtype}
    made = local.engine(model, engine=engine, **settings)
    where = made.publish(1).where
    assert isinstance(where, Path)
    (file,) = where.glob("*model.safetensors")
    return made, load_file(file)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_right_on_average(tiny_model, tmp_path, dtype) -> None:
    _, found = sent(tiny_model, tmp_path, dtype)
    original = load_file(tiny_model / "model.safetensors")
    assert found.keys() == original.keys()
    for name, weight in original.items():
        assert torch.equal(found[name], rounded(weight, LOW[dtype])), name


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_servers_in_float32_are_sent_all_of_it(tiny_model, tmp_path, dtype) -> None:
    _, found = sent(tiny_model, tmp_path, dtype)
    for name, weight in load_file(tiny_model / "model.safetensors").items():
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("transfer", ["folder", "lora"])
def test_adapters_and_what_they_are_merged_into(tiny_model, tmp_path, transfer) -> None:
    made, found = sent(
        tiny_model, tmp_path / "low", "bfloat16", transfer=transfer, lora={"rank": 2}
    )
    made.save(tmp_path / "wide", merged=transfer == "folder")
    (file,) = (tmp_path / "wide").glob("*model.safetensors")
    for name, weight in load_file(file).items():
        assert weight.dtype == torch.float32
        assert torch.equal(found[name], rounded(weight)), name


def test_what_adapters_add_to_a_base_in_16_bits_is_not_lost(tiny_model, tmp_path) -> None:
    """The sum is rounded once, not to the nearest before."""
    engine = {"sampler": "vllm", "transfer_dir": str(tmp_path), "urls": ["http://none"]}
    made = local.engine(tiny_model, dtype="bfloat16", engine=engine, lora={"rank": 2})
    with torch.no_grad():
        for parameter in made.trained():
            parameter.fill_(0.005)
    where = made.publish(1).where
    assert isinstance(where, Path)
    found = load_file(where / "model.safetensors")
    changed = 0
    for name, layer in made.module().named_modules():
        if hasattr(layer, "get_delta_weight"):
            total = layer.weight.float() + layer.get_delta_weight("default").float()
            assert torch.equal(found[f"{name}.weight"], rounded(total)), name
            changed += not torch.equal(rounded(total), total.bfloat16())
    assert changed > 0
