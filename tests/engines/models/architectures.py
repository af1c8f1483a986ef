"""Causal models of `transformers` by architecture, tiny and with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny

WINDOW = 4
"""Shorter than the prompts and the completions of the tests."""
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_HALF = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_SMALL = {**_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
_STATES = {"state_size": 4}

_LIKE_LLAMA = (
    "llama", "qwen2", "qwen3", "gemma", "phi", "phi3", "olmo", "olmo2", "cohere", "smollm3",
    "granite", "starcoder2", "stablelm", "nemotron", "helium", "glm", "glm4", "persimmon",
    "ernie4_5", "apertus", "arcee", "seed_oss", "hunyuan_v1_dense", "gpt_neox",
)  # fmt: skip
SHARED: dict[str, dict[str, Any]] = {
    **dict.fromkeys(_LIKE_LLAMA, _SIZES),
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "opt": {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": {**_SIZES, **_EXPERTS},
    "granitemoe": {**_SIZES, **_EXPERTS},
    "olmoe": {**_SIZES, **_EXPERTS},
    "qwen2_moe": {**_SIZES, **_SMALL},
    "qwen3_moe": {**_SIZES, **_SMALL},
}  # fmt: skip
"""Every layer sees all that is before it."""

WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {**_SIZES, "sliding_window": WINDOW},
    "ministral": {**_SIZES, "sliding_window": WINDOW},
    "gemma2": {**_SIZES, **_HALF, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {**_SIZES, **_HALF},
    "olmo3": {**_SIZES, **_HALF},
    "cohere2": {**_SIZES, **_HALF},
    "exaone4": {**_SIZES, **_HALF},
    "gpt_oss": {**_SIZES, **_HALF, **_EXPERTS},
    "vaultgemma": {**_SIZES, **_HALF, "attn_logit_softcapping": 2.0},
    "llama4_text": {
        **_SIZES,
        "attention_chunk_size": WINDOW,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "moe_layers": [],
        "intermediate_size_mlp": 48,
        "attn_temperature_tuning": False,
    },
}
"""Some layer has a window or chunks, which are shorter than what it is given."""

ALONE: dict[str, dict[str, Any]] = {
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "gptj": {**_GPT, "rotary_dim": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "lfm2": {**_SIZES, "layer_types": ["conv", "full_attention"]},
    "mamba": {**_SIZES, **_STATES},
    "mamba2": {
        **_SIZES, **_STATES, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8,
    },
    "falcon_mamba": {**_SIZES, **_STATES},
    "jamba": {
        **_SIZES, "attn_layer_offset": 1, "attn_layer_period": 2, "num_experts": 1,
        "mamba_d_state": 4, "use_mamba_kernels": False,
    },
    "bamba": {
        **_SIZES, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 8,
        "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8,
    },
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2},
}  # fmt: skip
"""Every sample is read in a row of its own: biases by place in the row, or recurrences."""

ALL = {**SHARED, **WINDOWED, **ALONE}


SINGLE = ("gemma2", "vaultgemma")
"""Float64 makes the library's own attention NaN where rows of a batch are padded."""


def build(
    name: str, dtype: torch.dtype | None = None, std: float = 0.1, **changes: Any
) -> torch.nn.Module:
    """A model whose attention and logits are far from uniform."""
    torch.manual_seed(1)
    ends = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    given = {**ALL[name], "vocab_size": len(tiny.tokenizer()), **ends, **changes}
    config = AutoConfig.for_model(name, **given)
    if dtype is None:
        dtype = torch.float32 if name in SINGLE else torch.float64
    config._experts_implementation = "eager"  # the other product of experts has no float64
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=std)
    return model
