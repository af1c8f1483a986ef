"""Weights that are not numbers are the weights' fault, and known when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from winnow.engines.models.loading import ModelSource, check_finite, load_model, take_in
from winnow.errors import UserError

LAYER = "model.layers.2.mlp.up_proj.weight"


def poisoned(folder: Path, weights: dict[str, list[float]]) -> ModelSource:
    """The tiny model with values in the place of the first of some weights."""
    tiny.save(folder)
    file = folder / "model.safetensors"
    held = load_file(file)
    for name, values in weights.items():
        held[name].view(-1)[: len(values)] = torch.tensor(values)
    save_file(held, file, metadata={"format": "pt"})
    return ModelSource(str(folder))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({LAYER: [torch.nan]}, f"1 of {192 * 64} weights of {LAYER} are not finite"),
        ({LAYER: [torch.inf, -torch.inf]}, f"2 of {192 * 64} weights of {LAYER} are not"),
        (
            {LAYER: [torch.nan], "model.norm.weight": [torch.inf], "lm_head.weight": [torch.nan]},
            f"weights of {LAYER} (and some of 2 other layers) are not finite",
        ),
    ],
)
def test_weights_that_are_not_finite_are_refused(weights, says, dtype, tmp_path) -> None:
    source = poisoned(tmp_path / "model", weights)
    with pytest.raises(UserError) as caught:
        load_model(source, dtype, torch.device("cpu"), "samples_from")
    said = str(caught.value)
    assert said.startswith(f"samples_from: '{tmp_path}/model': ")
    assert says in said
    assert "diverged before this was saved" in said


def test_large_weights_are_finite_though_their_sum_is_not(tmp_path) -> None:
    source = poisoned(tmp_path / "model", {LAYER: [3e38, 3e38]})
    model = load_model(source, "float32", torch.device("cpu"))
    assert not dict(model.named_parameters())[LAYER].sum().isfinite()


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["lm_head.weight"], "lacks lm_head.weight; take another copy"),
        ([LAYER, "model.norm.weight"], f"lacks {LAYER} and 1 other weight; take another copy"),
    ],
)
def test_weights_that_a_file_lacks_are_not_made_up(names, says, tmp_path) -> None:
    source = poisoned(tmp_path / "model", {})
    file = tmp_path / "model" / "model.safetensors"
    held = {name: w for name, w in load_file(file).items() if name not in names}
    save_file(held, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=says):
        load_model(source, "float32", torch.device("cpu"), "model")


def test_a_head_that_is_the_embeddings_is_not_missing(tmp_path) -> None:
    tiny.model(tie_word_embeddings=True).save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in held
    model: Any = load_model(ModelSource(str(tmp_path)), "float32", torch.device("cpu"))
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_weights_that_are_not_the_files_are_not_its_fault() -> None:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.bias, torch.nan)
    check_finite(model, ModelSource("here"), "model", ["bias"])
    with pytest.raises(UserError, match="2 of 2 weights of bias"):
        check_finite(model, ModelSource("here"), "model")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_no_longer_the_files(dtype, tmp_path) -> None:
    """The file is written over in place: a model that were mapped from it would change."""
    folder = tiny.save(tmp_path / "model")
    model = load_model(ModelSource(str(folder)), dtype, torch.device("cpu"))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    file = folder / "model.safetensors"
    with file.open("r+b") as open_file:
        open_file.write(bytes(file.stat().st_size))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_what_shares_memory_goes_on_to() -> None:
    model = torch.nn.Linear(2, 3)
    model.register_parameter("other", torch.nn.Parameter(model.weight.data))
    model.register_buffer("part", model.weight.data[1:])
    model.register_buffer("wide", torch.ones(1).expand(1000))
    before = model.weight.data_ptr()
    take_in(model, torch.device("cpu"))
    assert model.weight.data_ptr() != before
    assert model.other.data_ptr() == model.weight.data_ptr()
    assert torch.equal(model.part, model.weight[1:])
    with torch.no_grad():
        model.weight.fill_(7)
    assert model.part.eq(7).all()
    assert model.wide.untyped_storage().nbytes() == 4
