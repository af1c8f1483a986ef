"""A first sample of groups: will there be a signal, how do completions end, how fast is it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.objective import learned_from
from winnow.algorithms.selection import select
from winnow.config.phases import Phase
from winnow.config.schema import Config
from winnow.engines.base import Sampler
from winnow.errors import number_of
from winnow.reporting.observer import Progress
from winnow.rollouts.generate import random_stream, requests, sample, sampling_params
from winnow.rollouts.remarks import CUT_OFF
from winnow.rollouts.reward_errors import errors_of, failures_of
from winnow.theory.intervals import clustered_interval, wilson
from winnow.theory.ties import all_equal
from winnow.training.preflight.budget import (
    PROBE,
    SAMPLES,
    Plan,
    first_sample,
)
from winnow.training.preflight.check import Check, failed, passed, skipped, warned
from winnow.types import FinishReason, Group, Prompt

_FEW = 0.1
"""Below this share of groups with something to learn from there is next to no signal."""
_ENDS: Mapping[FinishReason, str] = {
    "stop": "at a stop string",
    "eos": "at an end token",
    "length": "cut off",
}


@dataclass(frozen=True)
class First:
    """The first sample, scored or not.

    Attributes:
        seconds: That it took.
        prefill: Of them, those that one prompt takes before its first token.
    """

    groups: list[Group]
    plan: Plan
    seconds: float
    prefill: float = 0.0

    @property
    def samples(self) -> int:
        return sum(len(group.samples) for group in self.groups)

    @property
    def tokens(self) -> int:
        return sum(sample.length for group in self.groups for sample in group.samples)

    @property
    def capped(self) -> str:
        """What was sampled less than was meant, in parentheses; empty where nothing was."""
        return f" (capped for time: {self.plan.capped})" if self.plan.capped else ""

    def cut(self, most: int) -> int:
        """How many samples were cut off below a run's limit, and might have come to something."""
        if self.plan.max_tokens >= most:
            return 0
        return sum(one.finish_reason == "length" for group in self.groups for one in group.samples)


def sampled(
    config: Config,
    sampler: Sampler,
    prompts: Sequence[Prompt],
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> First:
    """Sample as a run does, as much as there is time for by what a few tokens take.

    Args:
        config: Of the phase.
        prompts: At least one, of which the first are sampled.
    """
    params, n = sampling_params(config), config.samples_per_prompt

    def make(count: int, n: int, most: int, step: int) -> tuple[list[Group], float]:
        own = replace(params, max_tokens=most)
        told = requests(prompts[:count], n, own, seed=config.seed, split="sample", step=step)
        begun = clock()
        groups = sample(sampler, told, config.sampling_model, progress)
        return groups, clock() - begun

    make(1, 1, 1, 0)  # what is prepared once costs no later sample
    several, few = min(n, SAMPLES), min(params.max_tokens, PROBE)
    _, prefill = make(1, several, 1, 0)
    tried, seconds = make(1, several, few, 0)
    steps = max(sample.length for group in tried for sample in group.samples) - 1
    each = max(0.0, seconds - prefill) / steps if steps else 0.0
    plan = first_sample(len(prompts), n, params.max_tokens, prefill, each)
    groups, seconds = make(plan.prompts, plan.samples, plan.max_tokens, 1)
    return First(groups, plan, seconds, prefill)


def signal(first: First, phase: Phase) -> Check:
    """Whether a run would learn from such groups."""
    name, groups = "signal", first.groups
    kinds = Counter(group.kind for group in groups)
    right = np.array([float(r) for g in groups for r, v in zip(g.right, g.valid, strict=True) if v])
    own = np.repeat(np.arange(len(groups)), [sum(group.valid) for group in groups])
    if not right.size:
        return failed(name, "no sample has a score", "see the check of scores")
    rate, low, high = clustered_interval(right, own)
    telling = np.array([float(learned > 0) for learned in learned_of(groups, phase)])
    share, (least, most) = float(telling.mean()), wilson(telling)
    listed = [
        f"{kinds['mixed']} mixed",
        f"{kinds['all-wrong']} all wrong",
        f"{kinds['all-right']} all right",
    ]
    listed += [f"{kinds['no-score']} without a score"] * bool(kinds["no-score"])
    told = (
        f"{rate:.1%} of {number_of(right.size, 'sample')} right{_between(low, high)}; of "
        f"{number_of(len(groups), 'group')} {', '.join(listed)}; {int(telling.sum())} with "
        f"something to learn from{_between(least, most)}{first.capped}"
    )
    cut = first.cut(phase.config.sampling.max_tokens)
    if cut > CUT_OFF * first.samples:
        limit = f"{cut} of {number_of(first.samples, 'sample')} were cut off at "
        limit += f"{first.plan.max_tokens} tokens for time, so rewards say nothing"
        return skipped(name, f"not known: {limit}", "look again on a faster or less busy machine")
    if share >= _FEW:
        return passed(name, told)
    remedy = "take easier prompts, a larger model, examples in the prompt, or more samples a prompt"
    if kinds["all-right"] > kinds["all-wrong"]:
        remedy = "take harder prompts: these are solved, if the verifier is right"
    return warned(name, f"little or none: {told}", remedy)


def learned_of(groups: Sequence[Group], phase: Phase) -> list[int]:
    """How many samples of each group a run would learn from, a KL in the reward aside.

    A critic gives every token some advantage: there, as many as differ from one of the others.
    """
    algorithm = phase.algorithm
    rng = random_stream(phase.config.seed, "select", 0)
    chosen = [select(group, algorithm.select, rng) for group in groups]
    if algorithm.advantage.over == "token":
        return [0 if _alike(group) else len(group.survivors) for group in chosen]
    made = assign_advantages(chosen, algorithm.advantage, algorithm.reward_scale)
    return [len(learned_from(group, algorithm.objective)) for group in made]


def _alike(group: Group) -> bool:
    return len(group.values) < 2 or all_equal(np.array(group.values), group.right_at)


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.0%}, {high:.0%}]"


def endings(first: First, config: Config) -> Check:
    """How completions end."""
    name, most = "endings", config.sampling.max_tokens
    ended = Counter(one.finish_reason for group in first.groups for one in group.samples)
    listed = ", ".join(f"{ended[kind]} {said}" for kind, said in _ENDS.items() if ended[kind])
    mean = first.tokens / first.samples
    told = f"of {number_of(first.samples, 'sample')} {listed}; {mean:.1f} tokens on average"
    if first.plan.max_tokens < most:
        cap = f"after {first.plan.max_tokens} of sampling.max_tokens = {most}, which says little"
        return passed(name, f"{told}; they were cut off {cap}" if ended["length"] else told)
    if ended["length"] <= CUT_OFF * first.samples:
        return passed(name, told)
    remedy = "raise sampling.max_tokens, or set sampling.stop to a text that ends a completion"
    return warned(name, f"{told}, at sampling.max_tokens = {most}", remedy)


def scores(first: First) -> Check:
    """Whether the verifier gives these samples numbers."""
    name = "scores"
    every = [score for group in first.groups for score in group.scores]
    broken = failures_of(first.groups)
    if broken is None:
        distinct = len({score.value for score in every})
        return passed(name, f"a number for each of {len(every)} samples, {distinct} different")
    if len(errors_of(every)) == len(every):
        return failed(name, broken, "fix the verifier")
    return warned(name, broken, "fix the verifier: such samples are not trained on")
