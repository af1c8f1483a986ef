"""What one step of a run consists of, and over how many GPUs it is spread."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from winnow.config.phases import Phase
from winnow.config.schema import Config
from winnow.errors import UserError


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of a completion, on average; the longest completion has `most`."""

    prompt: int
    completion: int
    most: int


@dataclass(frozen=True)
class Spread:
    """Over what a run is spread.

    Attributes:
        ranks: Processes that learn, a GPU each.
        servers: That sample; 0: the ranks do.
        each: GPUs of a server.
    """

    ranks: int
    servers: int
    each: int = 1

    @property
    def gpus(self) -> int:
        return self.ranks + self.servers * self.each

    @property
    def samplers(self) -> int:
        """Copies of the model that sample."""
        return self.servers or self.ranks


@dataclass(frozen=True)
class Step:
    """A step, if every sample is learned from.

    Attributes:
        prompts, samples: Of a step; samples of all prompts.
        updates: Optimizer steps.
        passes: Times that a sample is learned from.
        busiest: Positions of the rank that has most, in one update.
        microbatches: Passes of that rank in one update; every rank makes as many.
        positions: Of the largest of them.
    """

    prompts: int
    samples: int
    updates: int
    passes: int
    busiest: int
    microbatches: int
    positions: int

    def tokens(self, lengths: Lengths) -> int:
        """Sampled in a step."""
        return self.samples * lengths.completion


def spread_of(config: Config, ranks: int) -> Spread:
    """Ranks as given, servers as `[engine]` has them."""
    own = config.engine
    if own.sampler != "vllm":
        return Spread(ranks, 0)
    each = max((len(names.split(",")) for names in own.vllm_devices), default=1)
    return Spread(ranks, own.servers or len(own.urls), each)


def step_of(phase: Phase, lengths: Lengths, ranks: int) -> Step:
    """The step of a phase over some ranks: groups go to ranks whole, micro-batches as they are cut.

    Raises:
        UserError: its steps do not sample.
    """
    config, passes = phase.config, phase.algorithm.epochs
    if phase.file is not None:
        raise UserError("samples_file", "a run that samples nothing cannot be calculated")
    if not phase.samples_each_step:
        problem = "a run that samples once, before all updates, cannot be calculated"
        raise UserError("algorithm.resample", problem, "use 'every-step'")
    n, groups = config.samples_per_prompt, min(config.prompts_per_update, config.prompts_per_step)
    group = lengths.prompt + n * lengths.completion
    busiest = ceil(groups / ranks) * group
    limit = max(config.microbatch_tokens, lengths.prompt + lengths.completion)
    microbatches = ceil(busiest / limit)
    longest = lengths.prompt + lengths.most
    return Step(
        prompts=config.prompts_per_step,
        samples=config.prompts_per_step * n,
        updates=config.minibatches * passes,
        passes=passes,
        busiest=busiest,
        microbatches=microbatches,
        positions=max(ceil(busiest / microbatches), longest),
    )
