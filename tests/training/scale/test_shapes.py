"""Parameters, FLOPs, keys and values from a shape alone, against modules of `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from winnow.config.schema.lora import LoraConfig
from winnow.engines.models.sizes import adapter_parameters, cache_bytes
from winnow.errors import UserError
from winnow.training.scale.shapes import KNOWN, Shape, shape_of

PUBLISHED = {
    "smollm2-135m": 134_515_008,
    "meta-llama/llama-3.2-1b-instruct": 1_235_814_400,
    "meta-llama/llama-3.2-3b-instruct": 3_212_749_824,
    "meta-llama/llama-3.1-8b-instruct": 8_030_261_248,
    "qwen/qwen2.5-math-1.5b": 1_543_714_304,
    "qwen/qwen2.5-math-7b": 7_615_616_512,
    "qwen/qwen3-0.6b": 596_049_920,
}
"""As the hub counts the weights of each."""
SMALL = Shape(96, 48, 3, 6, 2, 16, 80, 128, tied=False)
KINDS = {
    "llama": SMALL,
    "qwen2": Shape(96, 48, 3, 6, 2, 8, 80, 128, tied=True, biased=True),
    "qwen3": Shape(96, 48, 3, 6, 2, 16, 80, 128, tied=True, normed=True),
}


def config_of(shape: Shape, **more: Any) -> Any:
    """The config of `transformers` with this shape."""
    kind = Qwen2Config if shape.biased else Qwen3Config if shape.normed else LlamaConfig
    own = {} if shape.biased else {"head_dim": shape.head}
    return kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.inner,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        **own,
        **more,
    )


def module_of(shape: Shape, device: str = "meta", **more: Any) -> Any:
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config_of(shape, **more))


@pytest.mark.parametrize("name", KNOWN)
def test_the_table_has_the_published_parameters(name: str) -> None:
    same = "smollm2-135m" if "smollm2" in name else name
    assert KNOWN[name].parameters == PUBLISHED[same]


@pytest.mark.parametrize("shape", [*KINDS.values(), KNOWN["qwen/qwen2.5-math-7b"]])
def test_parameters_are_those_of_a_module(shape: Shape) -> None:
    module = module_of(shape)
    own = dict(module.named_parameters())
    assert shape.parameters == sum(p.numel() for p in own.values())
    block = sum(p.numel() for name, p in own.items() if ".layers.0." in name)
    assert shape.block == block
    assert shape.cache(2) == cache_bytes(module.config, 2)


def test_adapters_are_those_of_a_module() -> None:
    for targets in (["all-linear"], ["q_proj", "down_proj"]):
        lora = LoraConfig(rank=4, targets=targets)
        assert SMALL.adapters(lora) == adapter_parameters(module_of(SMALL), lora)
    with pytest.raises(UserError, match=r"lora.targets: 'qkv' is no linear layer"):
        SMALL.adapters(LoraConfig(rank=4, targets=["qkv"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_config_json_is_read(kind: str, tmp_path: Path) -> None:
    config_of(KINDS[kind]).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == kind
    assert shape_of(str(tmp_path)) == KINDS[kind]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "of type None"),
        ('{"model_type": "mamba"}', "of type 'mamba'"),
        ('{"model_type": "llama", "vocab_size": "many"}', "vocab_size = 'many'"),
    ],
)
def test_what_no_shape_follows_from_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=says):
        shape_of(str(tmp_path))


def test_a_model_that_is_not_here_is_named() -> None:
    with pytest.raises(UserError, match=r"model: the shape of 'nobody/nothing' is not known here"):
        shape_of("nobody/nothing")


@pytest.mark.parametrize("shape", KINDS.values())
def test_flops_of_a_forward_pass_are_those_that_are_counted(shape: Shape) -> None:
    """The counter counts the products of every operation; eager attention multiplies all pairs."""
    module = module_of(shape, "cpu", attn_implementation="eager")
    rows, length = 3, 20
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(input_ids=torch.zeros(rows, length, dtype=torch.long))
    counted = counter.get_total_flops()
    # The rotary angles are a product too: half a head's width for each position.
    rotary = 2 * length * shape.head // 2
    tokens = rows * length
    told = shape.forward_flops(tokens, tokens * length, tokens)
    assert counted - told in (0, rotary, rows * rotary)


def test_the_json_of_a_shape_says_which_kind(tmp_path: Path) -> None:
    """Biases and norms are not in a config.json: they follow from its type."""
    config_of(KINDS["qwen2"]).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "llama"}))
    assert not shape_of(str(tmp_path)).biased
