"""Sets up a run from its config: checks everything, cheap things first, then loads the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winnow.algorithms.algorithm import Algorithm
from winnow.config.phases import Phase, naming, phases_of, resolved
from winnow.config.recipe import dumps
from winnow.config.reference import names_model
from winnow.config.schema import Config
from winnow.config.schema.anchor import AnchorConfig
from winnow.engines.base import Sampler
from winnow.engines.devices import environment
from winnow.engines.factory import engine_for
from winnow.engines.models.loading import ModelSource, resolve
from winnow.errors import UserError
from winnow.prompts.loading import PromptSet, load_held_out, load_prompts
from winnow.reporting.observer import Reporter
from winnow.rewards.base import Reward
from winnow.rewards.factory import check_suited
from winnow.storage.run_folder import RunStore
from winnow.training.file_source import open_file
from winnow.training.phase_runner import Workshop
from winnow.training.sft_mix import Anchor, open_anchor
from winnow.types import Prompt

if TYPE_CHECKING:
    from winnow.engines.devices import Device


@dataclass(frozen=True)
class Plan:
    """A run that was checked as far as possible without loading a model.

    Attributes:
        anchors: For each phase the supervised examples that it mixes in.
    """

    config: Config
    phases: tuple[Phase, ...]
    prompts: PromptSet
    model: ModelSource
    samples_from: ModelSource | None
    anchors: tuple[Anchor | None, ...]


def plan(config: Config, algorithm: Algorithm | None = None) -> Plan:
    """Check a config and read its prompts.

    Raises:
        UserError: whatever is wrong with it, the first thing found.
    """
    phases = phases_of(config, algorithm, open_file)
    samples_from = None
    if config.samples_from is not None:
        samples_from = resolve(config.samples_from, "samples_from")
    model = resolve(config.model)
    anchors: list[Anchor | None] = []
    opened: dict[AnchorConfig, Anchor | None] = {}  # phases mostly share one
    for phase in phases:
        with naming(phase.name):
            anchor = phase.config.anchor
            if anchor not in opened:
                opened[anchor] = open_anchor(anchor, config.prompts, config.seed)
            anchors.append(opened[anchor])
            _check_reference(phase)
    if any(phase.file is None for phase in phases):
        prompts = load_prompts(config.prompts, config.eval, config.seed)
    else:
        prompts = PromptSet((), _held_out(config))
    for phase in phases:
        with naming(phase.name):
            _check_apart(phase, prompts.held_out)
    check_suited(config.reward.name, [*prompts.train, *prompts.held_out])
    return Plan(config, phases, prompts, model, samples_from, tuple(anchors))


def _check_reference(phase: Phase) -> None:
    """Raise a `UserError` if a phase's reference is not there, before any phase is run."""
    what = phase.config.reference
    if phase.refers and names_model(what):
        resolve(what, "reference", ["start", "phase", "ema(0.99)"])


def _held_out(config: Config) -> tuple[Prompt, ...]:
    if config.eval.size == 0:
        return ()
    return tuple(load_held_out(config.prompts, config.eval, config.seed))


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
    plan: Plan, reward: Reward, reporter: Reporter, *, out: Path, resume: bool = False
) -> Workshop:
    """Load the model and set up what all phases of a run share.

    Raises:
        UserError: no such device, a prompt longer than the model's context, an `out` that exists.
    """
    config = plan.config
    store = RunStore.open(out) if resume else None
    found = store.latest_checkpoint() if store else None
    engine, device = engine_for(config, reporter, found[0] if found else None)
    longest = max(phase.config.sampling.max_tokens for phase in plan.phases)
    longest = max(longest, config.sampling.max_tokens)  # for the held-out prompts
    engine.check_prompts([*plan.prompts.train, *plan.prompts.held_out], longest)
    sampler = engine.sampler(config.sampling)
    workshop = Workshop(
        config=config,
        phases=plan.phases,
        prompts=plan.prompts,
        anchors=plan.anchors,
        model=plan.model,
        reward=reward,
        reporter=reporter,
        engine=engine,
        sampler=sampler,
        sampling=_sampling(plan, sampler, engine.tokenizer, reporter, device),
        found=found,
    )
    workshop.prepare()
    # Last, when all checks have passed: what fails before leaves nothing on the disk.
    if store is None:
        store = RunStore.create(
            out,
            dumps(resolved(config, plan.phases))
            if config.phases
            else dumps(config, plan.phases[0].algorithm),
            environment(config),
        )
    workshop.open(store)
    if not sampler.joins:
        reporter.note(
            f"{plan.model.name}: waiting samples start only when all before them have ended; "
            "its cache cannot be kept a row at a time"
        )
    forward = engine.forward()
    if not forward.shares_prefix:
        reporter.note(f"{plan.model.name}: prompts are encoded once per sample, {forward.why}")
    return workshop


def _sampling(
    plan: Plan, sampler: Sampler, tokenizer: Any, reporter: Reporter, device: Device
) -> Callable[[], Sampler]:
    """Gives the policy's sampler, or that of `samples_from`, which is loaded when first needed.

    Raises:
        UserError: that model has another vocabulary.
    """
    if plan.samples_from is None:
        return lambda: sampler
    from winnow.engines.local.engine import LocalEngine

    config = plan.config
    engine = LocalEngine(plan.samples_from, config.dtype, device, "samples_from")
    if engine.tokenizer.get_vocab() != tokenizer.get_vocab():
        problem = f"{config.samples_from!r} has another vocabulary than {config.model!r}"
        raise UserError("samples_from", problem, "sample from a model with the same tokenizer")
    made: list[Sampler] = []

    def other() -> Sampler:
        if not made:
            reporter.progress("load samples_from", 0, 1)
            engine.check_prompts(plan.prompts.train, config.sampling.max_tokens)
            made.append(engine.sampler(config.sampling))
        return made[0]

    return other
