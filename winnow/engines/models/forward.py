"""Log-probs of completions under a module; shared prefixes are computed once.

A micro-batch is one packed sequence, the prefix tree of all its prompts and completions
(`prefix_tree.py`). Every completion sees just what it would see alone after its prompt. Its last
token is never an input: nothing is predicted from it. The head is applied only where a token of a
completion is predicted (`chunked_logprobs.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import DynamicCache

from winnow.engines.devices import without_plans
from winnow.engines.models.chunked_logprobs import logprobs
from winnow.engines.models.made_again import made_again
from winnow.engines.models.precision import is_mixed, products
from winnow.engines.models.prefix_tree import Index, Tree, grow
from winnow.engines.models.rounding import LOW
from winnow.engines.models.tree_attention import looking_at, packed
from winnow.engines.models.windows import is_windowed, narrowed, scales_by_place, unknown_kinds

_CHUNK_ELEMENTS, _GPU_CHUNK_ELEMENTS = 2**22, 2**25
"""Logits held at a time where the head is not a plain matrix product, on a CPU and on a GPU."""
PROBE_ERRORS = (
    AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What an architecture may raise while it is probed."""
_ROW_TOKENS = 4096
"""Most tokens at a time where each row is read whole for its next token."""
_NARROW = 3
"""Windows and chunks while a model is probed: short enough to hide some of a few tokens."""


