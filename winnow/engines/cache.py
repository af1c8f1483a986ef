"""A key/value cache with room for the answers, so that a new token is written and not appended.

The library's own cache concatenates: each step copies all that is cached, for every row and layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class _Roomy(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer: `keys` and `values` are views of the filled part of larger buffers."""

    def __init__(self, layer: DynamicLayer, rows: Tensor, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self._filled = layer.get_seq_length()
        keys, values = layer.keys, layer.values
        assert keys is not None
        assert values is not None
        self._buffers = (_widened(keys, rows, room), _widened(values, rows, room))
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        end = self._filled + key_states.shape[-2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, self._filled : end] = new
        self._filled = end
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        keys, values = self._buffers
        self._buffers = (keys[indices], values[indices])
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, : self._filled] for buffer in self._buffers)
        return self.keys, self.values


def share_out(cache: Any, rows: Tensor, room: int) -> None:
    """Give each row of a batch its prompt's part of a prefilled cache, with room for more tokens.

    Args:
        cache: As the prefill left it, one entry a prompt. Changed in place.
        rows: For each row of the batch, the prompt it continues, shape (rows,).
        room: Tokens that each row may still add.
    """
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [_Roomy(layer, rows, room) for layer in cache.layers]
    else:  # windows, recurrent states: as their own classes do it
        keep_rows(cache, rows)


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Leave these rows of the batch in the cache, in this order."""
    for layer in cache.layers:
        if isinstance(layer, _Roomy):
            layer.batch_select_indices(rows)
        else:
            layer.reorder_cache(rows)


def _widened(filled: Tensor, rows: Tensor, room: int) -> Tensor:
    _, heads, length, width = filled.shape
    buffer = filled.new_empty(len(rows), heads, length + room, width)
    buffer[:, :, :length] = torch.index_select(filled, 0, rows)
    return buffer
