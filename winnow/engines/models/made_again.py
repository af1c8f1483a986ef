"""Cheap activations, made again in the backward pass from what is kept anyway.

Autograd keeps what each function needs of its inputs. What an activation function, a norm or an
elementwise product gave, which the next function keeps, takes no time to make again from what it
was made of, and that is kept for its own derivative: a block of Llama's kind so keeps half as much.
They are made by the same operations from the same numbers, so gradients are the same bits (as
"selective activation recomputation", Korthikanti et al. 2022, but by function instead of by block).

What is written to before its gradient is computed is an error, except through `.data`, which leaves
no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_KEPT: dict[Any, int] = {
    torch.mul: 2,
    Tensor.mul: 2,
    F.silu: 1,
    F.gelu: 1,
    F.layer_norm: 1,
    F.rms_norm: 1,
}
"""For each function that is made again, how many of its inputs autograd keeps where they have
gradients."""
_CASTS = {Tensor.to, Tensor.float, Tensor.type}
"""Made again where their input is: autograd keeps nothing of it."""
_LEAST = 2**14
"""Numbers of a tensor that is worth it."""

_notes: ContextVar[_Notes | None] = ContextVar("how activations were made", default=None)


@contextmanager
def made_again() -> Iterator[None]:
    """In the block, cheap activations are not kept for the backward pass."""
    if not torch.is_grad_enabled():
        yield
        return
    notes = _Notes()
    token = _notes.set(notes)
    try:
        with saved_tensors_hooks(notes.pack, _unpack), _Noting(notes):
            yield
    finally:
        _notes.reset(token)


@contextmanager
def kept() -> Iterator[None]:
    """In the block, nothing is noted: what is in it is made again as a whole."""
    token = _notes.set(None)
    try:
        yield
    finally:
        _notes.reset(token)


def keep_result(module: nn.Module) -> None:
    """Have what a module gives kept, so that nothing outside of it makes it again.

    Needed where the weights that it is made of are there only while the module is run.
    """

    def forget(_: nn.Module, given: Any, result: Any) -> None:
        notes = _notes.get()
        if notes is not None:
            tree_map_only(Tensor, notes.forget, result)

    module.register_forward_hook(forget)


def make(function: Callable[..., Tensor], *given: Any) -> Tensor:
    """What a function gives; a gradient goes through it, and it is called again for its result.

    Args:
        given: Kept instead; nothing may be written to them before the backward pass.
    """
    made = function(*given)
    notes = _notes.get()
    if notes is not None:
        notes.note(made, function, given)
    return made


def make_of_made(function: Callable[..., Tensor], given: Tensor) -> Tensor:
    """`make`, where the input itself is made again; else the result is kept."""
    notes = _notes.get()
    return function(given) if notes is None or not notes.knows(given) else make(function, given)


class _Whole:
    """A tensor that is kept, and must not be written to: autograd leaves that to the hooks."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach()  # which holds no graph, or the graph would hold itself
        self._version = tensor._version

    def read(self) -> Tensor:
        if self._tensor._version != self._version:
            kind = f"{self._tensor.dtype} of shape {list(self._tensor.shape)}"
            raise RuntimeError(f"a tensor ({kind}) was written to before its gradient was computed")
        return self._tensor


class _Made:
    """How a tensor was made, and from what.

    Args:
        given: Tensors, how they were made, and other things; then those by name.
    """

    def __init__(
        self,
        tensor: Tensor,
        function: Callable[..., Tensor],
        given: Sequence[_Made | _Whole | Any],
        named: Mapping[str, Any],
    ) -> None:
        self._storage: Any = cast(Any, StorageWeakRef)(tensor.untyped_storage())
        self.shape, self.stride, self.version = tensor.shape, tensor.stride(), tensor._version
        self.dtype, self.in_a_row = tensor.dtype, tensor.is_contiguous()
        self._function, self._given, self._named = function, given, named
        self._uses = 0
        self._value: _Whole | None = None

    @property
    def gone(self) -> bool:
        """Whether no tensor has its memory any more. Until this is let go of, none has its key."""
        return bool(self._storage.expired())

    def gave(self, tensor: Tensor) -> bool:
        """Whether a tensor of this place in memory is it, or a view of all of it in its order."""
        if (self.version, self.dtype) != (tensor._version, tensor.dtype):
            return False
        if (self.shape, self.stride) == (tensor.shape, tensor.stride()):
            return not tensor.storage_offset()
        whole = self.shape.numel() == tensor.numel()
        return whole and self.in_a_row and tensor.is_contiguous()

    def use(self) -> None:
        """It will be asked for once more."""
        self._uses += 1
        if self._uses == 1:
            for one in (*self._given, *self._named.values()):
                if isinstance(one, _Made):
                    one.use()

    def again(self) -> Tensor:
        """The tensor; held for as long as it will be asked for."""
        if self._value is None:
            named = {name: _input(one) for name, one in self._named.items()}
            with torch.no_grad():
                self._value = _Whole(self._function(*map(_input, self._given), **named))
        value = self._value.read()
        self._uses -= 1
        if self._uses <= 0:
            self._value = None
        return value


