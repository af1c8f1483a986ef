"""From a config to a run: find and check everything, cheap things first, then load the model."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from winnow import __version__
from winnow.algorithms import Algorithm
from winnow.config import Config, check, dumps
from winnow.engines.base import Sampler
from winnow.engines.models import ModelSource, resolve
from winnow.errors import UserError
from winnow.evaluation import sampling_params
from winnow.loop import Run
from winnow.prompts import PromptSet, load_prompts
from winnow.reporter import Reporter
from winnow.rewards import make_reward
from winnow.rewards.base import Reward
from winnow.rollout import EveryStep, Once, Rollout, Stopwatch
from winnow.store import RunStore
from winnow.types import Prompt

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
    prompts = load_prompts(config.prompts, config.eval, config.seed)
    _check_suited(config.reward.name, [*prompts.train, *prompts.held_out])
    return Plan(config, algorithm, prompts, model, draws_from)


@contextmanager
def reward_for(
    config: Config, reward: Callable[[Prompt, str], Any] | None = None
) -> Iterator[Reward]:
    """The verifier of a config (or the one given), its processes ended on leaving."""
    made = make_reward(
        config.reward.name if reward is None else reward,
        options=config.reward.options,
        time_limit=config.reward.time_limit,
        workers=config.reward.workers,
    )
    try:
        yield made
    finally:
        made.close()


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
    engine, device = _engine(config, source, reporter)
    prompts = [*plan.prompts.train, *plan.prompts.held_out]
    engine.check_prompts(prompts, config.sampling.max_tokens)
    sampler = engine.sampler(config.sampling)
    learner = engine.learner(
        config.optimiser,
        total_updates=total_updates(config, algorithm),
        microbatch_tokens=config.microbatch_tokens,
    )
    if found:
        learner.load(found[0])
    drawing = _drawing(plan, sampler, engine.tokenizer, reporter, device)
    # Last, when everything was found to be right: what fails before leaves nothing on the disk.
    if store is None:
        store = RunStore.create(out, dumps(config, algorithm), _environment(str(device)))
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
    watch = Stopwatch()
    rollout = _rollout(plan, reward, reporter, drawing, store, watch)
    return Run(
        config=config,
        algorithm=algorithm,
        sampler=sampler,
        learner=learner,
        source=EveryStep(rollout, config.steps)
        if algorithm.draws == "every-step"
        else Once(rollout, config.steps, algorithm.epochs, config.seed),
        reward=reward,
        held_out=plan.prompts.held_out,
        store=store,
        watch=watch,
        reporter=reporter,
        steps_done=state["step"],
    )


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
        right_at=config.reward.right_at,
        seed=config.seed,
        store=store,
        watch=watch,
        progress=reporter.progress,
    )


def assemble_sampler(
    config: Config, prompts: Sequence[Prompt], reporter: Reporter, *, out: Path
) -> tuple[Sampler, RunStore]:
    """Load a model for drawing alone, and make a folder for what it draws.

    Raises:
        UserError: as `assemble`.
    """
    source = resolve(config.model)
    _check_suited(config.reward.name, prompts)
    engine, device = _engine(config, source, reporter)
    engine.check_prompts(prompts, config.sampling.max_tokens)
    sampler = engine.sampler(config.sampling)
    environment = _environment(str(device))
    return sampler, RunStore.create(out, dumps(config), environment, checkpoints=False)


def _engine(
    config: Config, source: ModelSource, reporter: Reporter
) -> tuple[LocalEngine, torch.device]:
    import torch

    from winnow.engines.local import LocalEngine, pick_device

    device = pick_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    reporter.progress("load model", 0, 1)
    return LocalEngine(source, config.dtype, device, "model"), device


def total_updates(config: Config, algorithm: Algorithm) -> int:
    """Updates of the whole run, where every mini-batch makes one."""
    return config.steps * algorithm.epochs * config.minibatches


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


_COMPARING = ("number", "exact", "gsm8k", "math")


def _check_suited(reward: str, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that a built-in verifier can say nothing of."""
    for prompt in prompts:
        if reward in _COMPARING and prompt.answer is None:
            raise UserError(
                f"reward = {reward!r} compares with an answer, but prompt {prompt.id!r} has none; "
                "set prompts.answer_column to the column that holds it"
            )
        if reward == "gym" and "gym" not in prompt.data:
            raise UserError(
                f"reward = 'gym' judges gym tasks, but prompt {prompt.id!r} is from none; "
                "set prompts.source = 'gym:TASK' (and eval.source, if any), or another reward"
            )


def _environment(device: str) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "winnow": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        **{name: version(name) for name in ("torch", "transformers", "numpy", "pyarrow")},
    }
