"""Accuracy on held-out or test prompts, sampled. Its samples are kept like all others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.graded import graded
from winnow.config.located import located_config, naming_places
from winnow.config.recipe import dumps, values_of
from winnow.config.schema import Config
from winnow.config.unread import unread
from winnow.config.validation import check_answers, refuse
from winnow.engines.base import Engine
from winnow.engines.devices import environment
from winnow.engines.factory import check_device, longest_of_evaluation, sampler_for, settled
from winnow.errors import UserError
from winnow.evaluation.kl import kl_to_start, measures_kl
from winnow.prompts.loading import clashes, load_held_out
from winnow.reporting.events import RunEnd, RunStart, SamplesScored
from winnow.reporting.metrics import KL, Evaluation, evaluation
from winnow.reporting.metrics_file import MetricsFile
from winnow.reporting.observer import Observers
from winnow.reporting.timing import Stopwatch, utc_now
from winnow.rewards.given import RewardGiven
from winnow.rollouts.context import Context
from winnow.rollouts.generate import evaluation_params, requests, sample
from winnow.rollouts.remarks import alike, cut_off
from winnow.rollouts.reward_errors import failures_of
from winnow.rollouts.rewards import reward_for
from winnow.rollouts.scoring import score
from winnow.storage.atomic import and_then
from winnow.storage.lock import FolderLock
from winnow.storage.paths import located, shown
from winnow.storage.run_folder import RunStore
from winnow.types import Group, Split


def evaluate(
    context: Context,
    *,
    step: int,
    split: Split = "eval",
    engine: Engine | None = None,
    algorithm: Algorithm | None = None,
    alone: bool = False,
) -> Evaluation:
    """Sample, score, store, measure and tell.

    Samples on the disk are not made again; of their scores only errors are asked for again.

    Args:
        split: `test` for the test prompts; `final` for a final model that is not the last step's.
        engine: Of the policy, where its KL to the start is asked for.
        algorithm: What is trained with, where a note should say what it does not use of the scores.
        alone: Whether it is all that the command does.

    Raises:
        UserError: it is, and every score was an error; the samples are kept.
    """
    config, store = context.config, context.store
    prompts = context.prompts.test if split == "test" else context.prompts.held_out
    watch = Stopwatch()
    with context.watch("evaluate"), watch("evaluate"):
        sampled = store.read_samples(split, step, prompts, config.reward.bound)
        if sampled is None:
            asked = requests(
                prompts,
                config.eval.samples,
                evaluation_params(config),
                seed=config.seed,
                # of a final model the same randomness as at its step: only weights differ
                split="test" if split == "test" else "eval",
                step=step,
            )
            sampled = sample(
                context.sampler,
                asked,
                config.sampling_model,
                lambda _, done, total: context.observers.progress("evaluate", done, total),
            )
            store.write_samples(split, step, sampled)
        groups = score(sampled, context.reward, config.reward.bound)
        if groups != sampled:
            store.write_samples(split, step, groups)
    context.observers.on_samples(SamplesScored(step, split, groups))
    kl = None if engine is None else _kl(context, engine, groups, step)
    result = evaluation(step, groups, round(watch.seconds["evaluate"], 3), split, kl)
    result = replace(result, time=utc_now())
    context.observers.on_evaluation(result)
    if algorithm is not None:
        context.once("graded", graded(groups, algorithm))
    if failed := failures_of(groups):
        if alone and result.errors == result.samples:
            remedy = f"fix it and evaluate again (the samples are kept in {shown(store.folder)})"
            raise UserError("reward", failed, remedy)
        context.observers.note(f"evaluation: {failed}")
    if alone and (cut := cut_off(groups, *longest_of_evaluation(config))) is not None:
        context.observers.note(cut)
    return result


def _kl(context: Context, engine: Engine, groups: Sequence[Group], step: int) -> KL | None:
    """KL to the start over the first of the prompts, which stay the same."""
    if not measures_kl(context.config, context.sampler):
        return None
    count = context.config.eval.kl_prompts
    with context.watch("kl"):
        context.observers.progress("kl", 0, 1)
        return kl_to_start(engine, groups[:count], step)


def run_evaluation(
    config: Config, *, out: Path, observers: Observers, reward: RewardGiven | None = None
) -> Evaluation:
    """Evaluate a config's held-out prompts; the samples go to a run folder of their own."""
    out, config = located(out, "out"), located_config(config)
    RunStore.refuse(out)
    with naming_places(config):
        return _run_evaluation(config, out, observers, reward)


def _run_evaluation(
    config: Config, out: Path, observers: Observers, reward: RewardGiven | None
) -> Evaluation:
    if not config.algorithm.made_in_python:
        config.algorithm.build()  # not needed here, but a mistake in it is one all the same
    refuse(unread(config))
    check_device(config)
    config = settled(config)
    prompts = load_held_out(config.prompts, config.eval, config.seed)
    check_answers(config, prompts.held_out)
    start = RunStart(out, "evaluate", values_of(config))
    first = next(iter(prompts.held_out), None)
    with (
        FolderLock("out") as lock,
        reward_for(config, reward, first, folder=out) as verifier,
        observers.running(start),
        and_then(out, "run it again with another --out"),
    ):
        longest = longest_of_evaluation(config)
        sampler = sampler_for(config, prompts.held_out, observers, *longest, folder=out)
        if (said := alike(config.eval.samples, evaluation_params(config), "eval")) is not None:
            observers.note(said)
        for note in clashes(prompts.held_out):
            observers.note(note)
        told = environment(sampler.device)
        store = RunStore.create(out, dumps(config), told, checkpoints=False, lock=lock)
        observers.records = [MetricsFile(store.append)]
        context = Context(config, prompts, sampler, verifier, store, observers)
        with closing(sampler):
            result = evaluate(context, step=0, alone=True)
        observers.done(RunEnd(out, "done"))
    return result
