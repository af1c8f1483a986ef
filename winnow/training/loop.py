"""The training loop. It reads attributes of algorithms and engines, never their names.

source (sample, score, select, advantages) -> mini-batches -> updates -> publish -> measure
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from winnow.engines.base import START
from winnow.errors import NoServer
from winnow.evaluation.held_out import evaluate
from winnow.reporting.events import CheckpointSaved, SamplesScored, StepEnd
from winnow.reporting.memory import peak_host_gib
from winnow.reporting.metrics import Metrics, step_metrics
from winnow.reporting.timing import utc_now
from winnow.rollouts.collisions import with_collisions
from winnow.rollouts.diversity import with_diversity
from winnow.rollouts.rollout import Rollout
from winnow.training.budget import Spending
from winnow.training.context import UNHEALTHY, Run
from winnow.training.early_stopping import BestSoFar, best_of_evaluations
from winnow.training.owed import OWED, evaluated, held_out_accuracy, say_how_to_resume
from winnow.training.updates import update
from winnow.types import Batch

STAGES = (*Rollout.stages, "update", "evaluate", "kl", "checkpoint")


def train(run: Run) -> None:
    """Run the remaining steps, or fewer with early stopping.

    Raises:
        UserError: the verifier mostly failed, three steps running; or a callback raised.
        StoppedByAlarm: an alarm of `alarms.stop` was raised.
        NoServer: nothing is left that samples; the last step that was done is saved.
        WinnowError: loss or gradient were not finite, two updates running.
    """
    config, context = run.phase.config, run.context
    watch, observers, patience = context.watch, context.observers, config.eval.patience
    held_out = context.prompts.held_out
    run.publish()
    if run.steps_done == 0 and held_out:
        held_out_accuracy(run, 0)
        if patience:
            if context.prompts.test:
                evaluate(context, step=0, split="test")
            checkpoint(run, 0)
        observers.check()
        watch.read(STAGES)
    spending = Spending(config.budget, context.store.lines("metrics.jsonl"))
    enough = spending.over or 0 < patience <= best_so_far(run).stale  # a run that had stopped
    steps = () if enough else range(run.steps_done + 1, run.source.last + 1)
    for step in steps:
        with saving(run, step - 1):
            batch = run.source.groups(step)
        if batch.fresh:
            own = len(batch.groups) - batch.merged  # those of earlier rounds were told of
            observers.on_samples(SamplesScored(step, "train", batch.groups[:own]))
        with watch("update"):
            if config.rounds.restart:
                run.learner.restart(START)
            updates, empty = update(run, step, batch)
        run.publish()
        last = spending.step(batch, updates, watch.seconds) or step == run.source.last
        due = last or (config.eval.every > 0 and step % config.eval.every == 0)
        result = held_out_accuracy(run, step) if held_out and due else None
        found = best_so_far(run) if patience else BestSoFar()
        enough = patience > 0 and found.stale >= patience
        metrics = step_metrics(
            step=step,
            phase=run.number,
            policy_version=run.learner.version,
            batch=_measured(run, batch),
            updates=updates,
            empty_minibatches=empty,
            seconds=watch.read(STAGES),
            evaluation=result,
        )
        offline = not run.phase.samples_each_step
        observers.on_step(StepEnd(step, {**metrics, **_memory(run), "time": utc_now()}, offline))
        save = last or enough or found.step == step or step % config.checkpoint.every == 0
        if save or observers.ending or run.lost:  # the step is not to be lost
            checkpoint(run, step)
        observers.check()
        if run.lost:
            raise run.lost
        if enough or last:
            break
    if said := spending.told():
        observers.note(said)
    if patience:
        observers.note(_outcome(best_so_far(run), patience))


def _measured(run: Run, batch: Batch) -> Batch:
    """The batch with what is known of the sampler: by its samples, if they are not of a file."""
    batch = with_diversity(batch)
    batch = replace(batch, measures={**batch.measures, **run.context.sampler.measures()})
    if run.phase.file is not None:
        return batch
    return with_collisions(batch, true_logprobs=run.context.sampler.capabilities.true_logprobs)


def _memory(run: Run) -> Metrics:
    return {"memory_host_gib": peak_host_gib(), "memory_device_gib": run.engine.peak_memory()}


def best_so_far(run: Run) -> BestSoFar:
    """The best evaluation of a run, and how many have come since."""
    return best_of_evaluations(run.context.store.lines("evals.jsonl"))


def checkpoint(run: Run, step: int) -> None:
    """Save weights, optimizer and what the next step depends on."""
    config, context = run.phase.config, run.context
    with context.watch("checkpoint"):
        context.observers.progress("checkpoint", 0, 1)
        state = {"policy_version": run.learner.version, "source": dict(run.source.state())}
        state |= evaluated(context.store) | ({OWED: True} if run.lost else {})
        state |= {UNHEALTHY: run.unhealthy} if run.unhealthy else {}
        best = best_so_far(run).step if config.eval.patience else None
        protect = {*run.protect, *(() if best is None else (best,))}
        keep = config.checkpoint.keep
        folder = context.store.checkpoint(step, run.learner.save, state, keep, protect)
    context.observers.on_checkpoint(CheckpointSaved(step, folder))


@contextmanager
def saving(run: Run, step: int) -> Iterator[None]:
    """In the block, if nothing is left that samples, the last step that was done is saved."""
    try:
        yield
    except NoServer as error:
        if step > 0 and step not in dict(run.context.store.checkpoints()):
            checkpoint(run, step)
        say_how_to_resume(run, error)
        raise


def _outcome(found: BestSoFar, patience: int) -> str:
    why = f"no better for {found.stale} evaluations" if found.stale >= patience else "the last step"
    if found.step is None:
        return f"stopped: {why}; no evaluation has a score, so none is the best"
    return (
        f"stopped: {why}; step {found.step} is chosen, the best of {found.number} evaluations "
        f"on the same prompts, mean reward {found.reward:.3f}"
    )
