"""The learner against the sampler, and a step that must move nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.kl import InReward
from winnow.algorithms.objective import learned_from, totals
from winnow.algorithms.selection import select
from winnow.config.phases import Phase
from winnow.engines.base import START, Engine, Learner, LearnerPlan
from winnow.rollouts.annotate import Annotator
from winnow.rollouts.generate import random_stream
from winnow.training.preflight.budget import LEARNING, that_fit
from winnow.training.preflight.check import Check, failed, passed, skipped, warned
from winnow.types import Group, Score, StepStats

_PASSES = 6
"""Forward passes that both checks cost, a backward pass counted as two."""
_FEWEST = 256
TOLERANCE = {"float32": (1e-4, 1e-2), "bfloat16": (2e-2, 1.0)}
"""Nats that log-probs of a token may differ by, by data type: on average, and the largest."""
_ROUNDED = (6e-2, 1.0)
"""The same where the sampler is in bfloat16 and the learner is not: SmolLM2-135M is off by 0.04."""
_WRONG = 0.1
"""Nats on average from which ratios are of other distributions."""


@dataclass(frozen=True)
class Step:
    """The step at learning rate 0.

    Attributes:
        groups: What it was given.
        before, after: log pi of each completion, nats.
        stats: ``None`` where there was nothing to learn from.
        seconds: That it took.
        forward: Seconds of a forward pass over the same tokens and over those not learned from.
        dealt: Whether half of the samples were called right, whatever they are, as there would have
            been nothing to learn from.
    """

    groups: list[Group]
    before: list[list[float]]
    after: list[list[float]]
    stats: StepStats | None
    seconds: float
    forward: float
    dealt: bool

    @property
    def positions(self) -> int:
        """Tokens of prompts and samples, prompts once."""
        return sum(
            len(group.prompt_ids) + sum(sample.length for sample in group.samples)
            for group in self.groups
        )


def some(
    engine: Engine,
    groups: Sequence[Group],
    temperature: float,
    most: int,
    clock: Callable[[], float] = time.monotonic,
) -> list[Group]:
    """Groups, or parts of them, that there is time to learn from; mixed ones first.

    Args:
        most: Of groups: those of an update.
    """
    ordered = sorted(groups, key=lambda group: group.kind != "mixed")[:most]
    first = cut(ordered[0], 2)
    begun = clock()
    engine.logprobs([first], temperature)
    positions = len(first.prompt_ids) + sum(one.length for one in first.samples)
    each = max((clock() - begun) / positions, 1e-9)
    tokens = max(_FEWEST, int(LEARNING / (_PASSES * each)))
    lengths = [[one.length for one in group.samples] for group in ordered]
    counts = that_fit(lengths, [len(group.prompt_ids) for group in ordered], tokens)
    return [cut(group, n) for group, n in zip(ordered, counts, strict=True) if n]


def cut(group: Group, n: int) -> Group:
    """n samples of a group, right and wrong ones in turn, and nothing of what came after scores."""
    places = list(range(len(group.samples)))
    if group.scores:
        right = [place for place in places if group.right[place]]
        wrong = [place for place in places if not group.right[place]]
        turns = [(i, 0, p) for i, p in enumerate(right)] + [(i, 1, p) for i, p in enumerate(wrong)]
        places = [place for _, _, place in sorted(turns)]
    taken = sorted(places[:n])
    return Group(
        group.prompt,
        group.prompt_ids,
        tuple(group.samples[i] for i in taken),
        tuple(group.scores[i] for i in taken) if group.scores else (),
        right_at=group.right_at,
        origin=group.origin,
    )


def zero_step(
    engine: Engine,
    phase: Phase,
    groups: Sequence[Group],
    clock: Callable[[], float] = time.monotonic,
) -> Step:
    """Make a step of the phase's algorithm at learning rate 0.

    Log-probs are those at the temperature of sampling, at 1 where that is 0.
    """
    heat = phase.config.sampling.temperature
    begun = clock()
    before = engine.logprobs(groups, heat or 1.0)
    forward = clock() - begun
    learner = learner_of(engine, phase)
    try:
        given, dealt = with_signal(groups, phase, learner)
        begun, stats = clock(), None
        if any(learned_from(group, phase.algorithm.objective) for group in given):
            terms = phase.algorithm.objective
            stats = learner.step(given, terms, totals(given), heat)
        seconds = clock() - begun
    finally:
        learner.close()
    after = engine.logprobs(groups, heat or 1.0)
    return Step(given, before, after, stats, seconds, forward, dealt)


def learner_of(engine: Engine, phase: Phase) -> Learner:
    """The phase's learner at learning rate 0; the start stands for any other reference."""
    config = phase.config
    critic = config.critic.model_copy(update={"lr": 0.0, "warmup": 0})
    if phase.refers:
        engine.snapshot(START)
    return engine.learner(
        LearnerPlan(
            optimizer=config.optimizer.model_copy(update={"lr": 0.0, "warmup": 0}),
            updates=1,
            microbatch_tokens=config.microbatch_tokens,
            critic=critic if "values" in phase.algorithm.needs else None,
            reference=START if phase.refers else None,
        )
    )


