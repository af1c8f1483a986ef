"""Attention over a tree of tokens, through the attention interface of `transformers`.

Under ``looking_at(module, plan)`` every attention layer of the module comes here. Query heads that
share a key head are taken together, so that keys and values are never repeated for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, scaled_dot_product_attention

from winnow.engines.models.prefix_tree import Tree, cut

_NAME = "winnow"
_BLOCK, _BLOCKS = 64, 8
"""Least nodes of a block, and most blocks of a tree. Nodes of a block read their keys together:
fewer read fewer keys, more make larger products. Each block holds the keys of its path."""
_GPU_BLOCK = 256
"""Least nodes of a block on a GPU, with as many blocks as it takes: few long ones would mostly
multiply what their mask hides."""


@dataclass(frozen=True)
class Plan:
    """Who reads what in a single packed row.

    Attributes:
        mask: Additive, shape (blocks, 1, queries, keys).
        keys: Nodes that each block reads, shape (blocks, keys).
    """

    mask: Tensor
    keys: Tensor
    _repeated: dict[int, Tensor] = field(default_factory=dict)

    def mask_for(self, heads: int) -> Tensor:
        """The mask for so many query heads in sequence, the same tensor for every layer."""
        if heads not in self._repeated:
            self._repeated[heads] = self.mask.repeat(1, 1, heads, 1) if heads > 1 else self.mask
        return self._repeated[heads]


_current: ContextVar[Plan] = ContextVar("attention plan")


def packed(tree: Tree, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Plan]:
    """A tree as one row: ids and positions, shape (1, nodes and a few more), and who reads what."""
    blocks = cut(tree, _length(tree, device))
    row = np.zeros((2, blocks.places), dtype=np.int64)
    row[:, : len(tree)] = tree.tokens, tree.depths
    ids, positions = torch.from_numpy(row).to(device)
    keys = torch.from_numpy(blocks.keys).clamp(min=0).to(device)
    mask = additive(torch.from_numpy(blocks.allowed).to(device), dtype)[:, None]
    return ids[None], positions[None], Plan(mask, keys)


def _length(tree: Tree, device: torch.device) -> int:
    """Nodes of a block. On a GPU at least a path's, so that keys are held twice at most."""
    if device.type == "cuda":
        return max(_GPU_BLOCK, int(tree.depths.max()) + 1)
    return max(_BLOCK, -(-len(tree) // _BLOCKS))


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where allowed, -inf elsewhere. Each query must be allowed something."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, -torch.inf
    )


@contextmanager
def looking_at(module: nn.Module, plan: Plan) -> Iterator[None]:
    """In the block, the module's attention follows a plan."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, attend)  # idempotent
    config: Any = module.config
    configs = {id(c): c for c in (config, config.get_text_config(decoder=True))}.values()
    before = [c._attn_implementation for c in configs]
    token = _current.set(plan)
    try:
        for c in configs:
            c._attn_implementation = _NAME
        yield
    finally:
        for c, name in zip(configs, before, strict=True):
            c._attn_implementation = name
        _current.reset(token)


def same_again(module: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """What makes a block in which the module's attention follows what it follows here."""
    plan = _current.get(None)
    return nullcontext if plan is None else partial(looking_at, module, plan)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention as the interface asks: query (1, heads, nodes, width), keys and values likewise.

    Returns:
        (1, nodes, heads, width of a value), and no weights.

    Raises:
        NotImplementedError: a layer asks for more than a plan says (windows, sinks, caps, biases).
    """
    for word in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if more.get(word) is not None:
            raise NotImplementedError(f"attention with {word}")
    plan = _current.get()
    _, heads, nodes, width = query.shape
    shared = key.shape[1]
    blocks, _, length, _ = plan.mask.shape
    # (key heads, query heads of each, blocks, queries of each, width)
    folded = query.reshape(shared, heads // shared, blocks, length, width)
    folded = folded.permute(2, 0, 1, 3, 4).reshape(blocks, shared, -1, width)
    key, value = (_gather(x, plan.keys) for x in (key, value))
    mask = plan.mask_for(heads // shared)
    out = scaled_dot_product_attention(folded, key, value, mask, dropout, scale=scaling)
    out = out.reshape(blocks, shared, heads // shared, length, -1)
    return out.permute(0, 3, 1, 2, 4).reshape(1, nodes, heads, -1), None


def _gather(x: Tensor, keys: Tensor) -> Tensor:
    """(1, heads, nodes, width) -> (blocks, heads, keys, width)."""
    _, heads, nodes, width = x.shape
    rows = embedding(keys, x[0].transpose(0, 1).reshape(nodes, heads * width))
    return rows.reshape(*keys.shape, heads, width).transpose(1, 2)
