"""Linear layers with reordered weights, for long decoding on a CPU.

With few rows a matrix product spends a quarter of its time on reordering the weight. MKL can do
that once for many products; torch offers it as an operator that its compiler uses. Where the
operator is missing, or does not give the same products, layers stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from winnow.engines.devices import for_a_while

_STEPS = 64
"""Products with each weight from which on reordering it pays."""


class PackedLinears:
    """The linear layers of a module, to be packed again whenever weights change.

    Args:
        rows: About how many rows the products will have.
        steps: How many products there will be with each weight, at most.
    """

    def __init__(self, module: nn.Module, rows: int, steps: int) -> None:
        self._forwards: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] = []
        if steps < _STEPS or not _available():
            return
        with for_a_while():
            self._pack(module, rows)

    def _pack(self, module: nn.Module, rows: int) -> None:
        pack: Any = torch.ops.mkl._mkl_reorder_linear_weight
        for layer in module.modules():
            weight: Any = getattr(layer, "weight", None)
            if type(layer) is not nn.Linear or "forward" in vars(layer) or not _suits(weight):
                continue
            try:
                order = pack(weight.detach(), rows)
            except RuntimeError:
                return
            forward = partial(_product, order, weight.detach(), layer.bias)
            if not self._forwards and not _same(forward, layer):
                return
            self._forwards.append((layer, forward))

    @contextmanager
    def used(self) -> Iterator[None]:
        """In the block, the layers use reordered weights; for inference."""
        for layer, forward in self._forwards:
            vars(layer)["forward"] = forward
        try:
            yield
        finally:
            for layer, _ in self._forwards:
                del vars(layer)["forward"]


def _available() -> bool:
    mkl: Any = torch.backends.mkl
    return bool(mkl.is_available()) and hasattr(torch.ops.mkl, "_mkl_linear")


def _suits(weight: Any) -> bool:
    return (
        isinstance(weight, Tensor)
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.is_contiguous()
    )


def _product(packed: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    rows = x.numel() // x.shape[-1]
    out: Tensor = torch.ops.mkl._mkl_linear(x, packed, weight, bias, rows)
    return out


def _same(forward: Callable[[Tensor], Tensor], layer: nn.Linear) -> bool:
    """Whether the operator does what is expected of it, at two numbers of rows."""
    for rows in (1, 7):
        x = torch.linspace(-1, 1, rows * layer.in_features).view(rows, -1)
        try:
            if not torch.allclose(forward(x), layer(x), rtol=1e-4, atol=1e-4):
                return False
        except RuntimeError:
            return False
    return True
