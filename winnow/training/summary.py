"""The summary of a run that is printed before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.kl import InReward
from winnow.algorithms.spec import show
from winnow.config.schema import Config
from winnow.errors import number_of
from winnow.prompts.loading import PromptSet

if TYPE_CHECKING:
    from winnow.config.phases import Phase


def opening(config: Config, phases: Sequence[Phase], prompts: PromptSet) -> str:
    """The summary: the algorithms and the arithmetic of the batches."""
    files = [phase.file.summary for phase in phases if phase.file is not None]
    sampled = any(phase.file is None for phase in phases)
    told = files + [f"{len(prompts.train)} training prompts"] * sampled
    told.append(f"{len(prompts.held_out)} held out")
    if prompts.test:
        told.append(f"{len(prompts.test)} to test the best with")
    lora = f", LoRA of rank {config.lora.rank}" if config.lora.rank else ""
    model = f"{config.model}, {config.dtype}{lora}; {', '.join(told)}"
    lines = []
    for phase in phases:
        if len(phases) > 1:
            lines.append(f"phase {phase.number}, steps {phase.before + 1} to {phase.last}")
        lines += [_row(phase.algorithm), _arithmetic(phase)]
    return "\n".join([*lines, model] if len(phases) > 1 else [lines[0], model, lines[1]])


def _row(algorithm: Algorithm) -> str:
    rules = ", ".join(show(rule) for rule in algorithm.select)
    scale = "r" if algorithm.reward_scale == "0/1" else "2 r - 1"
    penalty = f" - {show(algorithm.kl)}" if isinstance(algorithm.kl, InReward) else ""
    return (
        f"{algorithm.name}: select {rules}; advantage {show(algorithm.advantage)} of {scale}"
        f"{penalty}; loss {algorithm.formula}"
    )


def _arithmetic(phase: Phase) -> str:
    config, algorithm, file = phase.config, phase.algorithm, phase.file
    updates = config.minibatches
    merged = 1 + config.rounds.merge
    passes = number_of(algorithm.epochs, "pass", "passes")
    of = f"of {number_of(config.minibatch_prompts, 'prompt')}"
    if file is not None:
        steps = file.steps(config.prompts_per_step)
        return (
            f"{passes} of {number_of(steps, 'step')} over the file: "
            f"{number_of(config.prompts_per_step, 'prompt')} a step; up to "
            f"{number_of(updates, 'update')} {of}"
        )
    samples = config.prompts_per_step * config.samples_per_prompt
    when = f"sampled once for {number_of(config.steps, 'step')}, then {passes}"
    if algorithm.resample == "every-step":
        when = number_of(config.steps, "step")
        batches = -(-config.prompts_per_step * merged // config.minibatch_prompts)
        updates = batches * algorithm.epochs
    return (
        f"{when}: {config.prompts_per_step} prompts x {config.samples_per_prompt} samples = "
        f"{samples} samples; up to {number_of(updates, 'update')} {of}"
    )
