"""The updates from one set of samples: mini-batches of prompts, in several passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from winnow.algorithms.objective import learned_from, totals
from winnow.config.schema import Config
from winnow.errors import WinnowError
from winnow.reporting.alarms.scores import scores_of
from winnow.reporting.alarms.signal import without_signal
from winnow.rollouts.generate import random_stream
from winnow.rollouts.remarks import no_update
from winnow.storage.rollouts import rollout_file
from winnow.training.context import Run
from winnow.types import Batch, Group, StepStats

Updates = list[tuple[Sequence[int], StepStats]]
"""For each update the positions of its groups, and its statistics."""


def update(run: Run, step: int, batch: Batch) -> tuple[Updates, int]:
    """Make the updates of a step; return them, and how many mini-batches had nothing to learn from.

    Raises:
        WinnowError: loss or gradient were not finite for two updates running.
    """
    updates: Updates = []
    empty, begun = 0, run.learner.version
    terms, config, observers = (
        run.phase.algorithm.objective,
        run.phase.config,
        run.context.observers,
    )
    passes = run.source.passes
    total = passes * -(-len(batch.positions) // config.prompts_per_update)
    for number, positions in enumerate(minibatches(batch.positions, config, passes, step)):
        observers.progress("update", number, total)
        groups = [batch.groups[i] for i in positions]
        if not any(learned_from(group, terms) for group in groups):
            empty += 1
            continue
        auxiliary = None
        if run.anchor is not None:
            most, version = config.prompts_per_update, run.learner.version
            auxiliary = run.anchor.auxiliary_batch(len(groups), most, config.seed, version)
        heat = config.sampling.temperature
        own = _are_own(run, begun)
        stats = run.learner.step(groups, terms, totals(groups), heat, auxiliary)
        if not own:
            stats.gap_sum = stats.gap_kl_sum = stats.gap_tv_sum = 0.0
            stats.gap_tokens = 0
        updates.append((positions, stats))
        run.unhealthy = 0 if stats.applied else run.unhealthy + 1
        if not stats.applied:
            _skipped(run, step, number, groups, stats)
    if empty == total:
        _no_update(run, step, batch)
    return updates, empty


def _are_own(run: Run, begun: int) -> bool:
    """Whether samples that name the learner's version were sampled by its weights.

    The versions in a file are another run's, those of `samples_from` another model's, and
    `rounds.restart` puts the start in the place of the weights that sampled.

    Args:
        begun: The policy's version as the step's updates began.
    """
    phase = run.phase
    restarted = phase.config.rounds.restart and run.learner.version == begun
    return phase.file is None and phase.sampled_from == phase.config.model and not restarted


def _no_update(run: Run, step: int, batch: Batch) -> None:
    """Say why there is none and what to try, unless an alarm will.

    Of later steps only how many, as the count doubles, until an alarm says it.
    """
    run.empty_steps += 1
    count, context, alarms = run.empty_steps, run.context, run.phase.config.alarms
    if count == 1:
        told = step == 1 and batch.fresh and "no_signal" in alarms.thresholds
        if told and without_signal(scores_of(batch.groups)):
            return
        text = no_update(
            batch.groups, run.phase.config, run.phase.algorithm, _samples_of(run, step)
        )
        context.observers.note(f"step {step}: {text}")
    elif count & (count - 1) == 0 and count < alarms.thresholds.get("nothing_kept", math.inf):
        context.observers.note(f"step {step}: no update again, {count} steps without one so far")


def _samples_of(run: Run, step: int) -> Path:
    """The file of a step's samples, or the folder of those of several steps."""
    if run.phase.file is not None:
        return Path(run.phase.file.path)
    path = rollout_file(run.context.store.folder, "train", step)
    return path if path.is_file() and run.phase.samples_each_step else path.parent


def minibatches(
    places: Sequence[int], config: Config, passes: int, step: int
) -> Iterator[Sequence[int]]:
    """Positions of the groups of each update, for several passes, each in another order."""
    for epoch in range(passes):
        turn = random_stream(config.seed, "minibatches", step, epoch).permutation(len(places))
        order = [places[i] for i in turn.tolist()]
        for start in range(0, len(order), config.prompts_per_update):
            yield order[start : start + config.prompts_per_update]


def _skipped(run: Run, step: int, number: int, batch: Sequence[Group], stats: StepStats) -> None:
    """Write a batch whose loss or gradient was not finite; stop at the second in a row."""
    path = run.context.store.keep_skipped(step, number, batch)
    what = f"loss {stats.loss:g}, gradient norm {stats.grad_norm:g}"
    if run.unhealthy >= 2:
        cause = "try a lower optimizer.lr, or dtype = 'float32'"
        if run.learner.version == 0:
            cause = (
                "the policy was not updated before, so optimizer.lr is not the cause: look at the "
                "rewards and log-probs in the batches, or try dtype = 'float32'"
            )
        raise WinnowError(
            f"step {step}: not finite for the second update running ({what}); the batches are in "
            f"{path.parent}; {cause}"
        )
    run.context.observers.note(f"step {step}: {what}: update skipped, its batch is in {path}")
