"""Which kinds of layers a model has, and windows made narrow for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FULL = "full_attention"
_SIZES = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that see a part of what is before them, and the setting that says how much."""


def layer_kinds(config: Any) -> frozenset[str]:
    """The kinds of layers by a model's config, by the library's names."""
    config = config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return frozenset(kinds)
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return frozenset({"sliding_attention"})
    return frozenset({FULL})


def unknown_kinds(config: Any) -> list[str]:
    """Kinds of layers that are neither full attention nor a known part of it."""
    return sorted(layer_kinds(config) - {FULL, *_SIZES})


def is_windowed(config: Any) -> bool:
    """Whether some layer sees a part of what is before it."""
    return layer_kinds(config) != {FULL}


def scales_by_place(config: Any) -> bool:
    """Whether queries are scaled by their place in the row, as Llama 4's are from 8192 tokens on.

    A short probe does not see it.
    """
    return bool(getattr(config.get_text_config(decoder=True), "attn_temperature_tuning", False))


@contextmanager
def narrowed(config: Any, size: int) -> Iterator[None]:
    """In the block, no window or chunk of a model is longer than this.

    Masks are made by the config as it is when the model runs.
    """
    config = config.get_text_config(decoder=True)
    sizes = {name: getattr(config, name, None) for name in _SIZES.values()}
    own = {name: value for name, value in sizes.items() if isinstance(value, int)}
    try:
        for name, value in own.items():
            setattr(config, name, min(value, size))
        yield
    finally:
        for name, value in own.items():
            setattr(config, name, value)
