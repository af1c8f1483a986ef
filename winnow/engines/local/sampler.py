"""Samples from the model in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, cast

import torch

from winnow.engines.base import PRESENT, Capabilities, Request, WeightsRef
from winnow.engines.local.decoding import decode
from winnow.engines.local.kv_cache import KVCache, Padded, Slots, token_bytes
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
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.version = 0
        self._model, self._probed = model, probed
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
        """The weights are read in place; only their version is news.

        Raises:
            WinnowError: samples are under way, or the weights are elsewhere.
        """
        if self._under_way is not None:
            raise WinnowError("the weights changed while samples were under way")
        if weights.where != PRESENT:
            raise WinnowError("a local sampler samples from the module that its learner trains")
        self.version = weights.version

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
    def _pads(self) -> bool:
        return self._token_bytes is None and _pads_exactly(self._forward)

    def _cache(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> KVCache:
        capacity = min(self._batch, sum(request.n for request in requests))
        room = requests[0].params.max_tokens
        token = self._token_bytes or self._guessed
        row = token * (max(len(prompt) for prompt in prompts) + room)
        capacity = max(1, min(capacity, int(self._cache_bytes / row)))
        if self._token_bytes is None:
            return Padded(self._forward.module, prompts, pads=self._pads, capacity=capacity)
        return Slots(self._forward, prompts, room=room, capacity=capacity)

    def _stopper(self, stop: tuple[str, ...]) -> Stopper:
        if stop not in self._stoppers:
            self._stoppers[stop] = Stopper(self.tokenizer, self._end_ids, stop)
        return self._stoppers[stop]


def _pads_exactly(forward: PolicyForward) -> bool:
    """Whether a prompt padded on the left gives the logits that it gives alone."""
    module, device = forward.module, forward.device
    ids = torch.tensor([[0, 0, 0, *[(5 * i + 2) % forward.vocabulary for i in range(6)]]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        padded = module(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
        ).logits[:, -1]
        alone = module(input_ids=ids[:, 3:].to(device)).logits[:, -1]
    loose = padded.dtype in (torch.bfloat16, torch.float16)
    return bool((padded - alone).float().abs().mean() <= (0.05 if loose else 1e-4))
