"""Majority vote of n samples, averaged over the ways to pick n of N. Pure.

As `pass_at_k` does for pass@k: every sample is used, and the estimate is that of n fresh samples
(Wang et al., 2203.11171, vote so; ties here are split, so that the order of the samples does not
matter).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from numpy.typing import ArrayLike, NDArray

from winnow.theory.checks import Array, finite, whole

Index = NDArray[np.int64]

_CELLS = 2_000_000
"""Entries of the largest array made at a time."""

_TIE = 1e-12
"""Sums of weights this close, relatively, tie: they were added in different orders."""


@dataclass(frozen=True)
class MajorityEstimate:
    """For each n, the probability that the vote of n samples is right.

    Attributes:
        value: Shape (m,).
        standard_error: Of the Monte Carlo over subsets alone, not of the samples; 0 where exact,
            and where all random subsets agree.
        exact: Whether all subsets were counted, shape (m,).
    """

    value: Array
    standard_error: Array
    exact: NDArray[np.bool_]


@dataclass(frozen=True)
class _Ballots:
    """Samples as votes.

    Attributes:
        label: Shape (N,), from 0; `len(right)` for a sample without a vote.
        weight: Shape (N,).
        right: Whether a label is right, or the chance of it, shape (labels,).
        equal: Whether all votes have the same weight.
    """

    label: Index
    weight: Array
    right: Array
    equal: bool

    def outcomes(self, subsets: Index) -> Array:
        """Share of right ones among the labels on top, shape (rows,), for indices (rows, n)."""
        rows, columns = len(subsets), len(self.right) + 1
        cells = np.arange(rows)[:, None] * columns + self.label[subsets]
        votes = np.bincount(cells.ravel(), self.weight[subsets].ravel(), rows * columns)
        votes = votes.reshape(rows, columns)[:, :-1]
        if votes.shape[1] == 0:
            return np.zeros(rows)
        top = votes.max(axis=1, keepdims=True)
        tied = (votes >= top * (1.0 - _TIE)) & (top > 0)
        return np.asarray((tied @ self.right) / np.maximum(tied.sum(axis=1), 1))


def majority_at_n(
    labels: Sequence[object] | NDArray[np.generic],
    right: Sequence[bool] | NDArray[np.bool_] | Array,
    ns: ArrayLike,
    rng: np.random.Generator,
    *,
    subsets: int = 1000,
    weights: ArrayLike | None = None,
) -> MajorityEstimate:
    """Probability that the label with most votes among n of the N samples is right.

    The n are picked at random without replacement; labels that tie on top share the outcome. A pick
    without any vote is wrong. Exact where that is no more work than the Monte Carlo (n = 1, n = N,
    or no more than `subsets` ways to pick) and, for equal votes, with one or two labels (by
    hypergeometric sums); else a Monte Carlo over random subsets, the same for all n.

    Args:
        labels: The answer of each sample, N hashable objects. None or -1 is no answer: no vote.
            Give numbers that may be -1 as text.
        right: Whether each sample's answer is right, or the chance that it is, shape (N,). The same
            for the same label; not read where there is no answer.
        ns: 1 to N, one number or shape (m,).
        rng: For the Monte Carlo only.
        subsets: How many random subsets, at least 2.
        weights: Of the samples' votes, shape (N,), >= 0. 0 is no vote. By default 1.

    Raises:
        ValueError: A number or shape is outside its range, or a label has several outcomes.
    """
    ballots = _ballots(labels, right, weights)
    total = len(ballots.label)
    sizes = np.atleast_1d(whole("ns", ns, 1))
    if sizes.ndim > 1 or (sizes > total).any():
        raise ValueError(f"ns must be one number or shape (m,), and not above N = {total}")
    if subsets < 2:
        raise ValueError("subsets must be at least 2")
    value, error = np.zeros(len(sizes)), np.zeros(len(sizes))
    exact = np.ones(len(sizes), dtype=np.bool_)
    inexact: list[int] = []
    for i, n in enumerate(sizes.tolist()):
        if n == 1 or math.comb(total, n) <= subsets:
            value[i] = _over_all(ballots, n)
        elif ballots.equal and len(ballots.right) <= 2:
            value[i] = _of_two_labels(ballots, n)
        else:
            inexact.append(i)
    if inexact:
        outcomes = _over_some(ballots, sizes[inexact].tolist(), subsets, rng)
        value[inexact] = outcomes.mean(axis=1)
        error[inexact] = outcomes.std(axis=1, ddof=1) / math.sqrt(subsets)
        exact[inexact] = False
    return MajorityEstimate(value, error, exact)


def _ballots(
    labels: Sequence[object] | NDArray[np.generic],
    right: Sequence[bool] | NDArray[np.bool_] | Array,
    weights: ArrayLike | None,
) -> _Ballots:
    flags = np.asarray(right)
    weight = np.ones(len(labels)) if weights is None else finite("weights", weights)
    if len(labels) == 0 or not flags.shape == weight.shape == (len(labels),):
        raise ValueError("labels, right and weights must be of one shape (N,), N at least 1")
    if flags.dtype != np.bool_ and not (
        flags.dtype == np.float64 and bool(((flags >= 0) & (flags <= 1)).all())
    ):
        raise ValueError("right must be true or false for each sample, or a chance from 0 to 1")
    if (weight < 0).any():
        raise ValueError("weights must not be negative")
    codes: dict[object, int] = {}
    outcome: list[float] = []
    label = np.full(len(labels), -1)
    for i, (answer, flag) in enumerate(zip(labels, flags.tolist(), strict=True)):
        if answer is None or (not isinstance(answer, str) and answer == -1) or weight[i] == 0:
            continue
        label[i] = codes.setdefault(answer, len(codes))
        if label[i] == len(outcome):
            outcome.append(flag)
        elif outcome[label[i]] != flag:
            raise ValueError(f"right must be the same for the same label, but {answer!r} differs")
    cast = weight[label >= 0]
    equal = cast.size == 0 or bool(cast.min() == cast.max())
    label[label < 0] = len(outcome)
    scale = float(cast.max()) if cast.size else 1.0  # sums of huge weights must not overflow
    return _Ballots(label, weight / scale, np.array(outcome, dtype=np.float64), equal)


def _over_all(ballots: _Ballots, n: int) -> float:
    total = len(ballots.label)
    picks: Iterator[tuple[int, ...]] = combinations(range(total), n)
    rows = max(1, _CELLS // max(n, len(ballots.right) + 1))
    outcomes: list[float] = []
    while chunk := list(islice(picks, rows)):
        outcomes.extend(ballots.outcomes(np.array(chunk)).tolist())
    return math.fsum(outcomes) / len(outcomes)


def _over_some(
    ballots: _Ballots, sizes: list[int], subsets: int, rng: np.random.Generator
) -> Array:
    """Outcomes of random subsets, shape (sizes, subsets): the first n of shuffled samples."""
    order = np.arange(len(ballots.label))
    rows = max(1, _CELLS // len(order))
    found: list[list[Array]] = [[] for _ in sizes]
    for start in range(0, subsets, rows):
        shuffled = rng.permuted(np.tile(order, (min(rows, subsets - start), 1)), axis=1)
        for outcomes, n in zip(found, sizes, strict=True):
            outcomes.append(ballots.outcomes(shuffled[:, :n]))
    return np.array([np.concatenate(outcomes) for outcomes in found])


def _of_two_labels(ballots: _Ballots, n: int) -> float:
    """The outcome summed over i votes for the first label and j for the second.

    Each has probability C(a, i) C(b, j) C(z, n-i-j) / C(N, n), z samples having no vote.
    """
    counts = np.bincount(ballots.label, minlength=3)
    silent = int(counts[len(ballots.right)])
    a, b = [*counts[: len(ballots.right)].tolist(), 0, 0][:2]
    first, second = [*ballots.right.tolist(), 0.0, 0.0][:2]
    log_factorial = np.array([math.lgamma(i + 1) for i in range(a + b + silent + 1)])

    def log_comb(top: int, bottom: Index) -> Array:
        return np.asarray(log_factorial[top] - log_factorial[bottom] - log_factorial[top - bottom])

    log_all = float(log_comb(a + b + silent, np.array(n)))
    parts: list[float] = []
    for i in range(max(0, n - b - silent), min(a, n) + 1):
        j = np.arange(max(0, n - i - silent), min(b, n - i) + 1)
        log_chance = log_comb(a, np.array(i)) + log_comb(b, j) + log_comb(silent, n - i - j)
        outcome = np.where(j < i, first, np.where(j > i, second, 0.5 * (first + second)))
        outcome = np.where((j == 0) & (i == 0), 0.0, outcome)
        parts.append(float(np.exp(log_chance - log_all) @ outcome))
    return min(1.0, math.fsum(parts))
