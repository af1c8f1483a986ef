"""Samples from the model in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, cast

from winnow.engines.base import PRESENT, Capabilities, Request, WeightsRef
from winnow.engines.local.decoding import decode
from winnow.engines.local.kv_cache import KVCache, Slots, token_bytes
from winnow.engines.local.other_caches import Padded, Recomputed, padding
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.loading import end_tokens
from winnow.engines.models.sizes import cache_bytes
from winnow.engines.models.stopping import Stopper
from winnow.engines.models.tokenization import PromptEncoder
from winnow.engines.queueing import QueuedSampler, Results
from winnow.errors import WinnowError
from winnow.types import Group


class LocalSampler(QueuedSampler):
    """Samples from a module in this process.

    Args:
        model: Gives the module, probed, when it is first needed.
        batch: Most samples under way at a time.
        cache_gib: Room for their keys and values, in GiB; where it is short, fewer are under way.
        probed: Gives what `token_bytes` found; default: it is asked.
        outdate: Hears that the weights have changed, where the module is a copy of them.
    """

    capabilities = Capabilities(true_logprobs=True, seeds=True, loads_weights=True)

    def __init__(
        self,
        model: Callable[[], PolicyForward],
        tokenizer: Any,
        batch: int,
        cache_gib: float = 2.0,
        probed: Callable[[], int | None] | None = None,
        encode: PromptEncoder | None = None,
        outdate: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.version = 0
        self._model, self._probed, self._outdate = model, probed, outdate
        self._batch = batch
        self._cache_bytes = cache_gib * 2**30
        self._encode = encode or PromptEncoder(tokenizer)
        self._stoppers: dict[tuple[str, ...], Stopper] = {}

    @property
    def device(self) -> str:
        return str(self._forward.device)

    def notes(self) -> list[str]:
        return []

    def load(self, weights: WeightsRef) -> None:
        """The weights are read in place, or copied when they are next sampled from.

        Raises:
            WinnowError: samples are under way, or the weights are elsewhere.
        """
        if self._under_way is not None:
            raise WinnowError("the weights changed while samples were under way")
        if weights.where != PRESENT:
            raise WinnowError("a local sampler samples from the module that its learner trains")
        self.version = weights.version
        self._outdate()

    def _sample(self, requests: Sequence[Request]) -> Results:
        """Requests of like parameters that follow each other are sampled side by side."""
        prompts = [self._encode(request.prompt) for request in requests]
        for params, members in groupby(range(len(requests)), lambda i: requests[i].params):
            numbers = list(members)
            asked = [requests[i] for i in numbers]
            cache = self._cache([prompts[i] for i in numbers], asked)
            sampled = decode(asked, cache, self._stopper(params.stop), version=self.version)
            for place, samples in sampled:
                number = numbers[place]
                request = requests[number]
                yield (
                    number,
                    Group(request.prompt, prompts[number], tuple(samples), step=request.step),
                )

    @property
    def _forward(self) -> PolicyForward:
        return self._model()

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        return end_tokens(self._forward.module, self.tokenizer)

    @cached_property
    def _token_bytes(self) -> int | None:
        return token_bytes(self._forward) if self._probed is None else self._probed()

    @property
    def _guessed(self) -> int:
        """Bytes of a token's keys and values by the config, for caches that are not looked into."""
        config = cast(Any, self._forward.module).config
        return cache_bytes(config, self._forward.dtype.itemsize)

    @cached_property
    def _pads(self) -> bool | None:
        """Where `Slots` is not exact: whether prompts may be padded, ``None`` without a cache."""
        return padding(self._forward)

    def _cache(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> KVCache:
        capacity = min(self._batch, sum(request.n for request in requests))
        room = requests[0].params.max_tokens
        token = self._token_bytes or self._guessed
        row = token * (max(len(prompt) for prompt in prompts) + room)
        capacity = max(1, min(capacity, int(self._cache_bytes / row)))
        if self._token_bytes is not None:
            return Slots(self._forward, prompts, room=room, capacity=capacity)
        if self._pads is None:
            return Recomputed(self._forward, prompts, capacity=capacity)
        return Padded(self._forward.module, prompts, pads=self._pads, capacity=capacity)

    def _stopper(self, stop: tuple[str, ...]) -> Stopper:
        if stop not in self._stoppers:
            self._stoppers[stop] = Stopper(self.tokenizer, self._end_ids, stop)
        return self._stoppers[stop]
