"""How large a model is, by its config alone: no weights are read."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from winnow.config.schema.lora import LoraConfig
from winnow.engines.base import ModelSize
from winnow.engines.models.loading import ModelSource, context_length, load_config, reading
from winnow.engines.models.lora import check_names

_ITEM = {"float32": 4, "bfloat16": 2}


def model_size(
    source: ModelSource, dtype: str, lora: LoraConfig, tokenizer: Any, field: str = "model"
) -> ModelSize:
    """Parameters and bytes of a model, from its architecture without weights.

    Raises:
        UserError: its config cannot be loaded, or `lora.targets` names no layer.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(source, field)
    with reading(source, field, weights=False), torch.device("meta"):
        module: Any = cast(Any, AutoModelForCausalLM).from_config(config)
    if lora.rank and lora.targets != ["all-linear"]:
        check_names(module, lora.targets)
    return size_of(module, source, dtype, lora, tokenizer)


def size_of(
    module: nn.Module, source: ModelSource, dtype: str, lora: LoraConfig, tokenizer: Any
) -> ModelSize:
    """The same of a module, with or without its weights and adapters."""
    config = cast(Any, module).config
    own = [p for name, p in module.named_parameters() if ".lora_" not in name]
    whole = sum(weight.numel() for weight in own)
    text = config.get_text_config(decoder=True)
    return ModelSize(
        parameters=whole,
        trained=adapter_parameters(module, lora) if lora.rank else whole,
        item=_ITEM[dtype],
        hidden=int(text.hidden_size),
        token_bytes=cache_bytes(config, _ITEM[dtype]),
        context=context_length(config),
        tokenizer=_tokenizer_bytes(tokenizer),
        found_by_name=source.ordinary,
    )


def cache_bytes(config: Any, item: int) -> int:
    """Keys and values of a token in all layers, in bytes, as the config has them.

    Args:
        item: Bytes of a number.
    """
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    shared = getattr(text, "num_key_value_heads", None) or heads
    return int(2 * text.num_hidden_layers * shared * width * item)


def adapter_parameters(module: nn.Module, lora: LoraConfig) -> int:
    """Parameters of the adapters over a module: rank x (inputs + outputs) of each layer.

    As peft chooses them: 'all-linear' leaves the output head out.
    """
    head = cast(Any, module).get_output_embeddings()
    every = lora.targets == ["all-linear"]
    found = 0
    for name, layer in module.named_modules():
        named = any(f".{name}".endswith(f".{target}") for target in lora.targets)
        if isinstance(layer, nn.Linear) and ((every and layer is not head) or named):
            found += lora.rank * (layer.in_features + layer.out_features)
    return found


def _tokenizer_bytes(tokenizer: Any) -> int:
    core = getattr(tokenizer, "backend_tokenizer", None)
    return len(core.to_str(pretty=True).encode()) if core is not None else 0
