"""KV caches for decoding: keys and values of the rows of a batch, which join, split and leave.

`Slots` keeps each row's keys and values in a slot of its own, written in place: rows join, split
and leave at any step, each filled to its own length. The library's own cache would copy all it
holds at every step, and pad what joins later. For architectures that `Slots` cannot serve there are
others (`other_caches.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from winnow.engines.devices import for_a_while, without_plans
from winnow.engines.local.packed_linears import PackedLinears
from winnow.engines.local.replays import Replays
from winnow.engines.models.forward import PROBE_ERRORS, PolicyForward, cache_argument
from winnow.engines.models.prefix_tree import Index, added
from winnow.engines.models.tree_attention import looking_at, stepping

_PREFILL = 4096
"""Most tokens of prompts that go through the model at a time."""
_GROW = 64
"""Least number of tokens by which slots are made longer."""
_ROUND = 32
"""`low_attention` reads a multiple of so many keys: for each length a kernel is made."""


class KVCache(Protocol):
    """The KV cache of a batch's rows. A row is one history: a prompt, then tokens."""

    capacity: int
    """Most rows."""
    joins: bool
    """Whether rows may be placed while others are under way."""

    def kind(self, prompt: int) -> object:
        """Prompts of one kind may be placed together."""
        ...

    def place(self, prompts: Sequence[int]) -> Tensor:
        """Append rows for the prompts of these numbers; return their next logits."""
        ...

    def forget(self, prompt: int) -> None:
        """No row will be placed for this prompt any more."""
        ...

    def keep(self, sources: Sequence[int]) -> None:
        """Make row i what row ``sources[i]`` was; a row that is repeated is split."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Read a token for each row, shape (rows,); return the next logits, (rows, vocabulary)."""
        ...


class _PrefixState(NamedTuple):
    """A prompt that was read: its keys and values, its path among them, its next logits."""

    layers: list[DynamicLayer]
    path: Index
    logits: Tensor


