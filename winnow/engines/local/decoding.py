"""Decoding: prompts are read once, and samples with the same history share a row.

Samples of a prompt begin as one row. Where they choose different tokens the row is split; when one
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
from winnow.engines.devices import room
from winnow.engines.local.kv_cache import KVCache
from winnow.engines.local.token_sampling import choose
from winnow.engines.models.stopping import Stopper
from winnow.types import FinishReason, Sample


@dataclass(eq=False)
class _Partial:
    """A sample under way: which of its request's, and its random numbers."""

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
    """Sample for every request; yield its number and its samples as requests finish.

    Args:
        requests: All of the same parameters.
        cache: Made for the prompts of these requests, by their numbers.
        version: Policy version, recorded with each sample.
    """
    batch = _Batch(requests, cache, stopper)
    sampled: dict[int, list[_Partial]] = {}
    left = [request.n for request in requests]
    while batch.waits or batch.rows:
        for partial in batch.advance():
            left[partial.request] -= 1
            sampled.setdefault(partial.request, []).append(partial)
            if not left[partial.request]:
                partials = sorted(sampled.pop(partial.request), key=lambda a: a.number)
                yield partial.request, [_sample(a, stopper, version) for a in partials]


class _Batch:
    """The samples under way, in rows of equal history, and those that wait."""

    def __init__(self, requests: Sequence[Request], cache: KVCache, stopper: Stopper) -> None:
        self.rows: list[list[_Partial]] = []
        self._params: SamplingParams = requests[0].params
        self._cache = cache
        self._stopper = stopper
        self._logits: Tensor | None = None
        self._waiting = _partials(requests)
        self._next = next(self._waiting, None)

    @property
    def waits(self) -> bool:
        return self._next is not None

    @room("lower sampling.batch or sampling.cache_gib")
    @torch.inference_mode()
    def advance(self) -> list[_Partial]:
        """Sample a token for every sample under way; return those that end with it."""
        self._admit()
        assert self._logits is not None
        partials = [partial for row in self.rows for partial in row]
        device = self._logits.device
        of = torch.tensor([i for i, row in enumerate(self.rows) for _ in row], device=device)
        uniforms = torch.tensor(
            [partial.uniforms[len(partial.tokens)] for partial in partials],
            dtype=torch.float64,
            device=device,
        )
        params = self._params
        choice = choose(self._logits, uniforms, params.temperature, params.top_k, params.top_p, of)
        made = (choice.tokens, choice.logprobs, choice.entropies)
        columns = torch.stack([x.double() for x in made]).tolist()  # a GPU is waited for once
        for partial, token, logprob, entropy in zip(partials, *columns, strict=True):
            partial.tokens.append(int(token))
            partial.logprobs.append(logprob)
            partial.entropies.append(entropy)
            partial.reason = self._stopper.reason(partial.tokens, params.max_tokens)
        sources, self.rows = part(self.rows)
        self._cache.keep(sources)
        self._logits = None
        if self.rows:
            tokens = torch.tensor([row[0].tokens[-1] for row in self.rows], device=device)
            self._logits = self._cache.step(tokens)
        return [partial for partial in partials if partial.reason is not None]

    def _admit(self) -> None:
        """Let waiting samples in, once enough have left to be worth a pass over their prompts."""
        cache = self._cache
        free = cache.capacity - sum(len(row) for row in self.rows)
        if self.rows and (not cache.joins or free < max(1, cache.capacity // 8)):
            return
        taken: list[_Partial] = []
        kind = self._next and cache.kind(self._next.request)
        while self._next and len(taken) < free and cache.kind(self._next.request) == kind:
            taken.append(self._next)
            self._next = next(self._waiting, None)
        if not taken:
            return
        rows = [list(row) for _, row in groupby(taken, key=lambda partial: partial.request)]
        logits = cache.place([row[0].request for row in rows])
        for row in rows:
            if self._next is None or self._next.request != row[0].request:
                cache.forget(row[0].request)
        self._logits = logits if self._logits is None else torch.cat([self._logits, logits])
        self.rows += rows


def part(rows: Sequence[list[_Partial]]) -> tuple[list[int], list[list[_Partial]]]:
    """The rows of the next step: samples that have ended leave, rows that differ are split.

    Returns:
        For each new row the old one that it continues, and its samples. As many rows as can be stay
        where they are: what moves must be copied.
    """
    stays: dict[int, list[_Partial]] = {}
    moves: list[tuple[int, list[_Partial]]] = []
    for number, row in enumerate(rows):
        branches: dict[int, list[_Partial]] = {}
        for partial in row:
            if partial.reason is None:
                branches.setdefault(partial.tokens[-1], []).append(partial)
        for branch in branches.values():
            if number in stays:
                moves.append((number, branch))
            else:
                stays[number] = branch
    count = len(stays) + len(moves)
    moves += [(number, stays.pop(number)) for number in list(stays) if number >= count]
    table = [(number, stays[number]) if number in stays else moves.pop() for number in range(count)]
    return [source for source, _ in table], [row for _, row in table]


def _partials(requests: Sequence[Request]) -> Iterator[_Partial]:
    """Samples to make, in order; random numbers depend on the request's seed alone."""
    for number, request in enumerate(requests):
        generator = torch.Generator().manual_seed(request.seed)
        shape = (request.n, request.params.max_tokens)
        table = torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
        for place, uniforms in enumerate(table):
            yield _Partial(number, place, uniforms)


def _sample(partial: _Partial, stopper: Stopper, version: int) -> Sample:
    assert partial.reason is not None
    text = stopper.text(partial.tokens, partial.reason)
    return Sample(
        token_ids=tuple(partial.tokens),
        logprobs=tuple(partial.logprobs),
        text=text,
        finish_reason=partial.reason,
        policy_version=version,
        entropies=tuple(partial.entropies),
        token_ends=stopper.ends(partial.tokens, text),
    )
