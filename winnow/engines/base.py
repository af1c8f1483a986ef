"""The seam: all that the rest of Winnow may ask of a model, wherever its weights are.

    Engine      one policy: its tokens, and its weights by name; makes the other two
    Sampler     requests -> groups of samples, as they finish
    Learner     groups with advantages -> updates

docs/engines.md says who implements and who calls them. Weights never cross the seam as tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from winnow.algorithms.denominators import Totals
from winnow.algorithms.objective import Term
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.types import Group, Prompt, StepStats

PRESENT, START, PHASE = "present", "start", "phase"
"""Names of weights: as they are now, and as they were before the first update, both of which every
engine knows; and the snapshot of those that a phase began with."""
Weights = str | Path
"""A snapshot by its name, or the folder of a checkpoint."""
PerToken = list[list[tuple[float, ...]]]
"""By group and sample a number for each token; nothing for a sample that was not asked for."""


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. ``stop`` strings end a completion.

    Attributes:
        temperature: Divides the logits; 0 takes the likeliest token, of equals the first.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()

    @property
    def greedy(self) -> bool:
        """Whether all samples of a prompt are the same; their log-probs are those at 1."""
        return self.temperature == 0

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
    """What a sampler can promise.

    Attributes:
        true_logprobs: Its log-probs are those of the distribution that it samples from.
        seeds: The same seed gives the same samples.
        loads_weights: It samples from whatever weights it is told to.
    """

    true_logprobs: bool
    seeds: bool
    loads_weights: bool


@dataclass(frozen=True)
class WeightsRef:
    """The weights of a policy version, by where they are.

    Attributes:
        version: Updates that the policy has seen.
        where: PRESENT, read in place by a sampler of the same engine, or the folder they are in.
        hash: Of the weights, where they are copied on their way to a sampler; empty in place.
    """

    version: int
    where: Weights
    hash: str = ""


class Sampler(Protocol):
    """Takes requests as they come and gives groups as they finish.

    Each sample says which policy version sampled it, and from which token on a later one did. Its
    log-probs and entropies are float32 numbers, as they are stored: a resumed run reads the same.

    Attributes:
        device: Where it runs, for the record.
    """

    capabilities: Capabilities

    @property
    def device(self) -> str: ...

    def submit(self, requests: Sequence[Request]) -> int:
        """Take requests; they are numbered, and the number of the first is returned."""
        ...

    def results(self) -> Iterator[tuple[int, Group]]:
        """The group of each request that was submitted, with its number, until none is left."""
        ...

    def cancel(self) -> None:
        """Forget every request that has not finished."""
        ...

    def load(self, weights: WeightsRef) -> None:
        """Sample from these weights from now on.

        While samples are under way it is an error, or they say which weights gave which token.
        """
        ...

    def notes(self) -> list[str]:
        """What went wrong while sampling and was put right, in sentences."""
        ...

    def measures(self) -> dict[str, float]:
        """What it did since this was last asked, as metrics of a step; nothing, of most."""
        ...

    def close(self) -> None:
        """End what was started to sample with. It samples no more."""
        ...


@dataclass(frozen=True)
class AuxiliaryBatch:
    """Groups whose gradient is added to an update, by terms of their own: the SFT mix."""

    groups: Sequence[Group]
    terms: Sequence[Term]
    totals: Totals


class Learner(Protocol):
    """Turns survivors into updates of its engine's weights."""

    version: int

    def reference_logprobs(
        self, groups: Sequence[Group], asked: Sequence[Sequence[int]], temperature: float
    ) -> PerToken:
        """log pi_ref of each token at a temperature, nats.

        Args:
            asked: For each group the numbers of the samples in question; the others cost nothing.
        """
        ...

    def values(self, groups: Sequence[Group], asked: Sequence[Sequence[int]]) -> PerToken:
        """The return that the critic expects before each token."""
        ...

    def step(
        self,
        groups: Sequence[Group],
        terms: Sequence[Term],
        totals: Totals,
        temperature: float,
        auxiliary: AuxiliaryBatch | None = None,
    ) -> StepStats:
        """One optimizer step on a mini-batch of groups with advantages, rejected samples included.

        Only samples that a term runs over reach the model. Samples of this very `version` are
        compared with their sampler's log-probs (`Sums.gap_sum`), where a term reads log-probs at
        the temperature.

        Args:
            totals: Counts of the whole mini-batch, of which `groups` may be one rank's part.
            temperature: Of the sampler. Ratios are taken at it, likelihoods at 1.
        """
        ...

    def restart(self, weights: Weights) -> None:
        """Go back to these weights, with a new optimizer."""
        ...

    def save(self, folder: Path) -> None:
        """Weights, tokenizer and optimizer state, for `AutoModelForCausalLM` and `load`."""
        ...

    def load(self, folder: Path) -> None:
        """Take the state that `save` wrote; the engine was made with the weights."""
        ...

    def close(self) -> None:
        """Let go of the weights, so that another learner can train them."""
        ...


