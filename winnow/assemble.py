"""From a config to a run: find and check everything, cheap things first, then load the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winnow.algorithms import Algorithm
from winnow.config import Config, check
from winnow.engines.base import Sampler
from winnow.engines.models import ModelSource, resolve
from winnow.errors import UserError
from winnow.evaluation import sampling_params
from winnow.loop import Run
from winnow.parts import check_suited, engine_for, environment
from winnow.prompts import PromptSet, load_held_out, load_prompts
from winnow.recipe import dumps
from winnow.recorded import File, Recorded, open_file
from winnow.reporter import Reporter
from winnow.rewards.base import Reward
from winnow.rollout import EveryStep, Once, Rollout, Source, Stopwatch
from winnow.store import RunStore
from winnow.types import Group, Prompt

if TYPE_CHECKING:
    import torch

    from winnow.engines.local import LocalEngine


@dataclass(frozen=True)
class Plan:
    """What was checked without a model: a run can begin, as far as one can tell before loading."""

    config: Config
    algorithm: Algorithm
    prompts: PromptSet
    model: ModelSource
    draws_from: ModelSource | None
    file: File | None = None


def plan(config: Config, algorithm: Algorithm | None = None) -> Plan:
    """Check a config and read its prompts.

    Raises:
        UserError: whatever is wrong with it, the first thing found.
    """
    algorithm = algorithm or config.algorithm.build()
    check(config, algorithm)
    draws_from = None
    if config.draws_from is not None:
        draws_from = resolve(config.draws_from, "draws_from")
    model = resolve(config.model)
    file = None
    if config.draws is None:
        prompts = load_prompts(config.prompts, config.eval, config.seed)
    else:
        file = open_file(
            config.draws, algorithm, config.reward.right_at, config.sampling.temperature
        )
        prompts = PromptSet((), _held_out(config, file))
    check_suited(config.reward.name, [*prompts.train, *prompts.held_out])
    return Plan(config, algorithm, prompts, model, draws_from, file)


def _held_out(config: Config, file: File) -> tuple[Prompt, ...]:
    """The held-out prompts beside a file of draws.

    Raises:
        UserError: the file has draws of one of them.
    """
    if config.eval.size == 0:
        return ()
    held_out = load_held_out(config.prompts, config.eval, config.seed)
    away = {prompt.text for prompt in held_out}
    for text in file.prompts():
        if text in away:
            raise UserError(
                f"draws: {config.draws} has draws of a held-out prompt ({text[-60:]!r}); draw with "
                "the same prompts, eval and seed settings, or set eval.size = 0"
            )
    return tuple(held_out)


def assemble(
    plan: Plan, reward: Reward, reporter: Reporter, *, out: Path, resume: bool = False
) -> Run:
    """Load the model and put the parts of a run together.

    Raises:
        UserError: no such device, a prompt longer than the model's context, an `out` that exists.
    """
    config, algorithm = plan.config, plan.algorithm
    store = RunStore.open(out) if resume else None
    found = store.latest_checkpoint() if store else None
    state: dict[str, Any] = found[1] if found else {"step": 0}
    source = ModelSource(str(found[0])) if found else plan.model
    engine, device = engine_for(config, reporter, source)
    prompts = [*plan.prompts.train, *plan.prompts.held_out]
    engine.check_prompts(prompts, config.sampling.max_tokens)
    sampler = engine.sampler(config.sampling)
    drawing = _drawing(plan, sampler, engine.tokenizer, reporter, device)
    watch = Stopwatch()
    make_source = _source(plan, reward, reporter, drawing, engine, watch)
    learner = engine.learner(
        config.optimiser,
        total_updates=total_updates(config, algorithm, plan.file),
        microbatch_tokens=config.microbatch_tokens,
    )
    if found:
        learner.load(found[0])
    # Last, when everything was found to be right: what fails before leaves nothing on the disk.
    if store is None:
        store = RunStore.create(out, dumps(config, algorithm), environment(config))
    store.rewind(state["step"])
    if not sampler.joins:
        reporter.note(
            f"{plan.model.name}: draws that wait begin when all before them have ended; its cache "
            "cannot be kept a row at a time"
        )
    if not learner.forward.shares_prefix:
        reporter.note(
            f"{plan.model.name}: prompts are encoded once for each answer, {learner.forward.why}"
        )
    return Run(
        config=config,
        algorithm=algorithm,
        sampler=sampler,
        learner=learner,
        source=make_source(store),
        reward=reward,
        held_out=plan.prompts.held_out,
        store=store,
        watch=watch,
        reporter=reporter,
        steps_done=state["step"],
    )


def _source(
    plan: Plan,
    reward: Reward,
    reporter: Reporter,
    drawing: Callable[[], Sampler],
    engine: LocalEngine,
    watch: Stopwatch,
) -> Callable[[RunStore], Source]:
    """Where the groups of a step come from, once there is a folder to keep them in.

    Raises:
        UserError: a file of draws that this model cannot learn from.
    """
    config, algorithm, file = plan.config, plan.algorithm, plan.file
    if file is not None:
        for note in file.notes:
            reporter.note(note)
        complete = _complete(plan, file, engine, reporter)
        return lambda store: Recorded(
            file,
            algorithm,
            prompts_per_step=config.prompts_per_step,
            seed=config.seed,
            complete=complete,
            store=store,
            watch=watch,
        )

    def make(store: RunStore) -> Source:
        rollout = _rollout(plan, reward, reporter, drawing, store, watch)
        if algorithm.draws == "every-step":
            return EveryStep(rollout, config.steps, algorithm.epochs)
        return Once(rollout, config.steps, algorithm.epochs, config.seed)

    return make


def _complete(
    plan: Plan, file: File, engine: LocalEngine, reporter: Reporter
) -> Callable[[Group], Group]:
    """What makes a file's groups ready for this model: tokens where the file has none of it.

    Raises:
        UserError: a ratio is wanted, and the recorded log-probs are another vocabulary's.
    """
    same = engine.same_vocabulary(file.table.group(0))
    if not same and "old" in plan.algorithm.needs:
        raise UserError(
            f"draws: {file.path} was drawn with another vocabulary or chat template than that of "
            f"{plan.config.model!r}, so its log-probs say nothing here; use a row without a ratio"
        )
    if not same:
        reporter.note(f"{file.path}: other tokens than this model's; its texts are tokenised anew")
    return engine.retokeniser(plan.config.sampling.stop, anew=not same)


def _rollout(
    plan: Plan,
    reward: Reward,
    reporter: Reporter,
    sampler: Callable[[], Sampler],
    store: RunStore,
    watch: Stopwatch,
) -> Rollout:
    config = plan.config
    return Rollout(
        sampler=sampler,
        reward=reward,
        algorithm=plan.algorithm,
        prompts=plan.prompts,
        prompts_per_step=config.prompts_per_step,
        samples_per_prompt=config.samples_per_prompt,
        params=sampling_params(config),
        model=config.draws_from or config.model,
        right_at=config.reward.right_at,
        seed=config.seed,
        store=store,
        watch=watch,
        progress=reporter.progress,
    )


def total_updates(config: Config, algorithm: Algorithm, file: File | None = None) -> int:
    """Updates of the whole run, where every mini-batch makes one."""
    steps = config.steps if file is None else file.steps(config.prompts_per_step)
    return steps * algorithm.epochs * config.minibatches


def _drawing(
    plan: Plan, sampler: Sampler, tokenizer: Any, reporter: Reporter, device: torch.device
) -> Callable[[], Sampler]:
    """Who draws: the policy, or, loaded when first asked, the model that `draws_from` names.

    Raises:
        UserError: that model has another vocabulary.
    """
    if plan.draws_from is None:
        return lambda: sampler
    from winnow.engines.local import LocalEngine

    config = plan.config
    engine = LocalEngine(plan.draws_from, config.dtype, device, "draws_from")
    if engine.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"draws_from: {config.draws_from!r} has another vocabulary than {config.model!r}; "
            "its tokens cannot be trained on"
        )
    made: list[Sampler] = []

    def other() -> Sampler:
        if not made:
            reporter.progress("load draws_from", 0, 1)
            engine.check_prompts(plan.prompts.train, config.sampling.max_tokens)
            made.append(engine.sampler(config.sampling))
        return made[0]

    return other
