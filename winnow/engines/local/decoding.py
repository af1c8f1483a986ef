"""Decoding: prompts are read once, samples with the same history share a row, rows come and go.

Samples of a prompt begin as one row. Where they choose different tokens the row parts; when one
ends it leaves, and waiting samples take its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from winnow.engines.base import Request, SamplingParams
from winnow.engines.local.kv_cache import KVCache
from winnow.engines.local.stopping import Stopper
from winnow.engines.local.token_sampling import choose
from winnow.types import FinishReason, Sample


@dataclass(eq=False)
class _Answer:
    """One answer being sampled: which of its request's, and its random numbers."""

    request: int
    number: int
    uniforms: NDArray[np.float64]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    reason: FinishReason | None = None


def decode(
    requests: Sequence[Request], cache: KVCache, stopper: Stopper, *, version: int
) -> Iterator[tuple[int, list[Sample]]]:
    """Sample for every request; yield (its number, its samples) as requests finish.

    Args:
        requests: All of the same parameters.
        cache: Made for the prompts of these requests, by their numbers.
        version: Policy version, recorded with each sample.
    """
    batch = _Batch(requests, cache, stopper)
    sampled: dict[int, list[_Answer]] = {}
    left = [request.n for request in requests]
    while batch.waits or batch.rows:
        for answer in batch.advance():
            left[answer.request] -= 1
            sampled.setdefault(answer.request, []).append(answer)
            if not left[answer.request]:
                answers = sorted(sampled.pop(answer.request), key=lambda a: a.number)
                yield answer.request, [_sample(a, stopper, version) for a in answers]


class _Batch:
    """The answers under way, in rows of equal history, and those that wait."""

    def __init__(self, requests: Sequence[Request], cache: KVCache, stopper: Stopper) -> None:
        self.rows: list[list[_Answer]] = []
        self._params: SamplingParams = requests[0].params
        self._cache = cache
        self._stopper = stopper
        self._logits: Tensor | None = None
        self._waiting = _answers(requests)
        self._next = next(self._waiting, None)

    @property
    def waits(self) -> bool:
        return self._next is not None

    @torch.inference_mode()
    def advance(self) -> list[_Answer]:
        """A token for every answer under way. Those that end with it."""
        self._admit()
        assert self._logits is not None
        answers = [answer for row in self.rows for answer in row]
        device = self._logits.device
        of = torch.tensor([i for i, row in enumerate(self.rows) for _ in row], device=device)
        uniforms = torch.tensor(
            [answer.uniforms[len(answer.tokens)] for answer in answers],
            dtype=torch.float64,
            device=device,
        )
        params = self._params
        choice = choose(self._logits, uniforms, params.temperature, params.top_k, params.top_p, of)
        columns = (choice.tokens.tolist(), choice.logprobs.tolist(), choice.entropies.tolist())
        for answer, token, logprob, entropy in zip(answers, *columns, strict=True):
            answer.tokens.append(token)
            answer.logprobs.append(logprob)
            answer.entropies.append(entropy)
            answer.reason = self._stopper.reason(answer.tokens, params.max_tokens)
        sources, self.rows = part(self.rows)
        self._cache.keep(sources)
        self._logits = None
        if self.rows:
            tokens = torch.tensor([row[0].tokens[-1] for row in self.rows], device=device)
            self._logits = self._cache.step(tokens)
        return [answer for answer in answers if answer.reason is not None]

    def _admit(self) -> None:
        """Let waiting answers in, once enough have left to be worth a pass over their prompts."""
        cache = self._cache
        free = cache.capacity - sum(len(row) for row in self.rows)
        if self.rows and (not cache.joins or free < max(1, cache.capacity // 8)):
            return
        taken: list[_Answer] = []
        kind = self._next and cache.kind(self._next.request)
        while self._next and len(taken) < free and cache.kind(self._next.request) == kind:
            taken.append(self._next)
            self._next = next(self._waiting, None)
        if not taken:
            return
        rows = [list(row) for _, row in groupby(taken, key=lambda answer: answer.request)]
        logits = cache.place([row[0].request for row in rows])
        for row in rows:
            if self._next is None or self._next.request != row[0].request:
                cache.forget(row[0].request)
        self._logits = logits if self._logits is None else torch.cat([self._logits, logits])
        self.rows += rows


def part(rows: Sequence[list[_Answer]]) -> tuple[list[int], list[list[_Answer]]]:
    """The rows of the next step: answers that have ended leave, those that differ part.

    Returns:
        For each new row the old one that it continues, and its answers. As many rows as can be stay
        where they are: what moves must be copied.
    """
    stays: dict[int, list[_Answer]] = {}
    moves: list[tuple[int, list[_Answer]]] = []
    for number, row in enumerate(rows):
        branches: dict[int, list[_Answer]] = {}
        for answer in row:
            if answer.reason is None:
                branches.setdefault(answer.tokens[-1], []).append(answer)
        for branch in branches.values():
            if number in stays:
                moves.append((number, branch))
            else:
                stays[number] = branch
    count = len(stays) + len(moves)
    moves += [(number, stays.pop(number)) for number in list(stays) if number >= count]
    table = [(number, stays[number]) if number in stays else moves.pop() for number in range(count)]
    return [source for source, _ in table], [row for _, row in table]


def _answers(requests: Sequence[Request]) -> Iterator[_Answer]:
    """Answers to be sampled, in order; random numbers are of the request's seed alone."""
    for number, request in enumerate(requests):
        generator = torch.Generator().manual_seed(request.seed)
        shape = (request.n, request.params.max_tokens)
        table = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
        for place, uniforms in enumerate(table):
            yield _Answer(number, place, uniforms)


def _sample(answer: _Answer, stopper: Stopper, version: int) -> Sample:
    assert answer.reason is not None
    return Sample(
        token_ids=tuple(answer.tokens),
        logprobs=tuple(answer.logprobs),
        text=stopper.text(answer.tokens, answer.reason),
        finish_reason=answer.reason,
        policy_version=version,
        entropies=tuple(answer.entropies),
    )
