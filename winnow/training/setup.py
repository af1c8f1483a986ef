"""Sets up a run from its config: checks everything, cheap things first, then loads the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from winnow.algorithms.algorithm import Algorithm
from winnow.config.phases import Phase, cautions_of, naming, phases_of, resolved
from winnow.config.recipe import values_of
from winnow.config.reference import names_model
from winnow.config.schema import Config
from winnow.config.schema.anchor import AnchorConfig
from winnow.config.schema.budget import KINDS
from winnow.config.unread import unread
from winnow.config.validation import check_answers, refuse
from winnow.engines.base import PHASE, START, Engine
from winnow.engines.devices import environment
from winnow.engines.factory import (
    Place,
    check_device,
    check_model,
    check_prompts,
    engine_beside,
    engine_for,
    longest_of_evaluation,
    policy_sampler,
)
from winnow.errors import UserError
from winnow.evaluation.kl import without_kl
from winnow.prompts.loading import PromptSet, clashes, load_held_out, load_prompts
from winnow.reporting.observer import Observers
from winnow.reporting.trackers.factory import check_trackers
from winnow.rewards.base import AnyReward
from winnow.rollouts.context import Context
from winnow.rollouts.generate import evaluation_params
from winnow.rollouts.inputs import INPUTS, inputs_of, text_of
from winnow.rollouts.remarks import alike
from winnow.storage.lock import FolderLock
from winnow.storage.run_folder import RunStore
from winnow.training.file_source import open_file
from winnow.training.needs import Needs, needs
from winnow.training.phase_runner import PhaseRunner
from winnow.training.preflight.machine import room
from winnow.training.preflight.quick import enough, suited
from winnow.training.resuming import ResumePoint
from winnow.training.sft_mix import Anchor, open_anchor
from winnow.types import Prompt


@dataclass(frozen=True)
class Plan:
    """A run that was checked as far as possible without loading a model.

    Attributes:
        anchors: For each phase the supervised examples that it mixes in.
    """

    config: Config
    phases: tuple[Phase, ...]
    prompts: PromptSet
    anchors: tuple[Anchor | None, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The config as plain values, every cell of its algorithms written out."""
        row = None if self.config.phases else self.phases[0].algorithm
        return values_of(resolved(self.config, self.phases), row)

    @property
    def inputs(self) -> dict[str, Any]:
        """What is recorded of settings and data, to know them again when the run is resumed."""
        examples = [group.prompt for one in self.anchors if one for group in one.groups]
        prompts = {
            "training prompts": self.prompts.train,
            "held-out prompts": self.prompts.held_out,
            "test prompts": self.prompts.test,
            "anchor's examples": examples,
        }
        files = [part.path for one in self.phases if one.file for part in one.file.table.parts]
        return inputs_of(self.values, prompts, files)

    @property
    def extends(self) -> set[str]:
        """Settings that leave the steps before as they are where they are raised."""
        found = {*(f"budget.{kind}" for kind in KINDS), "eval.patience"}
        last = self.phases[-1]
        once = self.config.cycles == 1
        if last.samples_each_step and last.config.optimizer.schedule == "constant" and once:
            found.add(f"{last.name}.steps".lstrip("."))
        return found


def plan(
    config: Config,
    algorithm: Algorithm | None = None,
    *,
    resumed: bool = False,
    known: PromptSet | None = None,
) -> Plan:
    """Check a config and read its prompts.

    Args:
        known: Its prompts, where another config with the same settings of them was planned.
        resumed: The config is that of a run that was begun; an earlier version may have let
            settings pass that nothing reads.

    Raises:
        UserError: whatever is wrong with it, the first thing found.
    """
    phases = phases_of(config, algorithm, open_file)
    for phase in () if resumed else phases:
        with naming(phase.name):
            refuse(unread(phase.config, training=True))
    check_trackers(config.trackers)
    check_device(config)
    kind = config.engine.learner
    if config.samples_from is not None:
        check_model(config.samples_from, "samples_from", kind=kind)
    check_model(config.model, "model", kind=kind)
    anchors: list[Anchor | None] = []
    opened: dict[AnchorConfig, Anchor | None] = {}  # phases mostly share one
    for phase in phases:
        with naming(phase.name):
            anchor = phase.config.anchor
            if anchor not in opened:
                opened[anchor] = open_anchor(anchor, config.prompts, config.seed)
            anchors.append(opened[anchor])
            _check_reference(phase)
    if known is not None:
        prompts = known
    elif any(phase.file is None for phase in phases):
        prompts = load_prompts(config.prompts, config.eval, config.seed)
    else:
        prompts = _held_out(config, phases)
    for phase in phases:
        with naming(phase.name):
            _check_apart(phase, prompts.held_out)
    check_answers(config, prompts.every)
    return Plan(config, phases, prompts, tuple(anchors))