class _Notes:
    """How the tensors of a pass were made that may be made again."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}
        self._most = 64

    def note(
        self,
        tensor: Tensor,
        function: Callable[..., Tensor],
        given: Sequence[Any],
        named: Mapping[str, Any] | None = None,
    ) -> None:
        if len(self._made) >= self._most:
            alive = {key: m for key, m in self._made.items() if not m.gone}
            self._made, self._most = alive, 2 * len(alive) + 64
        if any(_key(one) == _key(tensor) for one in _tensors(given)):
            return  # a view, or in place
        inputs = [self._input(one) for one in given]
        by_name = {name: self._input(one) for name, one in (named or {}).items()}
        self._made[_key(tensor)] = _Made(tensor, function, inputs, by_name)

    def knows(self, tensor: Tensor) -> bool:
        """Whether a tensor is made again, as it is and not as a view."""
        made = self._find(tensor)
        return made is not None and made.shape == tensor.shape

    def forget(self, tensor: Tensor) -> None:
        if _is_plain(tensor):
            self._made.pop(_key(tensor), None)

    def pack(self, tensor: Tensor) -> _Whole | tuple[_Made, torch.Size]:
        """What is kept of a tensor that autograd keeps."""
        made = self._find(tensor)
        if made is None:
            return _Whole(tensor)
        made.use()
        return made, tensor.shape

    def _input(self, given: Any) -> _Made | _Whole | Any:
        if not isinstance(given, Tensor):
            return given
        made = self._find(given)
        return _Whole(given) if made is None or made.shape != given.shape else made

    def _find(self, tensor: Tensor) -> _Made | None:
        """How a tensor was made: all of it, in its order."""
        if not _is_plain(tensor):
            return None
        made = self._made.get(_key(tensor))
        return made if made is not None and made.gave(tensor) else None


class _Noting(TorchFunctionMode):
    def __init__(self, notes: _Notes) -> None:
        super().__init__()
        self._notes = notes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if _notes.get() is self._notes and self._is_cheap(func, made, args, kwargs):
            self._notes.note(made, func, args, kwargs)
        return made

    def _is_cheap(self, func: Any, made: Any, given: tuple[Any, ...], named: Any) -> bool:
        """Whether something was made of what is kept, or made again, anyway."""
        knows = self._notes.knows
        if func in _CASTS:
            return knows(given[0]) and len(_tensors((*given, made, *named.values()))) == 2
        count = _KEPT.get(func)
        if count is None or not _is_plain(made) or not made.requires_grad or "out" in named:
            return False
        inputs = [x for x in given[:count] if _is_plain(x) and x.dtype == made.dtype]
        if made.numel() < _LEAST or len(inputs) < count:
            return False
        # Of a product with a frozen weight autograd keeps the weight alone.
        learned = [x for x in inputs if x.requires_grad]
        return len(learned) == count or any(map(knows, learned))


def _is_plain(tensor: Any) -> bool:
    """Whether it is a tensor that is all that it seems, with memory of its own."""
    kind = type(tensor) is Tensor or type(tensor) is nn.Parameter
    return kind and tensor.layout == torch.strided and not is_functorch_wrapped_tensor(tensor)


def _input(given: _Made | _Whole | Any) -> Any:
    if isinstance(given, _Made):
        return given.again()
    return given.read() if isinstance(given, _Whole) else given


def _tensors(given: Iterable[Any]) -> list[Tensor]:
    return [x for x in given if isinstance(x, Tensor)]


def _unpack(packed: _Whole | tuple[_Made, torch.Size]) -> Tensor:
    if isinstance(packed, _Whole):
        return packed.read()
    made, shape = packed
    value = made.again()
    return value if value.shape == shape else value.view(shape)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
