"""The engine of one process: sampler and learner over one module, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from winnow.config.schema import Config
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import (
    PHASE,
    PRESENT,
    Conventions,
    LearnerPlan,
    Weights,
    WeightsRef,
)
from winnow.engines.devices import (
    is_slow_in_bfloat16,
    peak_memory,
    pick_device,
    room,
    sampling_dtype,
)
from winnow.engines.learning.token_values import sequence_logprobs
from winnow.engines.local.kv_cache import token_bytes
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.other_caches import padding
from winnow.engines.local.own_copy import OwnCopy
from winnow.engines.local.policy import LocalPolicy
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.conventions import conventions_of
from winnow.engines.models.critic import LocalCritic, check_readable
from winnow.engines.models.policy import SMALLER
from winnow.engines.models.spoken import Spoken
from winnow.engines.process_state import take_threads
from winnow.engines.weights.outbox import outbox_of, published
from winnow.types import Group


class LocalEngine(LocalPolicy, Spoken):
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
        take_threads(config.threads)
        super().__init__(config, device, field, checkpoint, folder)
        self.device = str(device)
        self.speak(self.tokenizer, config.prompts.chat_template_options)
        self._outbox = outbox_of(config)
        self._copies: dict[str, OwnCopy] = {}

    @cached_property
    def _token_bytes(self) -> int | None:
        """Found out by passes of the model, so once for the notes and the samplers."""
        return token_bytes(self.forward())

    def conventions(self) -> Conventions:
        return conventions_of(self.tokenizer, self.module())

    def sampler(self, sampling: SamplingConfig) -> LocalSampler:
        batch, gib = sampling.batch, sampling.cache_gib
        own = self._copy(sampling)
        if own is None:
            return LocalSampler(
                self.forward, self.tokenizer, batch, gib, lambda: self._token_bytes, self._encode
            )
        own.outdate()
        return LocalSampler(
            own.forward, self.tokenizer, batch, gib, own.token_bytes, self._encode, own.outdate
        )

    def _copy(self, sampling: SamplingConfig) -> OwnCopy | None:
        """What samplers sample from, if not the module itself; one for all of a data type."""
        if sampling.dtype is None:
            return None
        name = sampling_dtype(sampling.dtype, self._device)
        if name not in self._copies:
            self._copies[name] = OwnCopy(self.forward, getattr(torch, name))
        return self._copies[name]

    def check_critic(self, critic: CriticConfig) -> None:
        check_readable(self.forward())

    @room(SMALLER)
    def learner(self, plan: LearnerPlan) -> LocalLearner:
        """A learner of the module, with a critic and a reference where they are asked for.

        Raises:
            UserError: a reference that cannot be loaded, or a model that no critic can read.
        """
        reference = None if plan.reference is None else self.reference(plan.reference)
        self._kept.pop(PHASE, None)
        critic = LocalCritic(self.forward(), plan.critic) if plan.critic else None
        again = self._config.engine.activation_checkpointing
        return LocalLearner(self, plan, critic, reference, again=again)

    @room(SMALLER)
    def logprobs(
        self, groups: Sequence[Group], temperature: float, of: Weights = PRESENT
    ) -> list[list[float]]:
        limit, forward = self._config.microbatch_tokens, self.forward()
        with self.holding(of):
            return sequence_logprobs(forward, groups, temperature, limit)

    def put(self, weights: Sequence[torch.Tensor]) -> None:
        super().put(weights)
        self._outdate()

    def publish(self, version: int) -> WeightsRef:
        self._outdate()
        return published(version, self._config, self, self._outbox)

    def _outdate(self) -> None:
        """Have copies of the weights made anew."""
        for own in self._copies.values():
            own.outdate()

    def close(self) -> None:
        super().close()
        for own in self._copies.values():
            own.close()

    def peak_memory(self) -> float | None:
        return peak_memory(self._device)

    def notes(self) -> list[str]:
        forward = self.forward()
        found = [*self.said, *self._encode.notes()]
        own = self._copy(self._config.sampling)
        token = self._token_bytes if own is None else own.token_bytes()
        if own is not None:
            name = str(own.dtype).removeprefix("torch.")
            found.append(f"samples come from a copy of its weights in {name}")
            forward = own.forward()
        if token is None and padding(forward) is None:
            found.append(
                "every token of a sample is sampled by reading again all that is before it; its "
                "cache cannot be copied from sample to sample"
            )
        elif token is None:
            found.append(
                "waiting samples start only when all before them have ended; its cache cannot be "
                "kept a row at a time"
            )
        if self._config.optimizer.precision == "mixed" and is_slow_in_bfloat16(self._device):
            found.append(
                "optimizer.precision = 'mixed' is slower here than 'float32': this device has no "
                "instructions for products in bfloat16 (a CPU's avx512_bf16 or amx_bf16)"
            )
        if not forward.shares_prefix:
            found.append(f"prompts are encoded once per sample, {forward.why}")
        return found