class Slots:
    """A cache that reads prompts as trees, each once; every row has a slot of its own.

    Args:
        prompts: Token ids of all prompts that rows may begin with.
        room: Most tokens of a completion.
        capacity: Slots.
    """

    joins = True

    def __init__(
        self, forward: PolicyForward, prompts: Sequence[Sequence[int]], *, room: int, capacity: int
    ) -> None:
        self.capacity = capacity
        self._forward = forward
        self._argument = cache_argument(forward.module)
        self._prompts = prompts
        self._longest = max(len(prompt) for prompt in prompts)
        self._room = self._longest + room - 1  # the last token of a completion is never read
        self._prefixes: dict[int, _PrefixState] = {}
        self._lengths: list[int] = []
        self._cache = DynamicCache()
        self._slots: list[_Slot] = []
        self._linears = PackedLinears(forward.module, rows=capacity, steps=room)
        self._replays: Replays | None = None
        if forward.device.type == "cuda":
            self._replays = Replays(self._step, self._grow, capacity, forward.agree)

    def kind(self, prompt: int) -> object:
        return None

    def place(self, prompts: Sequence[int]) -> Tensor:
        fresh = {p for p in prompts if p not in self._prefixes}
        self._read(sorted(fresh, key=lambda p: tuple(self._prompts[p])))
        prefixes = [self._prefixes[p] for p in prompts]
        first = len(self._lengths)
        if not self._slots:
            if any(type(x) is not DynamicLayer or x.keys is None for x in prefixes[0].layers):
                raise NotImplementedError("layers that keep something else than keys and values")
            self._slots = [
                _Slot(layer, self.capacity, self._longest, self._room, self._forward.attends_low())
                for layer in prefixes[0].layers
            ]
            self._cache.layers = list(self._slots)
        for source in {id(prefix.layers): prefix.layers for prefix in prefixes}.values():
            rows = [row for row, prefix in enumerate(prefixes) if prefix.layers is source]
            paths = [torch.from_numpy(prefixes[row].path) for row in rows]
            index = torch.nn.utils.rnn.pad_sequence(paths, batch_first=True)
            index = index.to(self._forward.device)
            slots = torch.tensor(rows, device=self._forward.device) + first
            for layer, filled in zip(self._slots, source, strict=True):
                layer.fill(slots, filled, index)
        self._lengths += [len(prefix.path) for prefix in prefixes]
        return torch.stack([prefix.logits for prefix in prefixes])

    def forget(self, prompt: int) -> None:
        self._prefixes.pop(prompt, None)

    def keep(self, sources: Sequence[int]) -> None:
        moved = [(i, source) for i, source in enumerate(sources) if source != i]
        if moved:
            to, of = torch.tensor(moved, device=self._forward.device).unbind(1)
            length = max(self._lengths)
            for layer in self._slots:
                layer.copy(to, of, length)
        self._lengths = [self._lengths[source] for source in sources]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values, in all layers."""
        both = [x for slot in self._slots for x in (slot.keys, slot.values) if x is not None]
        return sum(x[0, :, 0].numel() * x.element_size() for x in both)

    def step(self, tokens: Tensor) -> Tensor:
        lengths = self._lengths
        self._lengths = [length + 1 for length in lengths]
        if self._replays is not None:
            return self._replays.step(tokens, lengths, self._room)
        places = torch.tensor(lengths, device=tokens.device)
        return self._step(tokens, places, max(self._lengths))

    def _step(self, tokens: Tensor, places: Tensor, longest: int) -> Tensor:
        """Read a token for each row, to be kept at its place; attention reaches to ``longest``."""
        rows = torch.arange(len(places), device=tokens.device)
        windowed, module = self._forward.windowed, self._forward.module
        low = self._forward.attends_low()
        for layer in self._slots:
            longest = layer.write_at(rows, places, longest)
        plan = stepping(places, longest, self._forward.dtype, windowed=windowed, low=low)
        # Where layers have windows the model makes their masks, with the plan's help.
        seeing = looking_at(module, plan) if windowed or low else nullcontext()
        with self._linears.used(), without_plans(tokens.device), seeing:
            out: Any = module(
                input_ids=tokens[:, None],
                attention_mask=None if windowed else plan.mask,
                position_ids=places[:, None],
                use_cache=True,
                **{self._argument: self._cache},
            )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _grow(self, length: int) -> object:
        """Make all slots at least so long; what is returned is another thing once they moved."""
        for layer in self._slots:
            layer.grow(length)
        return self._slots[0].keys

    def _read(self, numbers: Sequence[int]) -> None:
        """Read some prompts, given in order; a common prefix is read once."""
        part: list[int] = []
        size = 0
        for number in numbers:
            extra = added(self._prompts[part[-1]] if part else (), [self._prompts[number]])
            if part and size + extra > _PREFILL:
                self._read_part(part)
                part, size = [], 0
            part.append(number)
            size += extra
        if part:
            self._read_part(part)

    def _read_part(self, numbers: Sequence[int]) -> None:
        logits, cache, paths = self._forward.read([self._prompts[n] for n in numbers])
        for row, number in enumerate(numbers):
            self._prefixes[number] = _PrefixState(cache.layers, paths[row], logits[row])


class _Slot(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer: keys and values, shape (slots, heads, length, width); grows as needed.

    What is not yet written is zero: a masked key must still be a number.

    Args:
        whole: Whether all of it is shown, not only as far as rows are filled: a product in bfloat16
            would first copy a part.
    """

    def __init__(
        self, like: DynamicLayer, slots: int, longest: int, room: int, whole: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        assert like.keys is not None
        assert like.values is not None
        self.dtype, self.device = like.keys.dtype, like.keys.device  # as older releases keep them
        self.is_initialized = True
        self.keys, self.values = (
            x.new_zeros(slots, x.shape[1], 0, x.shape[3]) for x in (like.keys, like.values)
        )
        self._room, self._whole = room, whole
        self.grow(longest if whole else longest + _GROW)
        self._at: tuple[Tensor, Tensor, int] | None = None

    def fill(self, slots: Tensor, layer: DynamicLayer, paths: Tensor) -> None:
        """Copy nodes of a tree, shape (slots, length), to the beginnings of some slots."""
        for mine, theirs in ((self.keys, layer.keys), (self.values, layer.values)):
            assert mine is not None
            assert theirs is not None
            mine[slots, :, : paths.shape[1]] = theirs[0][:, paths].transpose(0, 1)

    def copy(self, to: Tensor, of: Tensor, length: int) -> None:
        """Copy slots to slots; all is read before anything is written."""
        for mine in (self.keys, self.values):
            assert mine is not None
            mine[to, :, :length] = mine[of, :, :length]

    def write_at(self, rows: Tensor, places: Tensor, longest: int) -> int:
        """Set where the next tokens go, and how far rows will then be filled at most.

        Returns:
            How far they will be shown.
        """
        self.grow(longest)
        assert self.keys is not None
        longest = self.keys.shape[2] if self._whole else longest
        self._at = (rows, places, longest)
        return longest

    def grow(self, longest: int) -> None:
        assert self.keys is not None
        assert self.values is not None
        length = self.keys.shape[2]
        if longest > length:
            ahead = length + max(_GROW, length // 2)
            wanted = -(-longest // _ROUND) * _ROUND if self._whole else max(longest, ahead)
            more = min(self._room, wanted) - length
            with for_a_while():
                self.keys, self.values = (
                    torch.nn.functional.pad(x, (0, 0, 0, more)) for x in (self.keys, self.values)
                )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self._at is not None
        rows, places, longest = self._at
        shown = []
        for mine, new in ((self.keys, key_states), (self.values, value_states)):
            assert mine is not None
            mine[rows, :, places] = new[:, :, 0]
            shown.append(mine[: len(rows), :, :longest])
        return shown[0], shown[1]

    def get_seq_length(self) -> int:
        return self._at[2] if self._at else 0


@torch.inference_mode()
def token_bytes(forward: PolicyForward) -> int | None:
    """Bytes of one token's keys and values in all layers; ``None`` where `Slots` is not exact.

    Probed on a few tokens, against the module without any cache.
    """
    if not forward.shares_prefix:
        return None
    with forward.probing():
        return _token_bytes(forward)


def _token_bytes(forward: PolicyForward) -> int | None:
    size = forward.vocabulary
    prompts = [[(5 * i + 2) % size for i in range(6)], [(3 * i + 1) % size for i in range(4)]]
    nexts = [7 % size, 11 % size]
    slots = Slots(forward, prompts, room=2, capacity=3)
    try:
        slots.place([0, 1])
        slots.keep([0, 1, 1])
        got = slots.step(torch.tensor([*nexts, nexts[0]], device=forward.device))
    except PROBE_ERRORS:
        return None
    rows = [[*prompts[0], nexts[0]], [*prompts[1], nexts[1]], [*prompts[1], nexts[0]]]
    exact = all(forward.follows(row, logits) for row, logits in zip(rows, got, strict=True))
    return slots.token_bytes if exact else None