def _check_reference(phase: Phase) -> None:
    """Raise a `UserError` if a phase's reference is not there, before any phase is run."""
    what = phase.config.reference
    if phase.refers and names_model(what):
        kind = phase.config.engine.learner
        check_model(what, "reference", [START, PHASE, "ema(0.99)"], kind=kind)


def _held_out(config: Config, phases: Sequence[Phase]) -> PromptSet:
    if config.eval.size == 0:
        return PromptSet((), ())
    trained_on: set[str] = set()
    if config.eval.patience and config.eval.test_size != 0:
        trained_on.update(*(phase.file.prompts() for phase in phases if phase.file is not None))
    return load_held_out(config.prompts, config.eval, config.seed, trained_on)


def _check_apart(phase: Phase, held_out: tuple[Prompt, ...]) -> None:
    """Raise a `UserError` if a phase's file has samples of a held-out prompt."""
    if phase.file is None:
        return
    excluded = {prompt.text for prompt in held_out}
    for text in phase.file.prompts():
        if text in excluded:
            problem = f"{phase.file.path} has samples of a held-out prompt ({text[-60:]!r})"
            remedy = "sample with the same prompts, eval and seed settings, or set eval.size = 0"
            raise UserError("samples_file", problem, remedy)


def assemble(
    plan: Plan,
    reward: AnyReward,
    observers: Observers,
    *,
    out: Path,
    lock: FolderLock,
    point: ResumePoint | None = None,
) -> PhaseRunner:
    """Load the model and set up what all phases of a run share.

    Args:
        lock: Held for a run that is resumed; else taken when its folder is made.
        point: Where a run is resumed; ``None``: it is new.

    Raises:
        UserError: no such device, a prompt longer than the model's context, a model of another
            vocabulary, an `out` that exists.
    """
    config, store = plan.config, RunStore(out)
    found = point.found if point else None
    for note in point.notes if point else ():
        observers.note(note)
    observers.progress("load model", 0, 1)
    engine = engine_for(config, checkpoint=found[0] if found else None, folder=out)
    free = room(engine.device)
    longest = max(phase.config.sampling.max_tokens for phase in plan.phases)
    check_prompts(engine, plan.prompts.train, longest)
    setting, longest = longest_of_evaluation(config)
    check_prompts(engine, plan.prompts.held_out + plan.prompts.test, longest, setting)
    found_out: list[str] = []
    if point is None:
        need = _needs(plan, engine)
        found_out += enough(need, free, engine.device, out)
    ratio = any("old" in phase.algorithm.needs for phase in plan.phases)
    sampler = policy_sampler(config, engine, ratio=ratio, place=Place(out, observers.note))
    runner = PhaseRunner(
        Context(config, plan.prompts, sampler, reward, store, observers),
        engine,
        plan.phases,
        plan.anchors,
        other=_samples_from(config, engine),
        found=found,
    )
    runner.prepare()
    if point is None:
        found_out += suited(engine, config, plan.prompts)
    # Last, when all checks have passed: what fails before leaves nothing on the disk.
    if point is None:
        texts = {"config.toml": tomli_w.dumps(plan.values), INPUTS: text_of(plan.inputs)}
        RunStore.create(out, texts, environment(engine.device), lock=lock)
    for caution in cautions_of(plan.phases):
        observers.note(caution)
    if config.eval.patience and not plan.prompts.test:
        observers.note(
            "eval.patience: there are no test prompts (eval.test_size), so the result will be the "
            "best of several evaluations on the same prompts, which overstates it"
        )
    if plan.prompts.held_out:
        same = alike(config.eval.samples, evaluation_params(config), "eval.samples")
        if same is not None:
            observers.note(same)
    skipped = without_kl(config, sampler)
    if skipped is not None:
        observers.note(skipped)
    for note in () if runner.over else engine.notes():  # which read the weights
        observers.note(f"{config.model}: {note}")
    if point is None:
        observers.note(f"disk: {need.disk}")
    for note in found_out:
        observers.note(note)
    for note in clashes([*plan.prompts.train, *plan.prompts.held_out]):
        observers.note(note)
    return runner


def _needs(plan: Plan, engine: Engine) -> Needs:
    """What the run will take; the first prompt stands for all."""
    prompts = plan.prompts
    longest = max((len(engine.encode(one)) for one in prompts.every[:1]), default=0)
    return needs(engine.size(), plan.config, plan.phases, prompts, longest)


def _samples_from(config: Config, engine: Engine) -> Engine | None:
    if config.samples_from is None:
        return None
    remedy = "sample from a model with the same tokenizer"
    return engine_beside(config, engine, "samples_from", config.samples_from, remedy)
