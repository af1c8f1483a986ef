"""What every process of a team does: the same calls, each on its part of the models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from winnow.algorithms.denominators import Totals
from winnow.algorithms.objective import Term
from winnow.config.schema import Config
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import (
    PHASE,
    AuxiliaryBatch,
    LearnerPlan,
    PerToken,
    Request,
    Sampler,
    Weights,
    WeightsRef,
)
from winnow.engines.devices import room
from winnow.engines.fsdp.learner import ShardedLearner
from winnow.engines.fsdp.policy import ShardedPolicy
from winnow.engines.fsdp.ranks import Team
from winnow.engines.fsdp.sharding import settle
from winnow.engines.learning.token_values import completion_logprobs, merged
from winnow.engines.models.critic import LocalCritic, check_readable
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.policy import SMALLER
from winnow.engines.models.tokenization import PromptEncoder
from winnow.engines.process_state import take_threads
from winnow.errors import UserError
from winnow.types import Group, StepStats

MakeSampler = Callable[
    [Callable[[], PolicyForward], Any, int, float, None, PromptEncoder | None], Sampler
]
"""Makes a sampler of a whole model in this process: of what gives the model, the tokenizer, most
samples under way, GiB for their keys and values, and an encoder."""


class Worker:
    """The policies and learners of which this process holds a part, by number."""

    def __init__(self, team: Team, make_sampler: MakeSampler) -> None:
        self.team = team
        self._make_sampler = make_sampler
        self._policies: dict[int, ShardedPolicy] = {}
        self._learners: dict[int, ShardedLearner] = {}
        self._samplers: dict[int, Sampler] = {}

    def take_threads(self, threads: int) -> None:
        """Compute with so many threads."""
        take_threads(threads)

    def policy(self, number: int) -> ShardedPolicy:
        return self._policies[number]

    @room(SMALLER)
    def make(
        self, number: int, config: Config, field: str, checkpoint: Path | None, folder: Path | None
    ) -> None:
        """Read a model."""
        made = ShardedPolicy(config, self.team, field, checkpoint, folder)
        made.load()
        self._policies[number] = made

    def drop(self, number: int) -> None:
        """Let go of a model, if it was read."""
        for one in (self._policies.pop(number, None), self._learners.pop(number, None)):
            if one is not None:
                one.close()
        self._samplers.pop(number, None)

    @room(SMALLER)
    def snapshot(self, number: int, name: str, of: Weights, aside: bool) -> None:
        self._policies[number].snapshot(name, of, aside=aside)

    @room(SMALLER)
    def restore(self, number: int, weights: Weights) -> None:
        self._policies[number].restore(weights)

    @room(SMALLER)
    def average(self, number: int, weights: Weights, share: float) -> None:
        self._policies[number].average(weights, share)

    def save(self, number: int, folder: Path, merged: bool, dtype: str | None) -> None:
        self._policies[number].save(folder, merged=merged, dtype=dtype)

    def save_base(self, number: int, folder: Path) -> None:
        self._policies[number].save_base(folder)

    @room(SMALLER)
    def logprobs(
        self, number: int, groups: Sequence[Group], temperature: float, of: Weights
    ) -> PerToken:
        """log pi of each token of every completion at a temperature, nats."""
        policy = self._policies[number]
        limit, forward = policy.config.microbatch_tokens, policy.forward()
        with policy.holding(of):
            found = completion_logprobs(forward, groups, temperature, limit, self.team.rank)
            settle(forward.module)
        return merged(self.team.everyone(found))

    def check_critic(self, number: int, critic: CriticConfig) -> None:
        """Raise a `UserError` if a policy could not have such a critic."""
        if critic.trunk == "own":
            problem = "a trunk of its own cannot be sharded"
            raise UserError("critic.trunk", problem, "use 'shared', or engine.learner = 'local'")
        check_readable(self._policies[number].forward())

    @room(SMALLER)
    def learner(self, number: int, plan: LearnerPlan) -> None:
        """Make the learner of a policy."""
        policy = self._policies[number]
        forward = policy.forward()
        reference = None if plan.reference is None else policy.reference(plan.reference)
        policy.forget(PHASE)
        if plan.critic is not None:
            self.check_critic(number, plan.critic)
        critic = LocalCritic(forward, plan.critic) if plan.critic else None
        self._learners[number] = ShardedLearner(policy, plan, critic, reference)

    def reference_logprobs(
        self, number: int, groups: Sequence[Group], asked: Sequence[Sequence[int]], heat: float
    ) -> PerToken:
        return self._learners[number].reference_logprobs(groups, asked, heat)

    def values(
        self, number: int, groups: Sequence[Group], asked: Sequence[Sequence[int]]
    ) -> PerToken:
        return self._learners[number].values(groups, asked)

    def step(
        self,
        number: int,
        groups: Sequence[Group],
        terms: Sequence[Term],
        totals: Totals,
        temperature: float,
        auxiliary: AuxiliaryBatch | None,
    ) -> tuple[StepStats, int]:
        """An update; its statistics, and the policy's version after it."""
        learner = self._learners[number]
        done = learner.step(groups, terms, totals, temperature, auxiliary)
        return done, learner.version

    def restart(self, number: int, weights: Weights) -> None:
        self._learners[number].restart(weights)

    def save_learner(self, number: int, folder: Path) -> None:
        self._learners[number].save(folder)

    def load_learner(self, number: int, folder: Path) -> int:
        """Take a learner's state; the policy's version."""
        learner = self._learners[number]
        learner.load(folder)
        return learner.version

    def close_learner(self, number: int) -> None:
        if (learner := self._learners.pop(number, None)) is not None:
            learner.close()

    def follow_sampling(
        self,
        number: int,
        sampling: SamplingConfig,
        version: int,
        shares: Sequence[Sequence[Request]],
    ) -> None:
        """Sample this process's share of the requests."""
        mine = shares[self.team.rank.number]
        self.team.everyone(list(self.sample(number, sampling, version, mine)))

    def sample(
        self, number: int, sampling: SamplingConfig, version: int, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Group]]:
        """Sample some requests; each group comes with the place of its request.

        The weights are gathered for all of it: else each token would take all of them once more.
        """
        policy = self._policies[number]
        with policy.gathered():
            if number not in self._samplers:
                encode = PromptEncoder(
                    policy.tokenizer, policy.config.prompts.chat_template_options
                )
                given = sampling.batch, sampling.cache_gib, None, encode
                self._samplers[number] = self._make_sampler(
                    policy.forward, policy.tokenizer, *given
                )
            sampler = self._samplers[number]
            sampler.cancel()
            sampler.load(WeightsRef(version, "present"))
            first = sampler.submit(requests)
            for place, group in sampler.results():
                yield place - first, group
