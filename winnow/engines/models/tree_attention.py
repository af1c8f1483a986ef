"""Attention over a tree of tokens, through the attention interface of `transformers`.

Under ``looking_at(module, plan)`` every attention layer of the module comes here. Query heads that
share a key head are taken together, so that keys and values are never repeated for them.

Windows and chunks are the library's own mask functions, asked about depths instead of places in the
row: alone, a node's place is its depth.
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

from winnow.engines.models.capped_attention import capped_attention
from winnow.engines.models.low_attention import low_attention
from winnow.engines.models.made_again import make
from winnow.engines.models.prefix_tree import Tree, cut
from winnow.engines.models.rounding import LOW

_NAME, _WINDOWED = "winnow", "winnow-windowed"
"""Attention that takes its masks from the plan alone, and that lets the model narrow them."""
_BLOCK, _BLOCKS = 64, 8
"""Least nodes of a block, and most blocks of a tree. Nodes of a block read their keys together:
fewer read fewer keys, more make larger products. Each block holds the keys of its path."""
_GPU_BLOCK = 256
"""Least nodes of a block on a GPU, with as many blocks as it takes: few long ones would mostly
multiply what their mask hides."""


@dataclass(frozen=True)
class Plan:
    """Who reads what: the nodes of a packed row, or rows that read a token each.

    Attributes:
        mask: Additive, shape (blocks, 1, queries, keys).
        keys: Nodes that each block reads, shape (blocks, keys); ``None``: each row's own, in order.
        depths: Of queries, shape (blocks, 1, queries, 1), and of keys, (blocks or 1, 1, 1, keys),
            where some layer has a window or chunks.
        longest: More than any depth.
        low: Products in bfloat16 by `low_attention`; the mask is float32 then.
    """

    mask: Tensor
    keys: Tensor | None
    depths: tuple[Tensor, Tensor] | None = None
    longest: int = 0
    low: bool = False
    reaches: list[Tensor | None] = field(default_factory=list)
    """For each window or chunk that the model asked for: who may be seen, ``None`` for all."""
    _repeated: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return _NAME if self.depths is None else _WINDOWED

    def mask_for(self, heads: int, allowed: Tensor | None = None) -> Tensor:
        """The mask for so many query heads in sequence, the same tensor for every layer alike.

        Args:
            allowed: One of those in ``reaches``.

        Raises:
            NotImplementedError: it is another.
        """
        kind = None if allowed is None else self._kind(allowed)
        if (heads, kind) not in self._repeated:
            mask = self.mask if allowed is None else self.mask.masked_fill(~allowed, -torch.inf)
            self._repeated[heads, kind] = mask.repeat(1, 1, heads, 1) if heads > 1 else mask
        return self._repeated[heads, kind]

    def _kind(self, allowed: Tensor) -> int:
        for kind, known in enumerate(self.reaches):
            if known is allowed:
                return kind
        raise NotImplementedError("a mask that the model made by itself")

    def narrowed(self, size: int, function: Callable[..., Tensor]) -> Tensor | None:
        """Who may be seen by a mask function of the library, ``None`` where it hides nothing.

        Args:
            size: Of the window or chunk.
        """
        allowed = None
        if size < self.longest:
            assert self.depths is not None
            query, key = self.depths
            nothing = torch.zeros((1, 1, 1, 1), dtype=torch.long, device=query.device)
            allowed = function(nothing, nothing, query, key)
        self.reaches.append(allowed)
        return allowed


_current: ContextVar[Plan] = ContextVar("attention plan")


def packed(
    tree: Tree,
    dtype: torch.dtype,
    device: torch.device,
    *,
    windowed: bool = False,
    low: bool = False,
) -> tuple[Tensor, Tensor, Plan]:
    """A tree as one row: ids and positions, shape (1, nodes and a few more), and who reads what."""
    blocks = cut(tree, _length(tree, device))
    row = np.zeros((2, blocks.places), dtype=np.int64)
    row[:, : len(tree)] = tree.tokens, tree.depths
    ids, positions = torch.from_numpy(row).to(device)
    keys = torch.from_numpy(blocks.keys).clamp(min=0).to(device)
    allowed = torch.from_numpy(blocks.allowed).to(device)
    mask = additive(allowed, torch.float32 if low else dtype)[:, None]
    depths, longest = None, 0
    if windowed:
        depths = positions.view(len(keys), 1, -1, 1), positions[keys][:, None, None]
        longest = int(tree.depths.max()) + 1
    return ids[None], positions[None], Plan(mask, keys, depths, longest, low)


def stepping(
    places: Tensor, longest: int, dtype: torch.dtype, *, windowed: bool, low: bool = False
) -> Plan:
    """Rows that read a token each, at their places, shape (rows,), of so many at most."""
    keys = torch.arange(longest, device=places.device)
    mask = additive(keys <= places[:, None], torch.float32 if low else dtype)[:, None, None]
    depths = (places[:, None, None, None], keys[None, None, None]) if windowed else None
    return Plan(mask, None, depths, longest, low)


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
    from transformers import AttentionInterface, AttentionMaskInterface

    for name in (_NAME, _WINDOWED):
        AttentionInterface.register(name, attend)  # idempotent
    AttentionMaskInterface.register(_WINDOWED, reach)
    config: Any = module.config
    configs = {id(c): c for c in (config, config.get_text_config(decoder=True))}.values()
    before = [c._attn_implementation for c in configs]
    token = _current.set(plan)
    try:
        for c in configs:
            c._attn_implementation = plan.name
        yield
    finally:
        for c, name in zip(configs, before, strict=True):
            c._attn_implementation = name
        _current.reset(token)


def same_again(module: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """What makes a block in which the module's attention follows what it follows here."""
    plan = _current.get(None)
    return nullcontext if plan is None else partial(looking_at, module, plan)


