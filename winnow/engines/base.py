"""The interface of engines: a sampler and a learner. A run needs one of each.

An engine of another kind (a server, a cluster) implements these two protocols and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from winnow.algorithms.objective import Term
from winnow.types import Group, Prompt, StepStats


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. ``temperature`` divides the logits; ``stop`` strings end a completion."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether it samples from less than the full softmax."""
        return self.top_k > 0 or self.top_p < 1


@dataclass(frozen=True)
class Request:
    """n samples of one prompt. The same seed gives the same samples, whatever else is sampled."""

    prompt: Prompt
    n: int
    seed: int
    params: SamplingParams
    step: int = 0


@dataclass(frozen=True)
class Capabilities:
    """What a sampler can promise."""

    true_logprobs: bool
    seeds: bool
    loads_weights: bool


@dataclass(frozen=True)
class WeightsRef:
    """Weights of a policy version: the module itself (in one process) or a folder."""

    version: int
    module: Any = None
    folder: Path | None = None


class Sampler(Protocol):
    """Samples completions."""

    capabilities: Capabilities

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt as the model will see it, chat template applied."""
        ...

    def sample(self, requests: Sequence[Request]) -> Iterator[tuple[int, Group]]:
        """Groups of samples as they finish, each with the position of its request."""
        ...

    def load(self, weights: WeightsRef) -> None:
        """Sample from these weights from now on. A frozen sampler refuses."""
        ...


@dataclass(frozen=True)
class AuxiliaryBatch:
    """Groups whose gradient is added to an update, by terms of their own: the SFT mix."""

    groups: Sequence[Group]
    terms: Sequence[Term]


class Learner(Protocol):
    """Turns survivors into updates."""

    version: int

    def evaluate(
        self,
        groups: Sequence[Group],
        asked: Sequence[Sequence[int]],
        wants: str,
        temperature: float,
    ) -> list[Group]:
        """The groups with more annotations.

        Args:
            asked: For each group the numbers of the samples to annotate; the others cost nothing.
            wants: `ref_logprobs` or `values`.
            temperature: Of the reference's softmax.
        """
        ...

    def step(
        self,
        groups: Sequence[Group],
        terms: Sequence[Term],
        temperature: float,
        auxiliary: AuxiliaryBatch | None = None,
    ) -> StepStats:
        """One optimizer step on a mini-batch of groups with advantages, rejected samples included.

        Denominators count whole groups; only samples that a term runs over reach the model.
        """
        ...

    def restart(self, weights: Sequence[Any]) -> None:
        """Go back to these weights, with a new optimizer."""
        ...

    def publish(self) -> WeightsRef:
        """The present weights, for a sampler."""
        ...

    def save(self, folder: Path) -> None:
        """Weights, tokenizer and optimizer state, for `AutoModelForCausalLM` and `load`."""
        ...

    def load(self, folder: Path) -> None:
        """Resume from what `save` wrote."""
        ...
