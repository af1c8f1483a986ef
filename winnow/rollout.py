"""One set of draws, from prompts to weighed groups on the disk, and the order they are trained in.

prompts -> draw -> score -> select -> weigh -> store
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from winnow.advantages import weigh
from winnow.algorithms import Algorithm
from winnow.engines.base import Request, Sampler, SamplingParams
from winnow.errors import UserError
from winnow.prompts import PromptSet
from winnow.rewards.base import Reward
from winnow.selection import select
from winnow.store import RunStore
from winnow.types import Group, Origin, Prompt, Split

_PATIENCE = 3
"""Steps in a row with more verifier errors than verdicts before a run stops."""

Progress = Callable[[str, int, int], None]
"""(stage, done, of how many)."""


@dataclass
class Stopwatch:
    """Seconds spent in each stage since the last reading."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def read(self, stages: Sequence[str]) -> dict[str, float]:
        """The seconds of these stages, 0 where none ran, and start anew."""
        seconds, self.seconds = self.seconds, {}
        return {stage: seconds.get(stage, 0.0) for stage in stages}


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts and on nothing else."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def draw(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    *,
    n: int,
    params: SamplingParams,
    model: str,
    seed: int,
    split: Split,
    step: int,
    progress: Progress,
) -> list[Group]:
    """n draws of each prompt from a model of that name, in the order of the prompts."""
    requests = [
        Request(prompt, n, derive_seed(seed, split, step, place), params, step)
        for place, prompt in enumerate(prompts)
    ]
    origin = Origin(model, params.temperature, params.truncated)
    groups: dict[int, Group] = {}
    progress("draw", 0, len(prompts))
    for place, group in sampler.sample(requests):
        groups[place] = group.with_(origin=origin)
        progress("draw", len(groups), len(prompts))
    return [groups[place] for place in range(len(prompts))]


def score(groups: Sequence[Group], reward: Reward, right_at: float) -> list[Group]:
    """The groups with a score for each draw; draws that have a number already keep it."""
    waiting = [
        (place, number)
        for place, group in enumerate(groups)
        for number in range(len(group.draws))
        if not group.scores or group.scores[number].error is not None
    ]
    items = [(groups[place].prompt, groups[place].draws[number].text) for place, number in waiting]
    said = dict(zip(waiting, reward.score(items), strict=True))
    return [
        group.with_(
            right_at=right_at,
            scores=tuple(
                said[place, number] if (place, number) in said else group.scores[number]
                for number in range(len(group.draws))
            ),
        )
        for place, group in enumerate(groups)
    ]


class Rollout:
    """Makes the weighed groups of a step, or finds them on the disk where they were made before."""

    stages = ("draw", "score", "select", "store")

    def __init__(
        self,
        *,
        sampler: Callable[[], Sampler],
        reward: Reward,
        algorithm: Algorithm,
        prompts: PromptSet,
        prompts_per_step: int,
        samples_per_prompt: int,
        params: SamplingParams,
        model: str,
        right_at: float,
        seed: int,
        store: RunStore,
        watch: Stopwatch,
        progress: Progress,
    ) -> None:
        self._sampler, self._reward, self._algorithm = sampler, reward, algorithm
        self._prompts, self._prompts_per_step = prompts, prompts_per_step
        self._samples_per_prompt, self._params, self._model = samples_per_prompt, params, model
        self._right_at, self._seed = right_at, seed
        self._store, self._watch, self._progress = store, watch, progress
        self._bad_steps: list[int] = []

    def make(self, step: int) -> list[Group]:
        """The groups of a step, weighed; every draw is on the disk when this returns."""
        prompts = self._prompts.take(step - 1, self._prompts_per_step, self._seed)
        with self._watch("draw"):
            groups = self._store.read_draws("train", step, prompts, self._right_at)
            found = groups is not None
            if groups is None:
                groups = draw(
                    self._sampler(),
                    prompts,
                    n=self._samples_per_prompt,
                    params=self._params,
                    model=self._model,
                    seed=self._seed,
                    split="train",
                    step=step,
                    progress=self._progress,
                )
                self._store.write_draws("train", step, groups)  # a kill while scoring loses none
        with self._watch("score"):
            self._progress("score", 0, 1)
            scored = score(groups, self._reward, self._right_at)
        with self._watch("select"):
            rng = np.random.default_rng(derive_seed(self._seed, "select", step))
            chosen = [select(group, self._algorithm.select, rng) for group in scored]
            weighed = weigh(chosen, self._algorithm.advantage, self._algorithm.reward_scale)
        with self._watch("store"):
            if weighed != groups:
                # A verdict has changed: from here on the policy is another than the one that drew.
                if found and groups[0].scores and self._algorithm.draws == "every-step":
                    self._store.set_aside(step)
                self._store.write_draws("train", step, weighed)
        self._check_verifier(step, weighed)
        return weighed

    def release(self) -> None:
        """No more draws will be made: let go of the sampler, which may be a model of its own."""
        self._sampler = _released

    def _check_verifier(self, step: int, groups: Sequence[Group]) -> None:
        """One error never stops a run; a verifier that mostly fails, three steps running, does.

        Raises:
            UserError: naming the last error.
        """
        scores = [score for group in groups for score in group.scores]
        errors = [score.error for score in scores if score.error is not None]
        self._bad_steps = [*self._bad_steps, step] if 2 * len(errors) > len(scores) else []
        if len(self._bad_steps) >= _PATIENCE:
            first, last = self._bad_steps[0], self._bad_steps[-1]
            raise UserError(
                f"reward: more than half of the verdicts of steps {first} to {last} were errors, "
                f"the last of them: {errors[-1]}; mend the verifier and go on with "
                f"winnow train --resume {self._store.folder}"
            )


def _released() -> Sampler:
    raise RuntimeError("all draws of this run were made before")


class Source(Protocol):
    """What the loop trains on, step by step."""

    @property
    def steps(self) -> int:
        """How many there are."""
        ...

    @property
    def passes(self) -> int:
        """Passes over the groups of a step, within the step."""
        ...

    def groups(self, step: int) -> tuple[list[Group], bool]:
        """Groups of a step (from 1), and whether it is the first pass over their draws."""
        ...


@dataclass(frozen=True)
class EveryStep:
    """New draws for every step, from the policy as it is then."""

    rollout: Rollout
    steps: int
    passes: int = 1

    def groups(self, step: int) -> tuple[list[Group], bool]:
        return self.rollout.make(step), True


class Once:
    """All draws before the first update, then passes over them, each in its own order: RFT."""

    passes = 1

    def __init__(self, rollout: Rollout, steps: int, epochs: int, seed: int) -> None:
        self._rollout, self._rounds, self._seed = rollout, steps, seed
        self.steps = steps * epochs
        self._all: list[Group] = []

    def groups(self, step: int) -> tuple[list[Group], bool]:
        if not self._all:
            self._all = [
                g for number in range(self._rounds) for g in self._rollout.make(number + 1)
            ]
            self._rollout.release()
        epoch, place = divmod(step - 1, self._rounds)
        order = np.random.default_rng(derive_seed(self._seed, "pass", epoch)).permutation(
            len(self._all)
        )
        share = len(self._all) // self._rounds
        chosen = order[place * share : (place + 1) * share].tolist()
        return [self._all[i] for i in chosen], epoch == 0