@dataclass(frozen=True)
class Piece:
    """A prompt and some of its completions, as token ids."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    @property
    def inputs(self) -> list[tuple[int, ...]]:
        """What the model reads for each completion."""
        return [(*self.prompt, *answer[:-1]) for answer in self.answers]

    @property
    def targets(self) -> list[int]:
        return [token for answer in self.answers for token in answer]


@dataclass(frozen=True)
class Contexts:
    """What the head is applied to, and what it should predict.

    Attributes:
        features: One row for each distinct prefix that something is predicted from, shape
            (contexts, hidden), or (contexts, vocabulary) where the head cannot be split off.
        index: For each completion token, in the order of the pieces, its context; shape (tokens,).
        targets: The completion tokens, shape (tokens,).
        positions: Tokens that went through the model.
    """

    features: Tensor
    index: Tensor
    targets: Tensor
    positions: int


class PolicyForward:
    """Runs a causal language model of `transformers` over pieces.

    At construction it probes, on a few tokens, whether this architecture gives the same log-probs
    with a shared prefix as without, and whether its head can be applied on its own. Where not, the
    plain computation is used; ``shares_prefix``, ``splits_head`` and ``why`` say so. ``windowed``
    says whether some layer sees a part of what is before it.

    Args:
        low_attention: Whether a module in bfloat16 attends by `low_attention` on a CPU.
    """

    def __init__(
        self, module: nn.Module, *, share_prefix: bool = True, low_attention: bool = False
    ) -> None:
        self.module = module
        self._low_attention = low_attention
        self.shares_prefix = False
        self.splits_head = False
        self.why = ""
        self.windowed = is_windowed(module.config)
        with torch.no_grad():
            self.splits_head = self._head_is_separable()
            if share_prefix:
                self.shares_prefix = self._prefix_is_shareable()

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def contexts(self, pieces: Sequence[Piece]) -> Contexts:
        """Run the model over some pieces."""
        inputs = [ids for piece in pieces for ids in piece.inputs]
        hidden, paths = self._tree(inputs) if self.shares_prefix else self._rows(inputs)
        starts = [len(piece.prompt) - 1 for piece in pieces for _ in piece.answers]
        where = np.concatenate([path[start:] for path, start in zip(paths, starts, strict=True)])
        used, index = np.unique(where, return_inverse=True)
        targets = torch.tensor([token for piece in pieces for token in piece.targets])
        return Contexts(
            hidden.index_select(0, torch.from_numpy(used).to(self.device)),
            torch.from_numpy(index).to(self.device),
            targets.to(self.device),
            len(hidden),
        )

    def logprobs(self, at: Contexts, temperature: float) -> Tensor:
        """log pi(target) under the full softmax at a temperature, float32 or better, (tokens,)."""
        head = self.module.get_output_embeddings()  # type: ignore[operator]
        if self.splits_head and type(head) is nn.Linear:
            return logprobs(at.features, head.weight, head.bias, at.index, at.targets, temperature)

        def part(features: Tensor, index: Tensor, ids: Tensor) -> Tensor:
            logits = self.logits(features)[index]
            logits = logits if logits.dtype == torch.float64 else logits.float()
            logits = logits / temperature if temperature != 1 else logits
            return -cross_entropy(logits, ids, reduction="none")

        elements = _GPU_CHUNK_ELEMENTS if at.features.is_cuda else _CHUNK_ELEMENTS
        size = max(16, elements // self.vocabulary)
        order = torch.argsort(at.index)
        parts = []
        for items in torch.split(order, size):
            used, index = torch.unique(at.index[items], return_inverse=True)
            args = (at.features[used], index, at.targets[items])
            learns = torch.is_grad_enabled() and at.features.requires_grad
            parts.append(checkpoint(part, *args, use_reentrant=False) if learns else part(*args))
        return torch.cat(parts)[torch.argsort(order)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits from the features of contexts."""
        if not self.splits_head:
            return hidden
        logits = self.module.get_output_embeddings()(hidden)  # type: ignore[operator]
        assert isinstance(logits, Tensor)
        return logits

    def read(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any, list[Index]]:
        """Read some prompts, common prefixes once. Only where ``shares_prefix``.

        Returns:
            Logits of the token after each prompt, shape (prompts, vocabulary); the cache of their
            tree, as one row; the nodes of each prompt.
        """
        cache = DynamicCache()
        kept = {"use_cache": True, cache_argument(self.module): cache}
        tree = grow(prompts)
        ends = torch.tensor([int(path[-1]) for path in tree.paths], device=self.device)
        if self.splits_head:
            logits = self.logits(self._over(tree, **kept)[ends])
        else:
            logits = self._over(tree, **kept, logits_to_keep=ends)
        return logits, cache, tree.paths

    def next_logits(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """Logits of the token after each history, each read in a row of its own, no cache."""
        order = sorted(range(len(histories)), key=lambda i: -len(histories[i]))
        found: dict[int, Tensor] = {}
        while order:
            size = max(1, _ROW_TOKENS // len(histories[order[0]]))
            some, order = order[:size], order[size:]
            hidden, paths = self._rows([histories[i] for i in some])
            ends = torch.tensor([int(path[-1]) for path in paths], device=self.device)
            found.update(zip(some, self.logits(hidden[ends]), strict=True))
        return torch.stack([found[i] for i in range(len(histories))])

    def _tree(self, inputs: Sequence[Sequence[int]]) -> tuple[Tensor, list[Index]]:
        """Features of every node of the inputs' tree, and the nodes of each input."""
        tree = grow(inputs)
        return self._over(tree, use_cache=False), tree.paths

    def _over(self, tree: Tree, **more: Any) -> Tensor:
        """Features of a tree's nodes, as one row."""
        dtype = LOW if is_mixed() else self.dtype
        ids, positions, plan = packed(
            tree, dtype, self.device, windowed=self.windowed, low=self.attends_low()
        )
        if self.windowed:  # or positions are taken for those of sequences in a row
            more["attention_mask"] = torch.ones_like(ids)
        with looking_at(self.module, plan):
            return self._run(input_ids=ids, position_ids=positions, **more)[0]

    def _rows(self, inputs: Sequence[Sequence[int]]) -> tuple[Tensor, list[Index]]:
        """The same with each input in its own row, padded on the right."""
        length = max(len(ids) for ids in inputs)
        table = torch.zeros(len(inputs), length, dtype=torch.long)
        mask = torch.zeros_like(table)
        for row, ids in enumerate(inputs):
            table[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        hidden = self._run(
            input_ids=table.to(self.device), attention_mask=mask.to(self.device), use_cache=False
        )
        paths = [row * length + np.arange(len(ids)) for row, ids in enumerate(inputs)]
        return hidden.flatten(0, 1), paths

    def _run(self, **inputs: Any) -> Tensor:
        with without_plans(self.device), products(self.device), made_again():
            if self.splits_head:
                features = self._body(**inputs).last_hidden_state
            else:
                features = self.module(**inputs).logits
        assert isinstance(features, Tensor)
        return features.to(self.dtype) if is_mixed() else features

    def attends_low(self) -> bool:
        """Whether attention is `low_attention`, here and now."""
        return self.device.type == "cpu" and (
            is_mixed() or (self._low_attention and self.dtype == LOW)
        )

    def probing(self) -> AbstractContextManager[None]:
        """In the block, windows are so narrow that a few tokens are more than they show."""
        return narrowed(self.module.config, _NARROW) if self.windowed else nullcontext()

    def agree(self, values: Tensor, plain: Tensor) -> bool:
        """Whether two results in the module's precision are the same."""
        low = self.dtype in (torch.bfloat16, torch.float16)
        return _agree(values, plain, 0.05 if low else 1e-4)

    def follows(self, history: Sequence[int], logits: Tensor) -> bool:
        """Whether these are the logits after a history, as the module gives them without a cache.

        Args:
            logits: Shape (vocabulary,).
        """
        ids = torch.tensor([history], device=self.device)
        alone: Any = self.module(input_ids=ids, use_cache=False)
        plain = alone.logits[0, -1].float().log_softmax(-1)
        return self.agree(logits.float().log_softmax(-1), plain)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def _body(self) -> nn.Module:
        body = self.module.base_model
        assert isinstance(body, nn.Module)
        return body

    @property
    def vocabulary(self) -> int:
        config: Any = self.module.config
        return int(config.get_text_config(decoder=True).vocab_size)

    def _probe(self) -> list[Piece]:
        """Ragged groups of arbitrary tokens, some with a common prefix."""
        token = [(7 * i + 3) % self.vocabulary for i in range(24)]
        return [
            Piece(token[:7], [token[7:11], token[11:12], token[12:15]]),
            Piece(token[15:19], [token[19:24], token[3:5], token[19:22]]),
            Piece([*token[:5], *token[20:24]], [token[:6]]),
        ]

    def _head_is_separable(self) -> bool:
        """Whether logits are the head's output: some models scale or cap it."""
        ids = torch.tensor([self._probe()[0].prompt], device=self.device)
        if self.module.get_output_embeddings() is None:  # type: ignore[operator]
            return False
        if self._body is self.module:  # the library does not know it by the name that it has
            return False
        whole = self.module(input_ids=ids, use_cache=False).logits
        self.splits_head = True
        try:
            split = self.logits(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        except PROBE_ERRORS:  # some cast what they give their head
            return False
        # The same operations of the same numbers: what differs means that the model does more to
        # its logits. Caps change small ones little, so even a small difference counts.
        low = whole.dtype in (torch.bfloat16, torch.float16)
        return split.shape == whole.shape and _agree(split, whole, 1e-3 if low else 1e-7)

    def _prefix_is_shareable(self) -> bool:
        if unknown := unknown_kinds(self.module.config):
            self.why = f"it has layers that are no attention over keys ({', '.join(unknown)})"
            return False
        if scales_by_place(self.module.config):
            self.why = "its attention depends on places in the row, not on positions"
            return False
        pieces = self._probe()
        with self.probing():
            plain = self.logprobs(self.contexts(pieces), 1.0)
            self.shares_prefix = True
            try:
                shared = self.logprobs(self.contexts(pieces), 1.0)
            except PROBE_ERRORS as error:
                self.why = f"its attention cannot be laid over a tree ({type(error).__name__})"
                return False
        if self.agree(shared, plain):
            return True
        self.why = "its log-probs behind a shared prompt differ from those behind their own"
        return False


def cache_argument(module: nn.Module) -> str:
    """The name of the cache in a model's forward and its output.

    transformers renamed it in 5.24; a model's own code may use either name. State-space models had
    another.
    """
    names = inspect.signature(module.forward).parameters
    return next((name for name in ("cache", "cache_params") if name in names), "past_key_values")


def _agree(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal on average up to a tolerance, relative where values are large."""
    scale = max(1.0, float(b.float().abs().mean()))
    return float((a - b).float().abs().mean()) <= tolerance * scale
