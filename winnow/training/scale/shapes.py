"""The shape of a model: what its parameters, FLOPs, keys and values follow from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.config.schema.lora import LoraConfig
from winnow.engines.base import ModelSize
from winnow.errors import UserError, choices
from winnow.storage.reading import has_file

ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by data type."""


@dataclass(frozen=True)
class Shape:
    """A dense decoder: attention with shared key heads, a gated MLP, RMS norms.

    Attributes:
        vocabulary, hidden, layers, heads, kv_heads: As a config.json has them.
        head: Width of a head.
        inner: Width of the MLP.
        context: Most tokens.
        tied: Whether the output head is the embeddings.
        biased: Whether queries, keys and values have biases (Qwen2).
        normed: Whether queries and keys have norms (Qwen3).
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    context: int
    tied: bool
    biased: bool = False
    normed: bool = False

    @property
    def queries(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of all key heads; values are as wide."""
        return self.kv_heads * self.head

    @property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a block."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    @property
    def multiplied(self) -> int:
        """Weights of a block that every token is multiplied with."""
        return sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def block(self) -> int:
        """Parameters of a block."""
        biases = (self.queries + 2 * self.keys) * self.biased
        return self.multiplied + biases + 2 * self.hidden + 2 * self.head * self.normed

    @property
    def head_weights(self) -> int:
        """Weights of the output head."""
        return self.vocabulary * self.hidden

    @property
    def around(self) -> int:
        """Parameters of embeddings, last norm and head."""
        return self.head_weights * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model, tied ones once."""
        return self.layers * self.block + self.around

    def forward_flops(self, tokens: float, pairs: float, predicted: float) -> float:
        """FLOPs of the matrix products of a forward pass; a product and a sum are two.

        Args:
            tokens: That go through all blocks.
            pairs: Pairs of a query and a key, as many as are multiplied in a head.
            predicted: Tokens whose logits are computed.
        """
        linear = 2 * self.layers * self.multiplied * tokens
        return linear + 4 * self.layers * self.queries * pairs + 2 * self.head_weights * predicted

    def cache(self, item: int) -> int:
        """Bytes of a token's keys and values in all layers."""
        return 2 * self.layers * self.keys * item

    def adapters(self, lora: LoraConfig) -> int:
        """Parameters of adapters: rank x (inputs + outputs) of each layer that is named.

        Raises:
            UserError: `lora.targets` names another layer.
        """
        known = self.linears
        named = [*known] if lora.targets == ["all-linear"] else list(dict.fromkeys(lora.targets))
        for name in named:
            if name not in known:
                problem = f"{name!r} is no linear layer of a block"
                raise UserError("lora.targets", problem, choices(["all-linear", *known]))
        return self.layers * lora.rank * sum(sum(known[name]) for name in named)

    def size(self, dtype: str, lora: LoraConfig, ranks: int) -> ModelSize:
        """The same as an engine's `size` says it, a tokenizer's file aside."""
        return ModelSize(
            parameters=self.parameters,
            trained=self.adapters(lora) if lora.rank else self.parameters,
            item=ITEM[dtype],
            hidden=self.hidden,
            token_bytes=self.cache(ITEM[dtype]),
            context=self.context,
            tokenizer=0,
            found_by_name=True,
            ranks=ranks,
        )


_SMOL = Shape(49152, 576, 30, 9, 3, 64, 1536, 8192, tied=True)
KNOWN: Mapping[str, Shape] = {
    "smollm2-135m": _SMOL,
    "huggingfacetb/smollm2-135m-instruct": _SMOL,
    "meta-llama/llama-3.2-1b-instruct": Shape(128256, 2048, 16, 32, 8, 64, 8192, 131072, tied=True),
    "meta-llama/llama-3.2-3b-instruct": Shape(
        128256, 3072, 28, 24, 8, 128, 8192, 131072, tied=True
    ),
    "meta-llama/llama-3.1-8b-instruct": Shape(
        128256, 4096, 32, 32, 8, 128, 14336, 131072, tied=False
    ),
    "qwen/qwen2.5-math-1.5b": Shape(
        151936, 1536, 28, 12, 2, 128, 8960, 4096, tied=True, biased=True
    ),
    "qwen/qwen2.5-math-7b": Shape(
        152064, 3584, 28, 28, 4, 128, 18944, 4096, tied=False, biased=True
    ),
    "qwen/qwen3-0.6b": Shape(151936, 1024, 28, 16, 8, 128, 3072, 40960, tied=True, normed=True),
}
"""By name in lower case, from the config.json of each."""
_KINDS = {"llama": {}, "qwen2": {"biased": True}, "qwen3": {"normed": True}}
"""By `model_type` of a config.json, what it does not say."""
_FIELDS = {
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "context": "max_position_embeddings",
}


def shape_of(model: str) -> Shape:
    """The shape of a model: of the table, or of a folder with a config.json.

    Raises:
        UserError: it is neither, or of a kind that is not known.
    """
    found = KNOWN.get(model.lower())
    if found is not None:
        return found
    path = Path(model) / "config.json"
    if not has_file(path, "model"):
        problem = f"the shape of {model!r} is not known here"
        remedy = f"name a folder with its config.json, or {choices(list(KNOWN))}"
        raise UserError("model", problem, remedy)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("model", f"{path} cannot be read as JSON: {error}") from error
    return _from_config(values, path)


def _from_config(values: Any, path: Path) -> Shape:
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in _KINDS:
        problem = f"{path} is of a model of type {kind!r}, whose shape cannot be calculated"
        raise UserError("model", problem, choices(list(_KINDS)))
    numbers = {name: values.get(key) for name, key in _FIELDS.items()}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise UserError("model", f"{path} has {_FIELDS[name]} = {number!r}, not a number")
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    own = {
        "kv_heads": values.get("num_key_value_heads") or heads,
        "head": values.get("head_dim") or hidden // heads,
        "tied": bool(values.get("tie_word_embeddings", False)),
    }
    return Shape(**{**numbers, **own, **_KINDS[kind]})
