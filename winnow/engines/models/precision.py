"""Matrix products in bfloat16 of a model whose weights are float32: ``optimizer.precision``.

Only products are rounded, those with trained weights here and in the head (`chunked_logprobs.py`),
others by `torch.autocast`: their inputs to bfloat16, 2^-9 of themselves at most (trained weights
as in `rounding.py`), and what a layer's product gives. Weights, the residual stream, norms,
softmax, logits, losses and the sums of gradients over micro-batches are float32.

The gradient of an embedding, and of the head, which often is the same weight, is added to its sum
where it is made. By itself it would be as large as the vocabulary, for every micro-batch twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear
from torch.overrides import TorchFunctionMode

from winnow.engines.models.made_again import make_of_made
from winnow.engines.models.rounding import LOW, rounded

_block: ContextVar[_Block | None] = ContextVar("products in bfloat16", default=None)


@contextmanager
def mixed(device: torch.device, on: bool = True) -> Iterator[None]:
    """In the block, models that are run multiply in bfloat16; nothing else does.

    Weights that are trained are rounded once for all passes, so they must not change in it (other
    weights may be in their place where nothing is learned from a pass).
    """
    if not on:
        yield
        return
    block = _Block()
    token = _block.set(block)
    try:
        # Not enabled here but by `products`; torch keeps what it rounded until the block ends.
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _block.reset(token)
        block.low.clear()


def is_mixed() -> bool:
    """Whether this is in a block of `mixed`."""
    return _block.get() is not None


def low(weight: Tensor) -> Tensor:
    """A weight as products of this block of `mixed` read it, in bfloat16."""
    block = _block.get()
    assert block is not None
    return block.rounded(weight)


def products(device: torch.device) -> AbstractContextManager[Any]:
    """A block for a pass of a model, whose products are in bfloat16 in a block of `mixed`."""
    block = _block.get()
    return nullcontext() if block is None else _multiplying(device, block)


def same_products() -> Callable[[torch.device], AbstractContextManager[Any]]:
    """What makes a block like this one for products, where a pass is made again."""
    block = _block.get()
    if block is None:
        return lambda device: nullcontext()
    return lambda device: _multiplying(device, block)


@contextmanager
def _multiplying(device: torch.device, block: _Block) -> Iterator[None]:
    with torch.autocast(device.type, LOW, cache_enabled=torch.is_grad_enabled()), _Products(block):
        yield


class _Block:
    """The trained weights of a block, rounded. A pass that does not learn keeps none."""

    def __init__(self) -> None:
        self.low: dict[int, Tensor] = {}

    def of(self, weight: Any) -> Tensor | None:
        """A trained weight or a view of one, such as one of several experts', rounded.

        ``None`` of anything else.
        """
        if _trained(weight):
            return self.rounded(weight)
        whole = weight._base if type(weight) is Tensor else None
        if not _trained(whole) or not whole.is_contiguous() or weight.dtype != whole.dtype:
            return None
        if not torch.is_autocast_enabled(weight.device.type):
            return None  # as the model asks in a block of its own
        place = weight.storage_offset() - whole.storage_offset()
        if not torch.is_grad_enabled():  # nothing is kept, so no more than is read
            if weight.is_contiguous():
                return rounded(weight, LOW, place)
            if weight.dim() > 1 and weight.mT.is_contiguous():
                return rounded(weight.mT, LOW, place).mT
        return self.rounded(whole).as_strided(weight.shape, weight.stride(), place)

    def rounded(self, weight: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or not weight.requires_grad:
            return rounded(weight)
        key = weight.data_ptr()
        if key not in self.low:
            self.low[key] = rounded(weight)
        return self.low[key]


class _Products(TorchFunctionMode):
    """Takes products with trained weights, layers' (`linear`), GPT-2's (`addmm`) and experts', and
    rows of trained weights (`embedding`).
    """

    def __init__(self, block: _Block) -> None:
        super().__init__()
        self._block = block
        self._last: tuple[Tensor, int, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        plain = partial(func, *args, **(kwargs or {}))
        transposed = func is torch.addmm
        if func is embedding:
            ids, weight, padding, usual = _of_embedding(*args, **(kwargs or {}))
            if not usual or not _trained(weight):
                return plain()
            return cast(Any, _Rows).apply(weight, ids, padding)
        if func in _OF_EXPERTS:
            return self._of_experts(func, args, kwargs or {})
        if func is linear:
            x, weight, bias = _of_linear(*args, **(kwargs or {}))
        elif transposed and not kwargs:
            bias, x, weight = args
        else:
            return plain()
        own = self._block.of(weight)
        if own is None:
            return plain()
        own = own.t() if transposed else own
        low_bias = self._block.of(bias)
        low_bias = bias if low_bias is None else low_bias
        return cast(Any, _Product).apply(x, self._of(x), weight, own, bias, low_bias, transposed)

    def _of_experts(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """A product of which some factors are trained weights."""
        known = next((one for one in args if isinstance(one, Tensor)), None)
        asked = known is not None and torch.is_autocast_enabled(known.device.type)
        lows = [self._block.of(one) if asked else None for one in args]
        if all(low is None for low in lows):
            return func(*args, **kwargs)
        given = [
            one if low is None else cast(Any, _Seen).apply(one, low)
            for one, low in zip(args, lows, strict=True)
        ]
        if func is not _GROUPED:  # the other factor is rounded by `torch.autocast`
            return func(*given, **kwargs)
        given[0] = given[0].to(LOW)
        return func(*given, **kwargs).to(args[0].dtype)

    def _of(self, x: Tensor) -> Tensor:
        """An input, rounded once for the layers that read it one after the other."""
        if self._last is None or self._last[0] is not x or self._last[1] != x._version:
            self._last = x, x._version, make_of_made(_to_low, x)
        return self._last[2]


_GROUPED = torch._grouped_mm
"""What `torch.autocast` leaves as it is."""
_OF_EXPERTS = {
    *(torch.mm, torch.bmm, torch.baddbmm, torch.matmul, torch.einsum),
    *(Tensor.mm, Tensor.bmm, Tensor.matmul),
    _GROUPED,
}


def _of_linear(
    input: Tensor, weight: Any, bias: Tensor | None = None
) -> tuple[Tensor, Any, Tensor | None]:
    """What `linear` was given, by whatever names."""
    return input, weight, bias


def _of_embedding(
    input: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> tuple[Tensor, Any, int | None, bool]:
    """What `embedding` was given, and whether it is asked for rows and nothing else."""
    return input, weight, padding_idx, max_norm is None and not (scale_grad_by_freq or sparse)


def _trained(weight: Any) -> TypeGuard[nn.Parameter]:
    return type(weight) is nn.Parameter and weight.requires_grad and weight.dtype == torch.float32


def _to_low(x: Tensor) -> Tensor:
    return x.detach().to(LOW)


class _Seen(torch.autograd.Function):
    """A weight as it was rounded before; its gradient is that of the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, own: Tensor) -> Tensor:
        return own.view_as(own)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0].float(), None