@dataclass(frozen=True)
class LearnerPlan:
    """What a learner is to do.

    Attributes:
        updates: Of its whole life, for the schedule of the learning rate.
        microbatch_tokens: Most tokens that go through the model at a time.
        critic: Settings of the critic, where one is trained.
        reference: What terms compare with: START, PHASE, an EMA that begins at PHASE, or a model.
        version: Updates that the policy has seen.
    """

    optimizer: OptimizerConfig
    updates: int
    microbatch_tokens: int
    critic: CriticConfig | None = None
    reference: str | None = None
    version: int = 0


@dataclass(frozen=True)
class ModelSize:
    """How large a model is.

    Attributes:
        parameters: Of the whole model, tied ones once.
        trained: Those that are trained: all, or those of the adapters, which are float32.
        item: Bytes of a weight.
        hidden: Width of its features.
        token_bytes: Keys and values of a token in all layers.
        context: Most tokens that it takes; ``None`` if it does not say.
        tokenizer: Bytes of its file.
        found_by_name: Whether `from_pretrained` finds it by its name; else adapters need a copy.
        ranks: Processes that its weights are sharded over, in float32; 0 if they are not.
    """

    parameters: int
    trained: int
    item: int
    hidden: int
    token_bytes: int
    context: int | None
    tokenizer: int
    found_by_name: bool
    ranks: int = 0


@dataclass(frozen=True)
class Conventions:
    """What the files of a model say of how it is spoken to and when it has finished.

    Attributes:
        template: Whether its tokenizer has a chat template.
        broken: Why that renders no conversation; empty where it does.
        system: What becomes of a system message; ``None`` without a template.
        opens: The beginning-of-sequence tokens that begin a rendered conversation, as it is encoded
            here, and as programs encode it that let the tokenizer add its own to the text.
        closes: The token that the template puts behind what the assistant says, as text, and its
            id; ``None`` where there is no such special token.
        ends: Every token that ends a completion here, by id, as text.
        eos: The tokenizer's end-of-sequence token, which is put behind completions that are texts.
        pad: The padding token.
        sampling: What its generation config would change of how other programs sample, such as
            top_k or repetition_penalty; nothing of it is read here.
    """

    template: bool
    broken: str
    system: Literal["read", "left out", "refused"] | None
    opens: tuple[int, int]
    closes: tuple[int, str] | None
    ends: Mapping[int, str]
    eos: int | None
    pad: int | None
    sampling: Mapping[str, float]


class Engine(Protocol):
    """One policy, wherever its weights are.

    Attributes:
        device: Where it runs, for the record.
        context: Most tokens that it takes; ``None`` if it does not say.
        vocabulary: A fingerprint; equal where the same text has the same tokens.
    """

    @property
    def device(self) -> str: ...

    @property
    def context(self) -> int | None: ...

    @property
    def vocabulary(self) -> str: ...

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt as the model will see it, chat template applied."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, special ones written out."""
        ...

    def token_ends(self, tokens: Sequence[int], text: str) -> tuple[int, ...]:
        """Where each token of a completion ends in its text (`types.Sample.token_ends`).

        Empty where that is not known, or where they are not the tokens of this text.
        """
        ...

    def size(self) -> ModelSize:
        """How large the model is; weights that are not there are not read for it."""
        ...

    def conventions(self) -> Conventions:
        """What its files say of templates, special tokens and sampling; may read the weights."""
        ...

    def encode_completion(self, text: str, *, ended: bool) -> tuple[int, ...]:
        """The tokens of a completion, with an end-of-sequence token where it has ended."""
        ...

    def sampler(self, sampling: SamplingConfig) -> Sampler:
        """Samples from these weights."""
        ...

    def check_critic(self, critic: CriticConfig) -> None:
        """Raise a `UserError` if a learner of these weights could not have such a critic."""
        ...

    def learner(self, plan: LearnerPlan) -> Learner:
        """Trains these weights. It takes over the snapshot PHASE, if there is one."""
        ...

    def logprobs(
        self, groups: Sequence[Group], temperature: float, of: Weights = PRESENT
    ) -> list[list[float]]:
        """log pi of every whole completion at a temperature, nats, by group and sample.

        Args:
            of: Whose. The present weights are as they were afterwards, bit for bit.
        """
        ...

    def load(self) -> None:
        """Read the weights now; else they are read when they are first needed."""
        ...

    def snapshot(self, name: str, of: Weights = PRESENT, *, aside: bool = False) -> None:
        """Keep a copy of weights under a name.

        Args:
            aside: For `logprobs` alone, now and then: where memory costs least.
        """
        ...

    def restore(self, weights: Weights) -> None:
        """Put these weights in the place of the present ones."""
        ...

    def average(self, weights: Weights, share: float) -> None:
        """(1 - share) of the present weights and this share of others become the present ones."""
        ...

    def save(self, folder: Path, *, merged: bool) -> None:
        """Write the model for `AutoModelForCausalLM`, adapters merged into it or by themselves."""
        ...

    def publish(self, version: int) -> WeightsRef:
        """The present weights, for a sampler."""
        ...

    def notes(self) -> list[str]:
        """What a person should know of how this model is run, in sentences."""
        ...

    def peak_memory(self) -> float | None:
        """The most memory taken on its GPU since this was last asked, GiB; ``None`` without one."""
        ...

    def close(self) -> None:
        """Let go of the model, which is read again if it is needed."""
        ...
