"""Rank 0's side of a model that is sharded: what the rest of Winnow asks of it, every rank does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, cast

from winnow.algorithms.denominators import Totals
from winnow.algorithms.objective import Term
from winnow.config.schema import Config
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import (
    PRESENT,
    AuxiliaryBatch,
    Capabilities,
    Conventions,
    LearnerPlan,
    ModelSize,
    PerToken,
    Request,
    Weights,
    WeightsRef,
)
from winnow.engines.devices import peak_memory
from winnow.engines.fsdp.worker import Worker
from winnow.engines.learning.microbatches import balanced
from winnow.engines.learning.token_values import summed
from winnow.engines.models.conventions import conventions_of
from winnow.engines.models.loading import (
    ModelSource,
    context_length,
    load_config,
    load_tokenizer,
    resolve,
)
from winnow.engines.models.sizes import model_size
from winnow.engines.models.spoken import Spoken
from winnow.engines.queueing import QueuedSampler, Results
from winnow.engines.weights.outbox import outbox_of, published
from winnow.errors import WinnowError
from winnow.types import Group, StepStats

_numbers = count()


class ShardedEngine(Spoken):
    """An `Engine` whose weights are in all processes of a team; rank 0 has it.

    Args:
        worker: Of rank 0.
        field: The setting that names the model.
        checkpoint: Where its present weights are, if not the model's own.
        folder: Of the run.
    """

    def __init__(
        self,
        worker: Worker,
        config: Config,
        field: str = "model",
        checkpoint: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        self._source = resolve(config.model, field)
        whole = checkpoint is not None and not config.lora.rank
        self._now = ModelSource(str(checkpoint)) if whole else self._source
        self.speak(load_tokenizer(self._now, field), config.prompts.chat_template_options)
        self._worker, self._team = worker, worker.team
        self._config, self._field = config, field
        self._given = config, field, checkpoint, folder
        self._number = next(_numbers)
        self._outbox = outbox_of(config)
        self._read = False
        self.device = str(self._team.device)

    @property
    def number(self) -> int:
        """Of the model in every process, read on the first call."""
        if not self._read:
            self._team.run(self._worker, Worker.make, self._number, *self._given)
            self._read = True
        return self._number

    @cached_property
    def context(self) -> int | None:
        """A GGUF file is read whole for it."""
        if self._now.gguf is None:
            return context_length(load_config(self._now, self._field))
        return context_length(cast(Any, self._worker.policy(self.number).module()).config)

    def conventions(self) -> Conventions:
        return conventions_of(self.tokenizer, self._worker.policy(self.number).module())

    def size(self) -> ModelSize:
        config = self._config
        size = model_size(self._source, config.dtype, config.lora, self.tokenizer, self._field)
        return replace(size, ranks=self._team.rank.of)

    def sampler(self, sampling: SamplingConfig) -> ShardedSampler:
        return ShardedSampler(self, self._worker, sampling)

    def check_critic(self, critic: CriticConfig) -> None:
        self._team.run(self._worker, Worker.check_critic, self.number, critic)

    def learner(self, plan: LearnerPlan) -> ShardedLearnerOfAll:
        """A learner in every process.

        Raises:
            UserError: a reference that cannot be loaded, or a critic with a trunk of its own.
        """
        self._team.run(self._worker, Worker.learner, self.number, plan)
        return ShardedLearnerOfAll(self, self._worker, plan.version)

    def logprobs(
        self, groups: Sequence[Group], temperature: float, of: Weights = PRESENT
    ) -> list[list[float]]:
        given = self.number, groups, temperature, of
        return summed(self._team.run(self._worker, Worker.logprobs, *given))

    def load(self) -> None:
        _ = self.number

    def snapshot(self, name: str, of: Weights = PRESENT, *, aside: bool = False) -> None:
        self._team.run(self._worker, Worker.snapshot, self.number, name, of, aside)

    def restore(self, weights: Weights) -> None:
        self._team.run(self._worker, Worker.restore, self.number, weights)

    def average(self, weights: Weights, share: float) -> None:
        self._team.run(self._worker, Worker.average, self.number, weights, share)

    def save(self, folder: Path, *, merged: bool, dtype: str | None = None) -> None:
        self._team.run(self._worker, Worker.save, self.number, folder, merged, dtype)

    def save_base(self, folder: Path) -> None:
        """Write the model that the adapters are over, and the tokenizer."""
        self._team.run(self._worker, Worker.save_base, self.number, folder)

    def publish(self, version: int) -> WeightsRef:
        return published(version, self._config, self, self._outbox)

    def peak_memory(self) -> float | None:
        """Of the GPU of rank 0."""
        return peak_memory(self._team.device)

    def notes(self) -> list[str]:
        policy = self._worker.policy(self.number)
        forward = policy.forward()
        found = [*policy.said, *self._encode.notes()]
        ranks = self._team.rank.of
        if ranks > 1:
            found.append(f"its weights are sharded over {ranks} processes")
        if self._config.engine.cpu_offload and self._team.device.type == "cpu":
            found.append("engine.cpu_offload changes nothing where there is no GPU")
        if not forward.shares_prefix:
            found.append(f"prompts are encoded once per sample, {forward.why}")
        return found

    def close(self) -> None:
        if self._read:
            self._team.run(self._worker, Worker.drop, self._number)
            self._read = False


class ShardedSampler(QueuedSampler):
    """Every process samples a share of the prompts; rank 0 yields its own as they finish.

    Which process samples a prompt changes nothing: its seed is its own.
    """

    capabilities = Capabilities(true_logprobs=True, seeds=True, loads_weights=True)

    def __init__(self, engine: ShardedEngine, worker: Worker, sampling: SamplingConfig) -> None:
        super().__init__()
        self._engine, self._worker, self._sampling = engine, worker, sampling
        self.version = 0

    @property
    def device(self) -> str:
        return self._engine.device

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
            raise WinnowError("this sampler samples from the module that its learner trains")
        self.version = weights.version

    def _sample(self, requests: Sequence[Request]) -> Results:
        team, worker = self._worker.team, self._worker
        sizes = [request.n * request.params.max_tokens for request in requests]
        shares = balanced(sizes, team.rank.of)
        given = self._engine.number, self._sampling, self.version
        asked = [[requests[i] for i in share] for share in shares]
        team.tell(Worker.follow_sampling, *given, asked)
        finished = False
        try:
            with team.noticing():
                for place, group in worker.sample(*given, asked[0]):
                    yield shares[0][place], group
            finished = True
        finally:
            if not finished:  # the others are not waited for unless there is more to do
                team.later(lambda: team.everyone([]))
        found: list[list[tuple[int, Group]]] = team.everyone([])
        team.done()
        for share, own in zip(shares, found, strict=True):
            for place, group in own:
                yield share[place], group


class ShardedLearnerOfAll:
    """The learners of all processes, as one."""

    def __init__(self, engine: ShardedEngine, worker: Worker, version: int) -> None:
        self.version = version
        self._number, self._worker, self._team = engine.number, worker, worker.team

    def reference_logprobs(
        self, groups: Sequence[Group], asked: Sequence[Sequence[int]], temperature: float
    ) -> PerToken:
        given = self._number, groups, asked, temperature
        return self._team.run(self._worker, Worker.reference_logprobs, *given)

    def values(self, groups: Sequence[Group], asked: Sequence[Sequence[int]]) -> PerToken:
        return self._team.run(self._worker, Worker.values, self._number, groups, asked)

    def step(
        self,
        groups: Sequence[Group],
        terms: Sequence[Term],
        totals: Totals,
        temperature: float,
        auxiliary: AuxiliaryBatch | None = None,
    ) -> StepStats:
        given = self._number, groups, terms, totals, temperature, auxiliary
        done, self.version = self._team.run(self._worker, Worker.step, *given)
        return done

    def restart(self, weights: Weights) -> None:
        self._team.run(self._worker, Worker.restart, self._number, weights)

    def save(self, folder: Path) -> None:
        self._team.run(self._worker, Worker.save_learner, self._number, folder)

    def load(self, folder: Path) -> None:
        self.version = self._team.run(self._worker, Worker.load_learner, self._number, folder)

    def close(self) -> None:
        self._team.run(self._worker, Worker.close_learner, self._number)