class _Product(torch.autograd.Function):
    """x @ own.T + bias in bfloat16, of inputs and weights that were rounded before."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        low: Tensor,
        weight: Tensor,
        own: Tensor,
        bias: Tensor | None,
        low_bias: Tensor | None,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(low, own)
        ctx.dtype, ctx.biased, ctx.transposed = x.dtype, bias is not None, transposed
        return linear(low, own, None if low_bias is None else low_bias.to(LOW))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        low, own = ctx.saved_tensors
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = torch.matmul(grad, own).to(ctx.dtype)
        rows, given = grad.flatten(0, -2), low.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            pair = (given, rows) if ctx.transposed else (rows, given)
            to_weight = torch.mm(pair[0].t(), pair[1]).float()
        if ctx.biased and ctx.needs_input_grad[4]:
            to_bias = rows.sum(0, dtype=torch.float32)
        return to_x, None, to_weight, None, to_bias, None, None


class _Rows(torch.autograd.Function):
    """Rows of a weight; their gradients are added to the weight's, that of padding aside."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, padding: int | None) -> Tensor:
        ctx.weight, ctx.padding = weight, padding
        ctx.save_for_backward(ids)
        return embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        ids, rows = ids.flatten(), grads[0].flatten(0, -2)
        if ctx.padding is not None:
            counts = ids != ctx.padding % len(ctx.weight)
            ids, rows = ids[counts], rows[counts]
        gradient_of(ctx.weight).index_add_(0, ids, rows)
        return None, None, None


def gradient_of(weight: Tensor) -> Tensor:
    """The sum of a parameter's gradients so far, to add to."""
    assert weight.is_leaf
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def wide_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T of matrices in float32 or bfloat16, in the latter; sums and result in float32.

    On a CPU by oneDNN, which multiplies in bfloat16 only where that is how it is fastest (AMX), and
    of batches of matrices too.
    """
    if a.is_cuda:
        return torch.mm(a.to(LOW), b.to(LOW).t(), out_dtype=torch.float32)
    backend = cast(Any, torch.backends.mkldnn).matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        return torch.matmul(a, b.float().transpose(-1, -2))
    finally:
        backend.fp32_precision = before