def reach(
    *,
    mask_function: Callable[..., Tensor],
    local_size: int | None = None,
    use_vmap: bool = False,
    **more: Any,
) -> Tensor | None:
    """What a kind of layer may see, as the mask interface asks; ``None``: all that the plan shows.

    Returns:
        True where a query sees a key, shape (blocks, 1, queries, keys).

    Raises:
        NotImplementedError: the model changes what is causal.
    """
    if use_vmap:
        raise NotImplementedError("a mask that is more than a window or chunks")
    return None if local_size is None else _current.get().narrowed(local_size, mask_function)


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
    """Attention as the interface asks: query (rows, heads, nodes, width), keys and values likewise.

    Args:
        attention_mask: What `reach` gave; else not used.
        more: ``softcap`` and ``s_aux``, a score for each head: see `capped_attention`. Of
            ``sliding_window`` only this: the plan must have been asked for one.

    Returns:
        (rows, nodes, heads, width of a value), and no weights.

    Raises:
        NotImplementedError: a layer asks for more than a plan says.
    """
    plan = _current.get()
    if more.get("position_bias") is not None:
        raise NotImplementedError("attention with position_bias")
    if more.get("sliding_window") is not None and not plan.reaches:
        raise NotImplementedError("attention with sliding_window")
    rows, heads, _, width = query.shape
    shared = key.shape[1]
    blocks, _, length, _ = plan.mask.shape
    # (key heads, query heads of each, blocks, queries of each, width)
    folded = query.reshape(rows, shared, heads // shared, blocks // rows, length, width)
    folded = folded.permute(0, 3, 1, 2, 4, 5).reshape(blocks, shared, -1, width)
    cap, sinks = more.get("softcap"), more.get("s_aux")
    low = plan.low and cap is None and sinks is None and not dropout
    if plan.keys is not None:
        # What many blocks read gets the sum of their gradients: in float32.
        wide = torch.is_autocast_enabled(query.device.type)
        key, value = (make(_gather, x, plan.keys, wide, low) for x in (key, value))
    mask = plan.mask_for(heads // shared, attention_mask if plan.depths is not None else None)
    scale = width**-0.5 if scaling is None else scaling
    if low:
        out = low_attention(folded.to(LOW), key.to(LOW), value.to(LOW), mask, scale)
    elif cap is None and sinks is None:
        out = scaled_dot_product_attention(folded, key, value, mask, dropout, scale=scaling)
    else:
        if sinks is not None:  # one for each query of each head
            sinks = sinks.view(shared, -1, 1).expand(-1, -1, length).reshape(shared, -1, 1)
        out = capped_attention(folded, key, value, mask, scale, dropout, cap, sinks)
    out = out.reshape(rows, blocks // rows, shared, heads // shared, length, -1)
    return make(_in_nodes, out), None


def _in_nodes(x: Tensor) -> Tensor:
    """(rows, blocks, key heads, query heads, nodes, width) -> (rows, nodes, heads, width)."""
    rows, blocks, shared, each, length, width = x.shape
    x = x.permute(0, 1, 4, 2, 3, 5).reshape(rows, blocks * length, shared * each, width)
    return x.contiguous()  # as its reader would make it


def _gather(x: Tensor, keys: Tensor, wide: bool, low: bool) -> Tensor:
    """(1, heads, nodes, width) -> (blocks, heads, keys, width).

    Args:
        wide: Whether gradients are summed in float32.
        low: Whether to round.
    """
    _, heads, nodes, width = x.shape
    x = x.float() if wide else x
    rows = embedding(keys, x[0].transpose(0, 1).reshape(nodes, heads * width))
    rows = rows.reshape(*keys.shape, heads, width).transpose(1, 2)
    return rows.to(LOW) if low else rows
