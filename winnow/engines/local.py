"""Sampler and learner in one process, over one module, on a CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from winnow.config import OptimiserConfig, SamplingConfig
from winnow.engines.base import Capabilities, Request, WeightsRef
from winnow.engines.cache import Memory, Padded, Slots, token_bytes
from winnow.engines.encoding import PromptEncoder, Retokeniser
from winnow.engines.memory import keep_pages
from winnow.engines.models import (
    ModelSource,
    context_length,
    end_tokens,
    load_config,
    load_model,
    load_tokenizer,
)
from winnow.engines.sampler import decode
from winnow.engines.stopping import Stopper
from winnow.errors import UserError, WinnowError
from winnow.forward import PolicyForward
from winnow.losses import Term
from winnow.types import Group, Prompt, StepStats
from winnow.update import Accumulated, accumulate, sequence_logprobs

_OPTIMISER_FILE = "optimiser.pt"


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one.

    Raises:
        UserError: a device that this machine does not have.
    """
    best = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(best if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(f"device: {name!r} is none; try 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {name!r}, but torch sees no GPU; use 'cpu' or 'auto'")
    if device.type == "cpu":
        keep_pages()
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:  # how torch says that it has none
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device: {name!r} cannot be used here: {reason:.120}") from error
    return device


class LocalSampler:
    """Draws from a module in this process.

    Args:
        forward: The module, with what was found out about it.
        batch: Most draws under way at a time.
        cache_gib: Room for their keys and values, in GiB; where it is short, fewer are under way.
    """

    capabilities = Capabilities(true_logprobs=True, seeds=True, loads_weights=True)

    def __init__(
        self, forward: PolicyForward, tokenizer: Any, batch: int, cache_gib: float = 2.0
    ) -> None:
        self.module = forward.module
        self.tokenizer = tokenizer
        self.version = 0
        self._forward = forward
        self._batch = batch
        self._cache_bytes = cache_gib * 2**30
        self._encode = PromptEncoder(tokenizer)
        self._end_ids = end_tokens(self.module, tokenizer)
        self._stoppers: dict[tuple[str, ...], Stopper] = {}
        self._token_bytes = token_bytes(forward)
        self._pads = self._token_bytes is None and _pads_exactly(forward)

    @property
    def joins(self) -> bool:
        """Whether waiting draws join while others are under way."""
        return self._token_bytes is not None

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        return self._encode(prompt)

    def sample(self, requests: Sequence[Request]) -> Iterator[tuple[int, Group]]:
        """Groups as they finish, each with the position of its request.

        Requests of like parameters that follow each other are drawn side by side.
        """
        prompts = [self._encode(request.prompt) for request in requests]
        for params, members in groupby(range(len(requests)), lambda i: requests[i].params):
            numbers = list(members)
            asked = [requests[i] for i in numbers]
            memory = self._memory([prompts[i] for i in numbers], asked)
            drawn = decode(asked, memory, self._stopper(params.stop), version=self.version)
            for place, draws in drawn:
                number = numbers[place]
                request = requests[number]
                group = Group(request.prompt, prompts[number], tuple(draws), step=request.step)
                yield number, group

    def _memory(self, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> Memory:
        capacity = min(self._batch, sum(request.n for request in requests))
        room = requests[0].params.max_tokens
        token = self._token_bytes or _guessed_token_bytes(self._forward)
        row = token * (max(len(prompt) for prompt in prompts) + room)
        capacity = max(1, min(capacity, int(self._cache_bytes / row)))
        if self._token_bytes is None:
            return Padded(self.module, prompts, pads=self._pads, capacity=capacity)
        return Slots(self._forward, prompts, room=room, capacity=capacity)

    def load(self, weights: WeightsRef) -> None:
        if weights.module is not self.module:
            raise WinnowError("a local sampler draws from the module that its learner trains")
        self.version = weights.version

    def _stopper(self, stop: tuple[str, ...]) -> Stopper:
        if stop not in self._stoppers:
            self._stoppers[stop] = Stopper(self.tokenizer, self._end_ids, stop)
        return self._stoppers[stop]


class LocalLearner:
    """AdamW on a module in this process. Weights in bfloat16 are steered by a float32 copy."""

    def __init__(
        self,
        forward: PolicyForward,
        tokenizer: Any,
        optimiser: OptimiserConfig,
        *,
        total_updates: int,
        microbatch_tokens: int,
    ) -> None:
        self.module = forward.module
        self.tokenizer = tokenizer
        self.version = 0
        self.forward = forward
        self._config = optimiser
        self._total_updates = total_updates
        self._microbatch_tokens = microbatch_tokens
        self._weights = [p for p in self.module.parameters() if p.requires_grad]
        self._masters = [_master(p) for p in self._weights]
        self._adam = torch.optim.AdamW(
            self._masters,
            lr=optimiser.lr,
            betas=optimiser.betas,
            eps=optimiser.eps,
            weight_decay=optimiser.weight_decay,
            fused=True,
        )
        for weight, first, second in zip(
            self._masters, *(_zeros(self._masters) for _ in range(2)), strict=True
        ):
            step = torch.zeros((), device=weight.device)
            self._adam.state[weight] = {"step": step, "exp_avg": first, "exp_avg_sq": second}

    def step(self, groups: Sequence[Group], terms: Sequence[Term], temperature: float) -> StepStats:
        """One update; none if loss or gradient are not finite.

        Raises:
            ValueError: no draw has a weight. The loop makes no update of such a mini-batch.
        """
        self._adam.zero_grad(set_to_none=True)
        done = accumulate(self.forward, groups, terms, temperature, self._microbatch_tokens)
        lr = learning_rate(self._config, self.version, self._total_updates)
        if done.draws == 0:
            raise ValueError("no draw of this mini-batch has a weight: there is nothing to learn")
        norm = float(
            torch.nn.utils.clip_grad_norm_(self._masters, self._config.max_grad_norm, foreach=True)
        )
        finite = math.isfinite(norm) and math.isfinite(done.loss)
        if finite:
            for group in self._adam.param_groups:
                group["lr"] = lr
            self._adam.step()
            self._copy_back()
            self.version += 1
        self._adam.zero_grad(set_to_none=True)
        return _stats(done, applied=finite, grad_norm=norm, lr=lr)

    def publish(self) -> WeightsRef:
        return WeightsRef(self.version, module=self.module)

    def save(self, folder: Path) -> None:
        module = cast(Any, self.module)
        module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        state: dict[str, Any] = {"adam": self._adam.state_dict(), "version": self.version}
        if any(m is not w for m, w in zip(self._masters, self._weights, strict=True)):
            state["masters"] = self._masters
        torch.save(state, folder / _OPTIMISER_FILE)

    def load(self, folder: Path) -> None:
        """The module must have been loaded from the same folder."""
        state = torch.load(folder / _OPTIMISER_FILE, map_location="cpu", weights_only=True)
        self._adam.load_state_dict(state["adam"])
        self.version = int(state["version"])
        with torch.no_grad():
            for master, saved in zip(self._masters, state.get("masters", ()), strict=False):
                master.copy_(saved)

    def _copy_back(self) -> None:
        with torch.no_grad():
            for weight, master in zip(self._weights, self._masters, strict=True):
                if master is not weight:
                    weight.copy_(master)


class LocalEngine:
    """A model with its tokenizer; makes the sampler and the learner that share it."""

    def __init__(self, source: ModelSource, dtype: str, device: torch.device, field: str) -> None:
        self.tokenizer = load_tokenizer(source, field)
        self._source, self._dtype, self._device, self._field = source, dtype, device, field
        self.module: torch.nn.Module | None = None
        self._forward: PolicyForward | None = None

    def check_prompts(self, prompts: Sequence[Prompt], max_tokens: int) -> None:
        """See `PromptEncoder.check`. A GGUF file is read whole for its config, else the config."""
        PromptEncoder(self.tokenizer).check(prompts, max_tokens, self.context())

    def context(self) -> int | None:
        """Most tokens that the model takes; ``None`` if it does not say."""
        if self._source.gguf is None:
            return context_length(load_config(self._source, self._field))
        return context_length(cast(Any, self.load()).config)

    def same_vocabulary(self, group: Group) -> bool:
        """Whether a recorded group's prompt has the tokens here that it was drawn with."""
        known = group.prompt_ids
        return not known or PromptEncoder(self.tokenizer)(group.prompt) == known

    def retokeniser(self, stop: Sequence[str], *, anew: bool) -> Retokeniser:
        """What gives recorded draws the tokens that they lack."""
        return Retokeniser(self.tokenizer, stop, anew=anew, context=self.context())

    def load(self) -> torch.nn.Module:
        """The module, read on the first call."""
        if self.module is None:
            self.module = load_model(self._source, self._dtype, self._device, self._field)
        return self.module

    def forward(self) -> PolicyForward:
        """The module with what is found out about it, on the first call."""
        if self._forward is None:
            self._forward = PolicyForward(self.load())
        return self._forward

    def sequence_logprobs(
        self, groups: Sequence[Group], temperature: float, microbatch_tokens: int
    ) -> list[list[float]]:
        """log pi of every draw: see `update.sequence_logprobs`."""
        return sequence_logprobs(self.forward(), groups, temperature, microbatch_tokens)

    def sampler(self, sampling: SamplingConfig) -> LocalSampler:
        return LocalSampler(self.forward(), self.tokenizer, sampling.batch, sampling.cache_gib)

    def learner(
        self, optimiser: OptimiserConfig, *, total_updates: int, microbatch_tokens: int
    ) -> LocalLearner:
        return LocalLearner(
            self.forward(),
            self.tokenizer,
            optimiser,
            total_updates=total_updates,
            microbatch_tokens=microbatch_tokens,
        )


def learning_rate(config: OptimiserConfig, update: int, total: int) -> float:
    """Learning rate of the update with this number, from 0: warm-up, then the schedule."""
    if update < config.warmup:
        return config.lr * (update + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = min(1.0, (update - config.warmup) / max(1, total - config.warmup))
    if config.schedule == "linear":
        return config.lr * (1 - done)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def _zeros(like: Sequence[Tensor]) -> Iterator[Tensor]:
    """Zeros in one block, cut to shape. One by one their pages would take seconds to be had."""
    block = torch.zeros(sum(w.numel() for w in like), device=like[0].device)
    parts = torch.split(block, [w.numel() for w in like])
    return (part.view_as(w) for part, w in zip(parts, like, strict=True))


def _master(weight: torch.nn.Parameter) -> Tensor:
    """What the optimiser steps: the weight itself, or a float32 copy that gathers its gradients."""
    if weight.dtype not in (torch.bfloat16, torch.float16):
        return weight
    master = weight.detach().float().clone()

    def gather(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.float()
        master.grad = gradient if master.grad is None else master.grad.add_(gradient)
        parameter.grad = None

    cast(Any, weight).register_post_accumulate_grad_hook(gather)
    return master


def _stats(done: Accumulated, *, applied: bool, grad_norm: float, lr: float) -> StepStats:
    shared = {f.name: getattr(done, f.name) for f in fields(Accumulated)}
    return StepStats(applied=applied, grad_norm=grad_norm, lr=lr, **shared)


def _guessed_token_bytes(forward: PolicyForward) -> int:
    """Keys and values of a token by the config, for caches that cannot be looked into."""
    config = cast(Any, forward.module).config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None) or 1
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * shared * width * forward.dtype.itemsize)


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
