"""What is printed of a run before it begins, and of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.kl import InReward
from winnow.algorithms.spec import show
from winnow.config.schema import Config
from winnow.errors import number_of
from winnow.prompts.loading import PromptSet
from winnow.reporting.forecast import duration
from winnow.storage.paths import shown

if TYPE_CHECKING:
    from winnow.config.phases import Phase
    from winnow.training.run import Result


def opening(config: Config, phases: Sequence[Phase], prompts: PromptSet) -> str:
    """The summary: the algorithms and the arithmetic of the batches."""
    files = [phase.file.summary for phase in phases if phase.file is not None]
    sampled = any(phase.file is None for phase in phases)
    train = number_of(len(prompts.train), "training prompt") + left_out(prompts)
    told = files + [train] * sampled
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


def left_out(prompts: PromptSet) -> str:
    """How many prompts of the training source are not trained on; empty where none are."""
    return f" (without {prompts.left_out} that eval.source has too)" if prompts.left_out else ""


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
    of = f"of {number_of(config.prompts_per_update, 'prompt')}"
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
        batches = -(-config.prompts_per_step * merged // config.prompts_per_update)
        updates = batches * algorithm.epochs
    return (
        f"{when}: {number_of(config.prompts_per_step, 'prompt')} x "
        f"{number_of(config.samples_per_prompt, 'sample')} = {number_of(samples, 'sample')}; "
        f"up to {number_of(updates, 'update')} {of}"
    )


def gain_line(result: Result) -> str:
    """Accuracy before and after training, and what was gained; empty without any.

    Then the mean rewards, or before it where some reward is neither 0 nor 1. A checkpoint that was
    chosen has one more line: what it was chosen by, which is too high.
    """
    if result.before is None or result.after is None:
        return ""
    chosen = result.evaluations is not None
    what = "test" if chosen and result.tested else "held-out"
    line = f"{what} accuracy: {result.before:.1%} before, {result.after:.1%} after"
    if result.gain is not None and result.gain_low is not None and result.gain_high is not None:
        gain, low, high = (100 * x for x in (result.gain, result.gain_low, result.gain_high))
        line = f"{line}: {gain:+.1f} points [{low:+.1f}, {high:+.1f}]"
    lines = [line, *_rewards_line(result, what)]
    if _graded(result):
        lines.reverse()
    if chosen and result.tested:
        lines[0] += ", on prompts that had no part in choosing the checkpoint"
    if result.left_out and result.gain_low is not None:
        without = number_of(result.left_out, "prompt")
        lines.append(f"the gain is without {without} that have no score before or none after")
    if chosen:
        rate = "" if result.selected is None else f", {result.selected:.1%} held-out accuracy"
        best = f"the best of {result.evaluations} evaluations on the same prompts{rate}"
        lines.append(f"chosen: {best}, which overstates it")
    return "\n".join(lines)


def _rewards_line(result: Result, what: str) -> list[str]:
    """The mean rewards; of graded ones what was gained too, as accuracy does not say it."""
    before, after = result.reward_before, result.reward_after
    if before is None or after is None:
        return []
    line = f"{what} mean reward: {before:.3f} before, {after:.3f} after"
    gain, low, high = result.reward_gain, result.reward_gain_low, result.reward_gain_high
    if _graded(result) and gain is not None and low is not None and high is not None:
        line = f"{line}: {gain:+.3f} [{low:+.3f}, {high:+.3f}]"
    return [line]


def _graded(result: Result) -> bool:
    """Whether mean rewards are not the accuracies: some reward is neither 0 nor 1."""
    pairs = ((result.before, result.reward_before), (result.after, result.reward_after))
    return any(a is not None and b is not None and abs(a - b) > 1e-9 for a, b in pairs)


def told(result: Result) -> str:
    """A result in five lines at most: what was gained, the model, the samples and the time."""
    rows = result.metrics
    samples, kept = (sum(row.get(name) or 0 for row in rows) for name in ("samples", "survivors"))
    seconds = sum(sum((row.get("seconds") or {}).values()) for row in rows)
    counts = f"{samples} in {number_of(len(rows), 'step')}, {kept} survived, {duration(seconds)}"
    lines = [
        gain_line(result) or "no held-out accuracy",
        f"model:   {shown(result.checkpoint)}",
        f"samples: {shown(result.folder / 'rollouts')} ({counts})",
    ]
    return "\n".join(lines)
