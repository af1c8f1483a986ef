"""What an algorithm's update weighs on a prompt, by exact enumeration of all that can be sampled.

A prompt is answered right with probability p, in one token; a reward is 1 or 0. One update on n
samples of it, the first after sampling, moves the policy along C grad p, with a C that depends on
what was sampled. By linearity over the samples

    C = g_right / p - g_wrong / (1 - p),    g = - the loss's gradient in the samples' log-probs

and E[C], Var[C] are sums over k ~ Binomial(n, p) right samples, and over what `gibbs` accepts of
them. Each C comes from the algorithm's own cells: its rules, advantage, loss and denominator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb, fsum
from typing import Any

import numpy as np
from numpy.random import Generator

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.objective import Term, factors, totals
from winnow.algorithms.rejection import Gibbs
from winnow.algorithms.selection import (
    Band,
    Best,
    BestWorst,
    Correct,
    Distinct,
    DistinctText,
    DropAllRight,
    DropAllWrong,
    Everything,
    Finished,
    Length,
    Mixed,
    Reasons,
    Rule,
    ScoreRule,
    first_rejections,
    select,
)
from winnow.algorithms.spec import show
from winnow.theory.checks import Array
from winnow.types import Group, Prompt, Sample, Score

_ALIKE = (
    Band, Best, BestWorst, Correct, Distinct, DistinctText, DropAllRight, DropAllWrong, Everything,
    Finished, Length, Mixed,
)  # fmt: skip
"""Rules whose survivors follow from how many samples are right, ties among equal ones aside."""
_READ = ("logp", "old", "ref", "advantage", "sample", "group")
"""What a loss may read of a policy that has no more than two answers."""
MOST_SAMPLES = 256


@dataclass(frozen=True)
class Coefficient:
    """The coefficient C on grad p of one update on one prompt.

    Attributes:
        row: Name of the algorithm.
        p: Probability of a right sample.
        n: Samples of the prompt.
        mean, variance: Of C; ``None`` where it has no meaning.
        why: Then the reason; else empty.
    """

    row: str
    p: float
    n: int
    mean: float | None = None
    variance: float | None = None
    why: str = ""


def coefficient(algorithm: Algorithm, p: float, n: int) -> Coefficient:
    """Mean and variance of the coefficient on grad p, exactly.

    Of the gradient before `optimizer.max_grad_norm`, for a step and mini-batch of this prompt alone
    (so before a batch is refilled), with a reference and a KL in the reward as at the run's start.

    Args:
        p: Probability of a right sample, above 0 and below 1.
        n: Samples, 1 to `MOST_SAMPLES`.

    Raises:
        ValueError: p or n is not in its range.
        UserError: what a cell raises, such as `gibbs` for a reward above its r_max.
    """
    if not 0 < p < 1:
        raise ValueError(f"p must be above 0 and below 1 (got {p})")
    if not 1 <= n <= MOST_SAMPLES:
        raise ValueError(f"n must be from 1 to {MOST_SAMPLES} (got {n})")
    why = _without_meaning(algorithm, n)
    if why:
        return Coefficient(algorithm.name, p, n, why=why)
    found = list(_outcomes(algorithm, p, n))
    mean = fsum(chance * value for chance, value in found)
    variance = fsum(chance * (value - mean) ** 2 for chance, value in found)
    return Coefficient(algorithm.name, p, n, mean, variance)


def _without_meaning(algorithm: Algorithm, n: int) -> str:
    """Why an algorithm has no coefficient; empty if it has."""
    if n == 1 and (cell := algorithm.needs_group) is not None:
        return f"{cell} compares the samples of a prompt, so it needs n of 2 or more"
    for rule in algorithm.select:
        if not isinstance(rule, (*_ALIKE, Gibbs)):
            return f"what {show(rule)} keeps does not follow from how many samples are right"
    if sum(isinstance(rule, Gibbs) for rule in algorithm.select) > 1:
        return "more than one rule accepts at random"
    for term in algorithm.terms:
        if others := [name for name in term.reads if name not in _READ]:
            return f"loss {show(term.loss)} reads {others[0]}, which a policy of two answers lacks"
    if algorithm.entropy:
        return "an entropy bonus moves the policy whatever is sampled"
    return ""


def _outcomes(algorithm: Algorithm, p: float, n: int) -> Iterator[tuple[float, float]]:
    """The probability and the coefficient of all that can come of n samples."""
    for right in range(n + 1):
        chance = binomial(right, n, p)
        for selected, share in _selected(_group(right, n), algorithm.select):
            weighed = assign_advantages([selected], algorithm.advantage, algorithm.reward_scale)
            yield chance * share, _along(algorithm.terms, weighed[0], p)


def binomial(k: int, n: int, p: float) -> float:
    """The probability of k successes among n."""
    return comb(n, k) * p**k * (1 - p) ** (n - k)


def _group(right: int, n: int) -> Group:
    """A scored group whose first samples are right; those of one reward are one text."""
    return Group(
        prompt=Prompt("prompt", ""),
        prompt_ids=(0,),
        samples=tuple(
            Sample((0,), (0.0,), "right" if number < right else "wrong", "eos")
            for number in range(n)
        ),
        scores=tuple(Score(float(number < right)) for number in range(n)),
    )


def _selected(group: Group, rules: Sequence[Rule]) -> Iterator[tuple[Group, float]]:
    """All that selection can leave of a group, samples of one reward being alike."""
    ties = np.random.default_rng(0)  # among samples of one reward, so of no effect
    place = next((i for i, rule in enumerate(rules) if isinstance(rule, Gibbs)), None)
    if place is None:
        yield select(group, rules, ties), 1.0
        return
    gibbs = rules[place]
    assert isinstance(gibbs, Gibbs)
    alive = [one is None for one in first_rejections(group, rules[:place], ties)]
    for accepted, share in _accepted(group, alive, gibbs.chances(group, alive)):
        yield select(group, (*rules[:place], _Dealt(accepted), *rules[place + 1 :]), ties), share


def _accepted(
    group: Group, alive: Sequence[bool], chances: Array
) -> Iterator[tuple[tuple[bool, ...], float]]:
    """Each number of right and of wrong samples that can be accepted, with its probability."""
    kinds = [
        [i for i, lives in enumerate(alive) if lives and group.right[i] == right]
        for right in (True, False)
    ]
    rates = [float(chances[kind[0]]) if kind else 0.0 for kind in kinds]
    for right in range(len(kinds[0]) + 1):
        for wrong in range(len(kinds[1]) + 1):
            share = binomial(right, len(kinds[0]), rates[0])
            share *= binomial(wrong, len(kinds[1]), rates[1])
            taken = {*kinds[0][:right], *kinds[1][:wrong]}
            if share:
                yield tuple(i in taken for i in range(len(alive))), share


@dataclass(frozen=True)
class _Dealt(ScoreRule):
    """A rule whose random choice is given."""

    accepted: tuple[bool, ...]

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        return [None if taken else "rejected at random" for taken in self.accepted]


def _along(terms: Sequence[Term], group: Group, p: float) -> float:
    """C of one group with advantages."""
    counts = totals([group])
    found = 0.0
    for term in terms:
        covered = term.covers(group)
        if covered:
            factor = factors(group, term, counts)
            slopes = _gradient(term, group, covered, [factor[i] for i in covered], p)
            for number, slope in zip(covered, slopes, strict=True):
                found -= slope / p if group.right[number] else -slope / (1 - p)
    return found


def _gradient(
    term: Term, group: Group, covered: Sequence[int], factor: Sequence[float], p: float
) -> list[float]:
    """The gradient of a term in the log-prob of each sample that it covers."""
    import torch

    chances = torch.tensor(
        [p if group.right[i] else 1 - p for i in covered], dtype=torch.float64
    ).log()
    logp = chances.clone().requires_grad_()
    advantages = [group.token_advantages(i)[0] for i in covered]
    given: dict[str, Any] = {
        "logp": logp,
        "old": chances,  # the first update after sampling,
        "ref": chances,  # and of the run
        "advantage": torch.tensor(advantages, dtype=torch.float64),
        "sample": torch.arange(len(covered)),
        "group": torch.zeros(len(covered), dtype=torch.long),
    }
    loss = term.loss(*(given[name] for name in term.reads))
    scale = torch.tensor(factor[:1] if term.span == "group" else factor, dtype=torch.float64)
    (slopes,) = torch.autograd.grad((loss * scale).sum(), logp, allow_unused=True)
    return [0.0] * len(covered) if slopes is None else list(map(float, slopes))
