"""Sampler and learner in one process, over one module, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from winnow.config.reference import ema_decay, names_model
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.lora import LoraConfig
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.learning.token_values import sequence_logprobs
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.loading import (
    ModelSource,
    context_length,
    load_config,
    load_model,
    load_tokenizer,
    resolve,
)
from winnow.engines.models.lora import Adapters
from winnow.engines.models.reference import EMA, Other, Reference, Weights, Within
from winnow.engines.models.saving import writing
from winnow.engines.models.tokenization import PromptEncoder, Retokeniser
from winnow.errors import UserError
from winnow.types import Group, Prompt


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
        """Whether a recorded group's prompt has the tokens here that it was sampled with."""
        known = group.prompt_ids
        return not known or PromptEncoder(self.tokenizer)(group.prompt) == known

    def retokeniser(self, stop: Sequence[str], *, anew: bool) -> Retokeniser:
        """What gives recorded samples the tokens that they lack."""
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
        """The parameters that are trained."""
        return [p for p in self.load().parameters() if p.requires_grad]

    def weights(self) -> list[torch.Tensor]:
        """A copy of the trained parameters, as they are now."""
        return [p.detach().clone() for p in self.trained()]

    @torch.no_grad()
    def put(self, weights: Sequence[torch.Tensor]) -> None:
        """Copy weights into the module."""
        for parameter, given in zip(self.trained(), weights, strict=True):
            parameter.copy_(given)

    def read(self, where: ModelSource | Path) -> list[torch.Tensor]:
        """The weights in a checkpoint's folder, or of another copy of the model."""
        source = ModelSource(str(where)) if isinstance(where, Path) else where
        if self.adapters is not None:
            return self.adapters.read(Path(source.name) if source != self._source else None)
        other = load_model(source, self._dtype, self._device, self._field)
        return [p.detach() for p in other.parameters()]

    def averaged(
        self, weights: Sequence[torch.Tensor], start: Sequence[torch.Tensor], share: float
    ) -> list[torch.Tensor]:
        """(1 - share) weights + share start; for adapters, of the weights they stand for."""
        if self.adapters is not None:
            return self.adapters.towards_base(list(weights), share)
        return [
            torch.lerp(own.float(), first.float(), share).to(own.dtype)
            for own, first in zip(weights, start, strict=True)
        ]

    @writing()
    def save(self, folder: Path, *, merged: bool) -> None:
        """Write the model, adapters by themselves or merged into it."""
        if self.adapters is not None and merged:
            self.adapters.merged(folder, self.tokenizer)
            return
        if self.adapters is not None:
            self.adapters.save(folder)
        else:
            cast(Any, self.load()).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def check_reference(self, what: str) -> None:
        """Check a reference, without reading its weights.

        Raises:
            UserError: a model that cannot be loaded, or of another vocabulary.
        """
        if names_model(what):
            self._other(what)

    def _other(self, what: str) -> LocalEngine:
        other = LocalEngine(resolve(what, "reference"), self._dtype, self._device, "reference")
        if other.tokenizer.get_vocab() != self.tokenizer.get_vocab():
            problem = f"{what!r} has another vocabulary than {self._source.name!r}"
            remedy = "use a model with the same tokenizer, so that log-probs can be compared"
            raise UserError("reference", problem, remedy)
        return other

    def reference(
        self, what: str, start: Sequence[torch.Tensor] | None, phase: Sequence[torch.Tensor] | None
    ) -> Reference:
        """The reference of a name.

        Args:
            start, phase: The weights that the run and the phase began with, where they are needed.

        Raises:
            UserError: as `check_reference`.
        """
        forward = self.forward()
        if what == "start" and self.adapters is not None:
            return Within(forward, self.adapters.away)
        if what in ("start", "phase"):
            weights = start if what == "start" else phase
            assert weights is not None
            return Weights(forward, self.trained(), weights)
        decay = ema_decay(what)
        if decay is not None:
            assert phase is not None
            return EMA(forward, self.trained(), phase, decay)
        other = self._other(what)
        other.load().requires_grad_(False)
        return Other(other.forward())

    def forward(self) -> PolicyForward:
        """The module, probed on the first call."""
        if self._forward is None:
            self._forward = PolicyForward(self.load())
        return self._forward

    def sequence_logprobs(
        self, groups: Sequence[Group], temperature: float, microbatch_tokens: int
    ) -> list[list[float]]:
        """log pi of every sample: see `token_values.sequence_logprobs`."""
        return sequence_logprobs(self.forward(), groups, temperature, microbatch_tokens)

    def sampler(self, sampling: SamplingConfig) -> LocalSampler:
        return LocalSampler(self.forward(), self.tokenizer, sampling.batch, sampling.cache_gib)

    def learner(
        self,
        optimizer: OptimizerConfig,
        *,
        total_updates: int,
        microbatch_tokens: int,
        critic: CriticConfig | None = None,
        reference: Reference | None = None,
    ) -> LocalLearner:
        """A learner of the module, with a critic and a reference where they are asked for."""
        forward = self.forward()
        return LocalLearner(
            forward,
            self.tokenizer,
            optimizer,
            total_updates=total_updates,
            microbatch_tokens=microbatch_tokens,
            critic=LocalCritic(forward, critic) if critic else None,
            reference=reference,
            saver=self.adapters,
        )
