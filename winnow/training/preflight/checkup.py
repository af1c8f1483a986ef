"""The check-up of a recipe, a check at a time. Nothing is written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from winnow.config.located import located_config, naming_places
from winnow.config.phases import Phase
from winnow.config.schema import Config
from winnow.engines.base import Engine
from winnow.engines.factory import Place, engine_for, policy_sampler, settled
from winnow.errors import WinnowError, number_of
from winnow.reporting.observer import Progress
from winnow.rollouts.rewards import reward_for
from winnow.rollouts.scoring import score
from winnow.training.forecast import work
from winnow.training.needs import needs
from winnow.training.preflight.check import Check, failing, guarded, passed, skipped
from winnow.training.preflight.forecast import time_check, times
from winnow.training.preflight.learned import Step, agreement, some, unmoved, zero_step
from winnow.training.preflight.machine import disk_check, machine, memory_check, room
from winnow.training.preflight.model import conventions_checks
from winnow.training.preflight.prompts import data_checks, room_check
from winnow.training.preflight.sampled import (
    First,
    endings,
    learned_of,
    sampled,
    scores,
    signal,
)
from winnow.training.preflight.serving import serving
from winnow.training.preflight.verifier import asks_a_judge, verifier_check
from winnow.training.preview import no_bytecode
from winnow.training.setup import Plan, plan
from winnow.training.summary import left_out
from winnow.types import Prompt

_LEFT_OUT = "left out: they need what failed above"
_OF_A_FILE = 256
"""Groups of a file of samples that are looked at."""


def checkup(config: Config, progress: Progress, out: Path) -> Iterator[Check]:
    """Check machine, recipe, model, prompts, verifier, a first sample and a step, in turn.

    Where something fails without which others cannot be looked at, the last check says so.

    Args:
        out: Where the run's folder would be made.
    """
    progress("look at the machine", 0, 1)
    fine = True
    for check in machine(config.threads or 0):
        yield check
        fine = fine and check.status != "failed"
    if not fine:
        yield skipped("other checks", _LEFT_OUT)
        return
    try:
        config = located_config(config)
        with naming_places(config), no_bytecode():
            if config.engine.sampler == "openai":
                yield from serving(config, progress)
                return
            checked = plan(config)
            checked = replace(checked, config=settled(checked.config))
            yield passed("recipe", _recipe(checked))
            yield from _of_plan(checked, progress, out)
    except WinnowError as error:
        yield failing("recipe", error)
        yield skipped("other checks", _LEFT_OUT)


def _recipe(checked: Plan) -> str:
    phases, prompts = checked.phases, checked.prompts
    sets = f"{len(prompts.train)} training{left_out(prompts)} and {len(prompts.held_out)} held-out"
    return f"settings fit each other; {number_of(phases[-1].last, 'step')}; {sets} prompts"


def _of_plan(checked: Plan, progress: Progress, out: Path) -> Iterator[Check]:
    config, prompts = checked.config, checked.prompts
    try:
        progress("load model", 0, 1)
        begun = time.monotonic()
        engine = engine_for(config)
        free, size = room(engine.device), engine.size()
        longest = len(engine.encode(prompts.every[0])) if prompts.every else 0
        need = needs(size, config, checked.phases, prompts, longest)
        yield memory_check(need.memory, free, engine.device)
        yield disk_check(need.disk, out)
        engine.load()
        yield passed("model", _model(config, engine, time.monotonic() - begun))
    except WinnowError as error:
        yield failing("model", error)
        yield skipped("other checks", _LEFT_OUT)
        return
    told = engine.conventions()
    yield from guarded("model", lambda: conventions_checks(told, config, prompts.every))
    most = max(phase.config.sampling.max_tokens for phase in checked.phases)
    fits = list(guarded("context", lambda: [room_check(engine, config, prompts, most)]))
    yield from fits
    yield from data_checks(prompts)
    if any(check.status == "failed" for check in fits):
        yield skipped("other checks", _LEFT_OUT)
    else:
        yield from guarded("verifier", lambda: _scored(checked, engine, progress))


def _model(config: Config, engine: Engine, seconds: float) -> str:
    size = engine.size()
    trained = "" if size.trained == size.parameters else f", {size.trained:,} of them trained"
    return (
        f"{config.model}: {size.parameters:,} parameters{trained}, {config.dtype}, on "
        f"{engine.device}; loaded in {seconds:.1f} s"
    )


def _scored(checked: Plan, engine: Engine, progress: Progress) -> Iterator[Check]:
    """What needs a verifier: tried on answers, then on a first sample, which is learned from."""
    config, prompts, phase = checked.config, checked.prompts, checked.phases[0]
    trained = _first_prompts(checked)
    with reward_for(config, None, next(iter(prompts.every), None)) as reward:
        progress("score", 0, 1)
        yield verifier_check(config, reward, prompts.every)
        if phase.file is not None:
            yield _of_file(phase)
        if not trained:
            yield skipped(
                "first sample", "there are no prompts to sample: the samples are a file's"
            )
            return
        with TemporaryDirectory(prefix="winnow-doctor-") as logs:
            place = Place(Path(logs))
            ratio = "old" in phase.algorithm.needs
            with closing(policy_sampler(config, engine, ratio=ratio, place=place)) as sampler:
                sampler.load(engine.publish(0))
                first = sampled(phase.config, sampler, trained, progress)
        progress("score", 0, 1)
        if asks_a_judge(config):
            yield skipped("signal", "each score is a question to a server, so none is asked here")
        else:
            groups = score(first.groups, reward, config.reward.bound)
            first = replace(first, groups=groups)
            yield scores(first)
            if phase.file is None:
                yield signal(first, phase)
        yield endings(first, phase.config)
    yield from guarded("zero step", lambda: _learned(checked, engine, first, progress))


def _first_prompts(checked: Plan) -> list[Prompt]:
    """Those that a run samples first, each once; of a file, held-out ones."""
    prompts, config = checked.prompts, checked.config
    if not prompts.train:
        return list(prompts.held_out)
    count = min(len(prompts.train), max(16, checked.phases[0].config.prompts_per_step))
    first = prompts.between(0, count, config.seed)
    return list({prompt.id: prompt for prompt in first}.values())


def _of_file(phase: Phase) -> Check:
    assert phase.file is not None
    table = phase.file.table
    groups = [table.group(number) for number in range(min(len(table), _OF_A_FILE))]
    learned = sum(count > 0 for count in learned_of(groups, phase))
    told = (
        f"of {number_of(len(groups), 'group')} of {phase.file.path} {learned} have something to "
        "learn from"
    )
    if not learned:
        remedy = "sample again, with more samples a prompt or easier prompts"
        return Check("signal", "warned", told, remedy)
    return passed("signal", told)


def _learned(checked: Plan, engine: Engine, first: First, progress: Progress) -> Iterable[Check]:
    """Log-probs of learner and sampler, a step that must move nothing, and the time."""
    config, phase = checked.config, checked.phases[0]
    progress("update", 0, 1)
    heat = phase.config.sampling.temperature or 1.0
    groups = some(engine, first.groups, heat, phase.config.prompts_per_update)
    step = zero_step(engine, phase, groups)
    ratio, copied = "old" in phase.algorithm.needs, config.sampling.dtype
    yield agreement(step, config.learner_rounds_to, ratio=ratio, copied=copied)
    yield unmoved(step)
    prompts = checked.prompts
    need = work(config, checked.phases, len(prompts.held_out), len(prompts.test))
    learned = _counts(first, phase, step)
    yield time_check(need, times(need, phase, first, learned, step), first, step.dealt)


def _counts(first: First, phase: Phase, step: Step) -> Sequence[int]:
    return [] if step.dealt else learned_of(first.groups, phase)
