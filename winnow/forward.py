"""Log-probabilities of answers under a module, each prompt encoded once for all its answers.

A row of the batch is one prompt with its answers behind it:

    tokens      p0 p1 p2 | a0 a1 | b0 b1 b2
    positions    0  1  2 |  3  4 |  3  4  5
    attends to   causal  | p, a  | p, b          (a 4-D attention mask)

which gives every answer just what it would see alone behind its prompt. The last token of an answer
is never an input: nothing is predicted from it. The head is applied only where a token of an answer
is predicted, in chunks that are recomputed in the backward pass, so that memory does not grow with
tokens x vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_CHUNK_ELEMENTS = 2**24
"""Logits held at a time: 64 MiB in float32."""


@dataclass(frozen=True)
class Piece:
    """A prompt and some of its answers, as token ids."""

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]

    @property
    def tokens(self) -> int:
        """Length of its row."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)

    @property
    def targets(self) -> list[int]:
        return [token for answer in self.answers for token in answer]


@dataclass(frozen=True)
class _Rows:
    """A batch laid out: all (rows, length); `where` finds, for each target, what predicts it."""

    ids: Tensor
    positions: Tensor
    segments: Tensor
    where: tuple[Tensor, Tensor]
    targets: Tensor


class PolicyForward:
    """Runs a causal language model of `transformers` over pieces.

    At construction it is found out, on a few tokens, whether this architecture gives the same
    log-probs with a shared prompt as without, and whether its head can be applied on its own. Where
    not, the plain computation is used; ``shares_prefix``, ``splits_head`` and ``why`` say so.
    """

    def __init__(self, module: nn.Module, *, share_prefix: bool = True) -> None:
        self.module = module
        self.shares_prefix = False
        self.splits_head = False
        self.why = ""
        with torch.no_grad():
            self.splits_head = self._head_is_separable()
            if share_prefix:
                self.shares_prefix = self._prefix_is_shareable()

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def features(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        """What the head needs for each answer token of the pieces, in order.

        Returns:
            Features, shape (tokens, hidden) (or (tokens, vocabulary) where the head cannot be
            split off), and the token ids that they predict, shape (tokens,).
        """
        if not self.shares_prefix:
            pieces = [Piece(p.prompt, [answer]) for p in pieces for answer in p.answers]
        rows = _lay_out(pieces, self.device)
        if self.shares_prefix:
            dtype = next(self.module.parameters()).dtype
            inputs = {
                "attention_mask": _tree_mask(rows.segments, dtype),
                "position_ids": rows.positions,
            }
        else:
            inputs = {"attention_mask": (rows.segments >= 0).long()}
        if self.splits_head:
            hidden = self._body(input_ids=rows.ids, use_cache=False, **inputs).last_hidden_state
        else:
            hidden = self.module(input_ids=rows.ids, use_cache=False, **inputs).logits
        return hidden[rows.where], rows.targets

    def logprobs(self, features: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """log pi(target) under the full softmax at a temperature, float32 or better, (tokens,)."""

        def part(hidden: Tensor, ids: Tensor) -> Tensor:
            logits = self._head(hidden)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            logits = logits / temperature if temperature != 1 else logits
            chosen = logits.gather(-1, ids[:, None]).squeeze(-1)
            return chosen - logits.logsumexp(-1)

        size = max(16, _CHUNK_ELEMENTS // self._vocabulary)
        chunks = zip(torch.split(features, size), torch.split(targets, size), strict=True)
        if torch.is_grad_enabled() and features.requires_grad:
            parts = [checkpoint(part, h, ids, use_reentrant=False) for h, ids in chunks]
        else:
            parts = [part(h, ids) for h, ids in chunks]
        return torch.cat(parts)

    @property
    def _body(self) -> nn.Module:
        body = self.module.base_model
        assert isinstance(body, nn.Module)
        return body

    @property
    def _vocabulary(self) -> int:
        return int(self.module.config.vocab_size)  # type: ignore[union-attr,arg-type]

    def _head(self, hidden: Tensor) -> Tensor:
        if not self.splits_head:
            return hidden
        logits = self.module.get_output_embeddings()(hidden)  # type: ignore[operator]
        assert isinstance(logits, Tensor)
        return logits

    def _probe(self) -> list[Piece]:
        """Two ragged groups of arbitrary tokens."""
        token = [(7 * i + 3) % self._vocabulary for i in range(24)]
        return [
            Piece(token[:7], [token[7:11], token[11:12], token[12:15]]),
            Piece(token[15:19], [token[19:24], token[3:5]]),
        ]

    def _head_is_separable(self) -> bool:
        """Some models scale or cap their logits after the head; theirs are taken as they come."""
        ids = torch.tensor([self._probe()[0].prompt], device=self.device)
        if self.module.get_output_embeddings() is None:  # type: ignore[operator]
            return False
        whole = self.module(input_ids=ids, use_cache=False).logits
        self.splits_head = True
        split = self._head(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        # The same operations: anything but rounding means that the model does more to its logits.
        return split.shape == whole.shape and _agree(split, whole, 1e-3)

    def _prefix_is_shareable(self) -> bool:
        if _sees_part(self.module.config):
            self.why = "its attention reaches back a limited way, which a shared row would distort"
            return False
        pieces = self._probe()
        plain = self.logprobs(*self.features(pieces), 1.0)
        self.shares_prefix = True
        try:
            shared = self.logprobs(*self.features(pieces), 1.0)
        except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            self.why = f"it does not take a 4-D attention mask ({type(error).__name__})"
            return False
        low = next(self.module.parameters()).dtype in (torch.bfloat16, torch.float16)
        if _agree(plain, shared, 0.05 if low else 1e-4):
            return True
        self.why = "its log-probs behind a shared prompt differ from those behind their own"
        return False


def _sees_part(config: Any) -> bool:
    """Whether some layer's attention has a window or chunks. A short probe would not notice."""
    config = config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return any(kind != "full_attention" for kind in kinds)
    window = getattr(config, "sliding_window", None)
    return window is not None and bool(getattr(config, "use_sliding_window", True))


def _agree(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal on average up to a tolerance, relative where values are large."""
    scale = max(1.0, float(b.float().abs().mean()))
    return float((a - b).float().abs().mean()) <= tolerance * scale


def _lay_out(pieces: Sequence[Piece], device: torch.device) -> _Rows:
    length = max(piece.tokens for piece in pieces)
    ids = torch.zeros(len(pieces), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, -1)  # -1 padding, 0 prompt, 1 and up an answer each
    rows: list[int] = []
    columns: list[int] = []
    for row, piece in enumerate(pieces):
        start = len(piece.prompt)
        ids[row, :start] = torch.tensor(piece.prompt)
        positions[row, :start] = torch.arange(start)
        segments[row, :start] = 0
        for number, answer in enumerate(piece.answers, start=1):
            inner = len(answer) - 1
            ids[row, start : start + inner] = torch.tensor(answer[:-1], dtype=torch.long)
            positions[row, start : start + inner] = len(piece.prompt) + torch.arange(inner)
            segments[row, start : start + inner] = number
            rows += [row] * len(answer)
            columns += [len(piece.prompt) - 1, *range(start, start + inner)]
            start += inner
    targets = torch.tensor([token for piece in pieces for token in piece.targets])
    where = (torch.tensor(rows, device=device), torch.tensor(columns, device=device))
    return _Rows(
        ids.to(device), positions.to(device), segments.to(device), where, targets.to(device)
    )


def _tree_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask, shape (rows, 1, length, length): causal, own prompt and own answer only."""
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], device=segments.device).tril().bool()
    allowed = causal & ((key == 0) | (key == query))
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
