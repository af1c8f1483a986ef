"""Sampler and learner in one process, over one module, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch

from winnow.config.reference import average_decay, names_model
from winnow.config.schema import CriticConfig, LoraConfig, OptimiserConfig, SamplingConfig
from winnow.engines.base import Capabilities, Request, WeightsRef
from winnow.engines.devices import keep_pages
from winnow.engines.learning.token_values import sequence_logprobs
from winnow.engines.local.decoding import decode
from winnow.engines.local.kv_cache import Memory, Padded, Slots, token_bytes
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.stopping import Stopper
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.loading import (
    ModelSource,
    context_length,
    end_tokens,
    load_config,
    load_model,
    load_tokenizer,
    resolve,
)
from winnow.engines.models.lora import Adapters
from winnow.engines.models.reference import (
    Average,
    Other,
    Reference,
    Weights,
    Within,
)
from winnow.engines.models.tokenization import PromptEncoder, Retokeniser
from winnow.errors import UserError, WinnowError
from winnow.types import Group, Prompt


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


class LocalEngine:
    """A model with its tokenizer; makes the sampler, the learner and the reference that share it.

    Args:
        lora: Adapters to train instead of all weights.
        seed: Of their first values.
    """

    def __init__(
        self,
        source: ModelSource,
        dtype: str,
        device: torch.device,
        field: str,
        lora: LoraConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.tokenizer = load_tokenizer(source, field)
        self._source, self._dtype, self._device, self._field = source, dtype, device, field
        self._lora, self._seed = lora, seed
        self.module: torch.nn.Module | None = None
        self.adapters: Adapters | None = None
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
            module = load_model(self._source, self._dtype, self._device, self._field)
            if self._lora is not None and self._lora.rank:
                path = Path(self._source.name)
                name = str(path.absolute()) if path.is_dir() else self._source.name
                self.adapters = Adapters(module, self._lora, self._seed, name)
            self.module = module
        return self.module

    def trained(self) -> list[torch.nn.Parameter]:
        """What a learner moves."""
        return [p for p in self.load().parameters() if p.requires_grad]

    def weights(self) -> list[torch.Tensor]:
        """A copy of what a learner moves, as it is now."""
        return [p.detach().clone() for p in self.trained()]

    @torch.no_grad()
    def put(self, weights: Sequence[torch.Tensor]) -> None:
        """Lay weights into the module."""
        for parameter, given in zip(self.trained(), weights, strict=True):
            parameter.copy_(given)

    def read(self, where: ModelSource | Path) -> list[torch.Tensor]:
        """The same of a checkpoint's folder or of another copy of the model."""
        source = ModelSource(str(where)) if isinstance(where, Path) else where
        if self.adapters is not None:
            return self.adapters.read(Path(source.name) if source != self._source else None)
        other = load_model(source, self._dtype, self._device, self._field)
        return [p.detach() for p in other.parameters()]

    def averaged(
        self, weights: Sequence[torch.Tensor], start: Sequence[torch.Tensor], share: float
    ) -> list[torch.Tensor]:
        """(1 - share) weights + share start; of adapters, that of the weights they stand for."""
        if self.adapters is not None:
            return self.adapters.towards_base(list(weights), share)
        return [
            torch.lerp(own.float(), first.float(), share).to(own.dtype)
            for own, first in zip(weights, start, strict=True)
        ]

    def save(self, folder: Path, *, merged: bool) -> None:
        """The model as it is, adapters by themselves or merged into it."""
        if self.adapters is not None and merged:
            self.adapters.merged(folder, self.tokenizer)
            return
        if self.adapters is not None:
            self.adapters.save(folder)
        else:
            cast(Any, self.load()).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def check_reference(self, what: str) -> None:
        """See that it can be compared with, without reading its weights.

        Raises:
            UserError: a model that cannot be had, or of another vocabulary.
        """
        if names_model(what):
            self._other(what)

    def _other(self, what: str) -> LocalEngine:
        other = LocalEngine(resolve(what, "reference"), self._dtype, self._device, "reference")
        if other.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise UserError(
                f"reference: {what!r} has another vocabulary than {self._source.name!r}; their "
                "log-probs cannot be compared"
            )
        return other

    def reference(
        self, what: str, start: Sequence[torch.Tensor] | None, phase: Sequence[torch.Tensor] | None
    ) -> Reference:
        """What `reference` names.

        Args:
            start, phase: The weights that the run and the phase began with, where they are needed.

        Raises:
            UserError: a model that cannot be had, or of another vocabulary.
        """
        forward = self.forward()
        if what == "start" and self.adapters is not None:
            return Within(forward, self.adapters.away)
        if what in ("start", "phase"):
            weights = start if what == "start" else phase
            assert weights is not None
            return Weights(forward, self.trained(), weights)
        decay = average_decay(what)
        if decay is not None:
            assert phase is not None
            return Average(forward, self.trained(), phase, decay)
        other = self._other(what)
        other.load().requires_grad_(False)
        return Other(other.forward())

    def forward(self) -> PolicyForward:
        """The module with what is found out about it, on the first call."""
        if self._forward is None:
            self._forward = PolicyForward(self.load())
        return self._forward

    def sequence_logprobs(
        self, groups: Sequence[Group], temperature: float, microbatch_tokens: int
    ) -> list[list[float]]:
        """log pi of every draw: see `signals.sequence_logprobs`."""
        return sequence_logprobs(self.forward(), groups, temperature, microbatch_tokens)

    def sampler(self, sampling: SamplingConfig) -> LocalSampler:
        return LocalSampler(self.forward(), self.tokenizer, sampling.batch, sampling.cache_gib)

    def learner(
        self,
        optimiser: OptimiserConfig,
        *,
        total_updates: int,
        microbatch_tokens: int,
        critic: CriticConfig | None = None,
        reference: Reference | None = None,
    ) -> LocalLearner:
        """What trains the module, with a critic and a reference where they are asked for."""
        forward = self.forward()
        return LocalLearner(
            forward,
            self.tokenizer,
            optimiser,
            total_updates=total_updates,
            microbatch_tokens=microbatch_tokens,
            critic=LocalCritic(forward, own_trunk=critic.trunk == "own") if critic else None,
            critic_config=critic,
            reference=reference,
            saver=self.adapters,
        )


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
