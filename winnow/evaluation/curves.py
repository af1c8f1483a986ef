"""Curves of pass@n, best-of-n and votes over n, from one set of samples. Pure.

Curves use all N samples of a prompt for every n up to N (order statistics for pass@n and best-of-n,
random subsets for votes); intervals are over prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from winnow.evaluation.voting import Labels
from winnow.theory import (
    best_of_n,
    best_of_n_weights,
    kl_best_of_n_bound,
    kl_best_of_n_plugin,
    majority_at_n,
    pass_at_k,
)
from winnow.theory.checks import Array
from winnow.theory.intervals import mean_interval, rate_interval


@dataclass(frozen=True)
class PromptSamples:
    """The samples of one prompt that have a score, as numbers.

    Attributes:
        rows: Their rows among all samples, shape (N,).
        right: Whether each is right by the verifier, shape (N,).
        scores: The best of these wins, shape (N,).
        weights: Of their votes, shape (N,).
        labels: The number of each one's answer; empty where there is no vote.
    """

    rows: NDArray[np.int64]
    right: NDArray[np.bool_]
    scores: Array
    weights: Array
    labels: Labels


@dataclass(frozen=True)
class Point:
    """A mean over prompts with its 95 % interval."""

    n: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curves:
    """What n samples buy, by a vote (`majority`) or by the best score; the rest is empty.

    Attributes:
        passes: pass@n, the share of prompts of whose n samples one is right.
        majority: Share of right answers by (weighted) vote.
        best: Share of prompts whose sample of the best score is right.
        score: Mean score of that sample.
        kl_plugin: KL(best-of-n || one sample), nats, mean over prompts, from the frequencies of the
            score's levels (a plug-in: too low where n is not far below the number of samples).
        kl_bound: log n - (n - 1)/n, which no score exceeds.
    """

    passes: list[Point]
    majority: list[Point]
    best: list[Point]
    score: list[Point]
    kl_plugin: list[float]
    kl_bound: list[float]


def curves(prompts: Sequence[PromptSamples], ns: Sequence[int], rng: np.random.Generator) -> Curves:
    """Curves over n.

    Args:
        prompts: Each with at least max(ns) samples.
    """
    sampled = min(len(one.right) for one in prompts)
    passes = [pass_at_k(len(one.right), int(one.right.sum()), ns) for one in prompts]
    if prompts[0].labels:
        votes = [_vote(one, ns, rng) for one in prompts]
        return Curves(_rates(ns, passes, sampled), _rates(ns, votes, sampled), [], [], [], [])
    best = [best_of_n_weights(one.scores, ns) @ one.right for one in prompts]
    score = [best_of_n(one.scores, ns) for one in prompts]
    kl = [kl_best_of_n_plugin(one.scores, ns) for one in prompts]
    return Curves(
        passes=_rates(ns, passes, sampled),
        majority=[],
        best=_rates(ns, best, sampled),
        score=[
            _point(n, *mean_interval(column))
            for n, column in zip(ns, np.array(score).T, strict=True)
        ],
        kl_plugin=np.mean(kl, axis=0).tolist(),
        kl_bound=kl_best_of_n_bound(ns).tolist(),
    )


def _vote(one: PromptSamples, ns: Sequence[int], rng: np.random.Generator) -> Array:
    labels = [None if label is None else str(label) for label in one.labels]
    right = label_outcomes(one.labels, one.right)
    return majority_at_n(labels, right, ns, rng, weights=one.weights).value


def label_outcomes(labels: Labels, right: NDArray[np.bool_]) -> Array:
    """Whether each sample's answer is right: the verifier's score of most samples that give it.

    A verifier may look at more than the answer (such as its form) and score equal answers
    differently; a vote has one outcome for each answer. Right as often as wrong is 1/2, what the
    toss of a coin between the two is on average.
    """
    outcomes = np.array(right, dtype=np.float64)
    keys = np.array([-1 if label is None else label for label in labels])
    for key in np.unique(keys[keys >= 0]):
        members = keys == key
        twice, number = 2 * int(right[members].sum()), int(members.sum())
        outcomes[members] = 0.5 if twice == number else float(twice > number)
    return outcomes


def _rates(ns: Sequence[int], rows: Sequence[Array], sampled: int) -> list[Point]:
    """Means over prompts with at least so many samples each; Monte Carlo error is in the spread."""
    return [
        _point(n, *rate_interval(column, sampled / n))
        for n, column in zip(ns, np.array(rows).T, strict=True)
    ]


def _point(n: int, value: float | None, low: float | None, high: float | None) -> Point:
    assert value is not None
    return Point(n, value, low, high)