def with_signal(
    groups: Sequence[Group], phase: Phase, learner: Learner
) -> tuple[list[Group], bool]:
    """The groups selected, with advantages; scored anew, every other one right, if all are 0."""
    if all(group.scores for group in groups):
        made = advantages(groups, phase, learner)
        if any(learned_from(group, phase.algorithm.objective) for group in made):
            return made, False
    return advantages([_dealt(group) for group in groups], phase, learner), True


def _dealt(group: Group) -> Group:
    value = max(1.0, group.right_at)
    scores = [Score(0.0 if i % 2 else value) for i in range(len(group.samples))]
    return group.with_(scores=tuple(scores))


def advantages(groups: Sequence[Group], phase: Phase, learner: Learner) -> list[Group]:
    """Groups as an update is given them."""
    algorithm: Algorithm = phase.algorithm
    rng = random_stream(phase.config.seed, "select", 0)
    chosen = [select(group, algorithm.select, rng) for group in groups]
    heat = phase.config.sampling.temperature
    filled = Annotator(algorithm, learner, heat).fill(chosen, for_advantages=True)
    penalty = algorithm.kl if isinstance(algorithm.kl, InReward) else None
    return assign_advantages(filled, algorithm.advantage, algorithm.reward_scale, penalty)


def agreement(step: Step, dtype: str, *, ratio: bool, copied: str | None = None) -> Check:
    """Whether sampler and learner give the same tokens the same probability.

    Args:
        dtype: The learner's.
        ratio: Whether the algorithm divides by the sampler's log-probs.
        copied: The sampler's, if it has a copy of the weights.
    """
    name = "log-probs"
    off, tokens = _differences(step)
    if not tokens:
        return skipped(name, "the sampler gives none")
    mean, largest = float(np.mean(off)), max(off)
    of = "of the mean of a sample"
    if step.stats is not None and step.stats.token_ratios and _by_token(step.stats):
        off = _by_token(step.stats)
        mean, largest = max(mean, float(np.mean(off))), max(largest, *off)
        of = "of one"
    most_mean, most = TOLERANCE[dtype]
    if (dtype, copied) == ("float32", "bfloat16"):
        dtype, (most_mean, most) = "bfloat16", _ROUNDED
    told = (
        f"sampler and learner differ by {mean:.1e} nats a token, {largest:.1e} at most {of}, over "
        f"{tokens} tokens; rounding in {dtype} explains {most_mean:g}, and {most:g} at most"
    )
    if not math.isfinite(mean) or (ratio and mean > _WRONG):
        remedy = "sample with the local engine, or an algorithm without a ratio (rft, raft)"
        return failed(name, f"{told}: ratios would be of other distributions", remedy)
    if mean > most_mean or largest > most:
        remedy = "set dtype and sampling.dtype to 'float32', or clip importance weights (capped)"
        return warned(name, told, remedy)
    return passed(name, told)


def _differences(step: Step) -> tuple[list[float], int]:
    """|learner - sampler| of each sample, over its tokens; and how many tokens those are."""
    found, tokens = [], 0
    for group, known in zip(step.groups, step.before, strict=True):
        for sample, learned in zip(group.samples, known, strict=True):
            if sample.logprobs:
                found.append(abs(learned - math.fsum(sample.logprobs)) / sample.length)
                tokens += sample.length
    return found, tokens


def _by_token(stats: StepStats) -> list[float]:
    return [abs(math.log(ratio)) if ratio > 0 else math.inf for ratio in stats.token_ratios]


def unmoved(step: Step) -> Check:
    """Whether the step at learning rate 0 left every log-prob as it was, bit for bit."""
    name = "zero step"
    if step.stats is None:
        return skipped(name, "the algorithm learns from no sample of the first ones")
    if not step.stats.applied:
        text = f"loss {step.stats.loss:g}, gradient norm {step.stats.grad_norm:g} at the start"
        return failed(name, text, "try dtype = 'float32'; look at the model and the loss")
    pairs = [
        (old, new)
        for one, other in zip(step.before, step.after, strict=True)
        for old, new in zip(one, other, strict=True)
    ]
    changed = sum(old != new for old, new in pairs)  # also what is not a number any more
    what = "half of the samples called right" if step.dealt else "the first samples"
    told = f"at learning rate 0, on {what}: gradient norm {step.stats.grad_norm:.3g}"
    if changed:
        moved = max(abs(new - old) for old, new in pairs)
        text = f"{told}, and it changed {changed} of {len(pairs)} log-probs, by up to {moved:.1e}"
        return failed(name, text, "a learner must not: look for what else writes to the weights")
    return passed(name, f"{told}; no log-prob of {len(pairs)} samples changed")
