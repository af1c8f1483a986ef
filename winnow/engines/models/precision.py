"""Matrix products in bfloat16 of a model whose weights are float32: ``optimizer.precision``.

Only products are rounded, by `torch.autocast` and by the head (`chunked_logprobs.py`): their inputs
to bfloat16, 2^-9 of themselves at most, and what a layer's product gives. Weights, the residual
stream, norms, softmax, logits, losses and the sums of gradients over micro-batches are float32.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor

LOW = torch.bfloat16
_mixed: ContextVar[bool] = ContextVar("products in bfloat16", default=False)


@contextmanager
def mixed(device: torch.device, on: bool = True) -> Iterator[None]:
    """In the block, models that are run multiply in bfloat16; nothing else does.

    Weights that are trained are rounded once for all passes, so they must not change in it (other
    weights may be in their place where nothing is learned from a pass).
    """
    if not on:
        yield
        return
    token = _mixed.set(True)
    try:
        # Not enabled here but by `products`; torch keeps the rounded weights until the block ends.
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _mixed.reset(token)


def is_mixed() -> bool:
    """Whether this is in a block of `mixed`."""
    return _mixed.get()


def products(device: torch.device) -> AbstractContextManager[Any]:
    """A block for a pass of a model, whose products are in bfloat16 in a block of `mixed`."""
    if not is_mixed():
        return nullcontext()
    return torch.autocast(device.type, LOW, cache_enabled=torch.is_grad_enabled())


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T of float32 matrices in bfloat16, its sums and what it gives in float32.

    On a CPU by oneDNN, which multiplies in bfloat16 only where that is how it is fastest (AMX), and
    of batches of matrices too.
    """
    if a.is_cuda:
        return torch.mm(a.to(LOW), b.to(LOW).t(), out_dtype=torch.float32)
    backend = cast(Any, torch.backends.mkldnn).matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        return torch.matmul(a, b.transpose(-1, -2))
    finally:
        backend.fp32_precision = before


def low_products_are_slow(device: torch.device) -> bool:
    """Whether this is an x86 CPU without instructions for products in bfloat16."""
    cpu: Any = torch.cpu
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return not (cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
