"""The engine of one process: sampler and learner over one module, on a CPU or a GPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from winnow.config.reference import ema_decay
from winnow.config.schema import Config
from winnow.config.schema.lora import LoraConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import PHASE, START, LearnerPlan, Weights, WeightsRef
from winnow.engines.devices import pick_device, room
from winnow.engines.learning.token_values import sequence_logprobs
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.policy import SMALLER, LocalPolicy
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.loading import context_length, load_config
from winnow.engines.models.reference import EMA, Kept, Other, Reference, Within
from winnow.engines.models.tokenization import PromptEncoder
from winnow.types import Group, Prompt

_SMALLER = "use dtype = 'bfloat16', lora.rank or a smaller model"


class LocalEngine:
    """An `Engine` whose weights are in this process.

    Args:
        field: The setting that names the model.
        checkpoint: Where its present weights are, if not the model's own.
        folder: Of the run.
    """

    def __init__(
        self,
        config: Config,
        field: str = "model",
        checkpoint: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        device = pick_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = str(device)
        self.policy = LocalPolicy(config, device, field, checkpoint, folder)
        self._config = config
        self._encode = PromptEncoder(self.policy.tokenizer)

    @cached_property
    def context(self) -> int | None:
        """A GGUF file is read whole for it."""
        policy = self.policy
        if policy.now.gguf is None and not policy.loaded:
            return context_length(load_config(policy.now, policy.field))
        return context_length(cast(Any, policy.module()).config)

    @cached_property
    def vocabulary(self) -> str:
        words = sorted(self.policy.tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        return self._encode(prompt)

    def encode_completion(self, text: str, *, ended: bool) -> tuple[int, ...]:
        tokenizer = self.policy.tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False)
        last = tokenizer.eos_token_id
        return (*ids, last) if ended and last is not None else tuple(ids)

    def sampler(self, sampling: SamplingConfig) -> LocalSampler:
        policy = self.policy
        return LocalSampler(policy.forward, policy.tokenizer, sampling.batch, sampling.cache_gib)

    @room(SMALLER)
    def learner(self, plan: LearnerPlan) -> LocalLearner:
        """A learner of the module, with a critic and a reference where they are asked for.

        Raises:
            UserError: a reference that cannot be loaded, or a model that no critic can read.
        """
        reference = None if plan.reference is None else self._reference(plan.reference)
        self.policy.discard(PHASE)
        critic = LocalCritic(self.policy.forward(), plan.critic) if plan.critic else None
        return LocalLearner(self.policy, plan, critic, reference)

    def _reference(self, what: str) -> Reference:
        policy = self.policy
        forward, adapters = policy.forward(), policy.adapters()
        if what == START and adapters is not None:
            return Within(forward, adapters.away)
        if what in (START, PHASE):
            return Kept(forward, policy.trained(), policy.weights(what))
        decay = ema_decay(what)
        if decay is not None:
            return EMA(forward, policy.trained(), policy.weights(PHASE), decay)
        # Not trained, so without adapters.
        other = self._config.model_copy(update={"model": what, "lora": LoraConfig()})
        frozen = LocalPolicy(other, policy.device, "reference")
        frozen.module().requires_grad_(False)
        return Other(frozen.forward())

    def logprobs(self, groups: Sequence[Group], temperature: float) -> list[list[float]]:
        limit = self._config.microbatch_tokens
        return sequence_logprobs(self.policy.forward(), groups, temperature, limit)

    def load(self) -> None:
        self.policy.forward()

    def snapshot(self, name: str, of: Weights | None = None) -> None:
        self.policy.keep(name, of)

    def restore(self, weights: Weights) -> None:
        self.policy.put(self.policy.weights(weights))

    def average(self, weights: Weights, share: float) -> None:
        self.policy.average(weights, share)

    def save(self, folder: Path, *, merged: bool) -> None:
        self.policy.save(folder, merged=merged)

    def publish(self, version: int) -> WeightsRef:
        """In place: the sampler of this engine reads the module itself."""
        return WeightsRef(version, "present")

    def notes(self) -> list[str]:
        forward = self.policy.forward()
        if forward.shares_prefix:
            return []
        return [f"prompts are encoded once per sample, {forward.why}"]

    def close(self) -> None:
        self.policy.close()
