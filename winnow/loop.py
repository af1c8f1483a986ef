"""The loop. It reads what an algorithm and its engines say of themselves, never their names.

source (draw, score, select, weigh) -> mini-batches -> updates -> publish -> measure
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from winnow.algorithms import Algorithm
from winnow.config import Config
from winnow.engines.base import Learner, Sampler
from winnow.errors import WinnowError
from winnow.evaluation import evaluate
from winnow.metrics import Evaluation, step_metrics
from winnow.reporter import Reporter
from winnow.rewards.base import Reward
from winnow.rollout import Rollout, Source, Stopwatch, derive_seed
from winnow.store import RunStore
from winnow.types import Group, Prompt, StepStats

STAGES = (*Rollout.stages, "update", "evaluate", "checkpoint")


@dataclass
class Run:
    """Everything the loop works with."""

    config: Config
    algorithm: Algorithm
    sampler: Sampler
    learner: Learner
    source: Source
    reward: Reward
    held_out: Sequence[Prompt]
    store: RunStore
    watch: Stopwatch
    reporter: Reporter
    steps_done: int = 0
    unhealthy: int = 0
    """Updates running whose loss or gradient was not finite."""


def train(run: Run) -> None:
    """Run the remaining steps.

    Raises:
        UserError: the verifier fails most of the time, three steps running.
        WinnowError: loss or gradient were not finite twice running.
    """
    config, watch, store = run.config, run.watch, run.store

    def held_out_accuracy(step: int) -> Evaluation:
        with watch("evaluate"):
            return evaluate(
                config, run.sampler, run.held_out, run.reward, store, run.reporter, step=step
            )

    run.sampler.load(run.learner.publish())
    if run.steps_done == 0 and run.held_out:
        held_out_accuracy(0)
        watch.read(STAGES)
    for step in range(run.steps_done + 1, run.source.steps + 1):
        groups, fresh = run.source.groups(step)
        with watch("update"):
            updates, empty = update(run, step, groups)
        run.sampler.load(run.learner.publish())
        last = step == run.source.steps
        due = last or (config.eval.every > 0 and step % config.eval.every == 0)
        result = held_out_accuracy(step) if run.held_out and due else None
        metrics = step_metrics(
            step=step,
            policy_version=run.learner.version,
            groups=groups,
            fresh=fresh,
            updates=updates,
            empty_minibatches=empty,
            seconds=watch.read(STAGES),
            evaluation=result,
        )
        store.append("metrics.jsonl", metrics)
        run.reporter.step(metrics)
        if last or step % config.checkpoint.every == 0:
            with watch("checkpoint"):
                run.reporter.progress("checkpoint", 0, 1)
                state = {"policy_version": run.learner.version}
                store.checkpoint(step, run.learner.save, state, config.checkpoint.keep)


Updates = list[tuple[Sequence[int], StepStats]]


def update(run: Run, step: int, groups: Sequence[Group]) -> tuple[Updates, int]:
    """The updates that one set of draws gives, and how many mini-batches had nothing to learn from.

    Raises:
        WinnowError: loss or gradient were not finite for two updates running.
    """
    updates: Updates = []
    empty = 0
    batches = list(minibatches(len(groups), run.config, run.source.passes, step))
    for number, positions in enumerate(batches):
        run.reporter.progress("update", number, len(batches))
        batch = [groups[i] for i in positions]
        if not any(weight != 0 for group in batch for weight in group.weights):
            empty += 1
            continue
        stats = run.learner.step(batch, run.algorithm.terms, run.config.sampling.temperature)
        updates.append((positions, stats))
        run.unhealthy = 0 if stats.applied else run.unhealthy + 1
        if not stats.applied:
            _skipped(run, step, number, batch, stats)
    if empty == len(batches):
        run.reporter.note(f"step {step}: nothing survived that could be learned from, no update")
    return updates, empty


def minibatches(groups: int, config: Config, passes: int, step: int) -> Iterator[Sequence[int]]:
    """Positions of the groups of each update: cut from the prompts drawn, before selection.

    The groups of a step are passed over so many times, each time in another order.
    """
    for epoch in range(passes):
        rng = np.random.default_rng(derive_seed(config.seed, "minibatches", step, epoch))
        order = rng.permutation(groups).tolist()
        for start in range(0, groups, config.minibatch_prompts):
            yield order[start : start + config.minibatch_prompts]


def _skipped(run: Run, step: int, number: int, batch: Sequence[Group], stats: StepStats) -> None:
    """Keep a batch whose loss or gradient was not finite; stop the second time running."""
    path = run.store.keep_skipped(step, number, batch)
    what = f"loss {stats.loss:g}, gradient norm {stats.grad_norm:g}"
    if run.unhealthy >= 2:
        raise WinnowError(
            f"step {step}: not finite for the second update running ({what}); the batches are in "
            f"{path.parent}; try a lower optimiser.lr, or dtype = 'float32'"
        )
    run.reporter.note(f"step {step}: {what}: update skipped, its batch is in {path}")
