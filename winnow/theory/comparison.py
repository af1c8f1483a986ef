"""Two variants compared over seeds: differences with intervals that hold for few seeds.

A variant is run once for each seed; a run's outcome is one number. What is asked is whether two
variants differ on average over seeds. `paired` and `unpaired` are Student's t, `sign_flip` is exact
where the two are exchangeable, `winnow.theory.verdicts` puts them together into words.
docs/metrics.md has how often each errs at 3 to 20 seeds. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from winnow.theory import student
from winnow.theory.checks import Array, outcomes, rounding_of

EXACT_UP_TO = 16
"""Seeds up to which `sign_flip` looks at all sign flips."""
FLIPS = 19_999
"""Sign flips at random for more seeds: p is at least 2 / 20,000."""
MOST = 1_000_000
"""What `seeds_needed` returns for this many seeds or more."""


@dataclass(frozen=True)
class Difference:
    """How far a variant b is above a variant a, over seeds.

    Attributes:
        estimate: Mean of b minus mean of a, in the outcomes' unit.
        low, high: Interval at the asked level; ``None`` where there are too few seeds, or where
            outcomes that do not vary give a t interval no width.
        p: Probability of such a difference, or a larger one, either way, if a and b are equal.
        seeds: Runs of each variant; of the one that has fewer, if unpaired.
        method: ``"paired t"``, ``"Welch's t"``, ``"sign flips, exact"``, ``"sign flips, random"``.
        sd: Standard deviation that `seeds_needed` asks for: of the differences if paired, else
            sqrt(var a + var b). ``None`` for one seed.
        exact_p: p over sign flips of the same differences, which takes no distribution for
            granted; ``None`` if unpaired.
    """

    estimate: float
    low: float | None
    high: float | None
    p: float
    seeds: int
    method: str
    sd: float | None = None
    exact_p: float | None = None

    def of_outcomes_within(self, least: float, most: float) -> Difference:
        """The same, its interval as far as differences of such outcomes go: `within`."""
        span = most - least
        _, low, high = within((self.estimate, self.low, self.high), -span, span)
        return replace(self, low=low, high=high)


def paired(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Difference:
    """Mean of b - a over the same seeds in the same order, with Student's t interval.

    Differences that are all the same have no t: p is then that over sign flips, with no interval.

    Raises:
        ValueError: Not one finite outcome of each for each seed, or `level` not within 0 to 1.
    """
    differences, rounding = _differences(a, b)
    exact_p = _flip_p(differences, rounding)
    mean, n = float(differences.mean()), differences.size
    sd = float(differences.std(ddof=1)) if n > 1 else None
    if sd is None or sd <= rounding:
        student.checked_level(level)
        return Difference(mean, None, None, exact_p, n, "paired t", sd, exact_p)
    error = sd / math.sqrt(n)
    half = student.quantile(level, n - 1) * error
    p = student.two_sided(mean / error, n - 1)
    return Difference(mean, mean - half, mean + half, p, n, "paired t", sd, exact_p)


def unpaired(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Difference:
    """Mean of b minus mean of a over unrelated seeds, with the interval of Welch (1947).

    The degrees of freedom are Satterthwaite's. Outcomes that vary in neither variant have no t: p
    is then that of the most extreme of all divisions of the outcomes among two variants.

    Raises:
        ValueError: No finite outcomes, or `level` not within 0 to 1.
    """
    first, second = outcomes("a", a), outcomes("b", b)
    estimate = float(second.mean() - first.mean())
    fewest = min(first.size, second.size)
    student.checked_level(level)
    if fewest < 2:
        return Difference(estimate, None, None, 1.0, fewest, "Welch's t")
    parts = [float(x.var(ddof=1)) / x.size for x in (first, second)]
    sd = math.sqrt(sum(part * x.size for part, x in zip(parts, (first, second), strict=True)))
    rounding = rounding_of(first, second)
    if sd <= rounding:
        divisions = math.comb(first.size + second.size, fewest)
        p = 1.0 if abs(estimate) <= rounding else min(1.0, 2 / divisions)
        return Difference(estimate, None, None, p, fewest, "Welch's t", sd)
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / (
        parts[0] ** 2 / (first.size - 1) + parts[1] ** 2 / (second.size - 1)
    )
    half = student.quantile(level, freedom) * error
    p = student.two_sided(estimate / error, freedom)
    return Difference(estimate, estimate - half, estimate + half, p, fewest, "Welch's t", sd)


def sign_flip(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Difference:
    """Mean of b - a over the same seeds, tested by flipping signs (Fisher 1935), which is exact.

    If the two variants are equal, each difference is as probable as its negative: p is the share of
    all 2^n flips of signs whose mean is as far from 0. The interval holds each shift that such a
    test does not reject. A flip's mean is as far up as the measured one where the mean of the
    flipped differences is at most 0, so that its ends are order statistics of the means of subsets
    (Hartigan 1969, *JASA* 64:1303). Above `EXACT_UP_TO` seeds, `FLIPS` at random, always the same
    ones, and the measured one is counted among them (Phipson & Smyth 2010).

    Raises:
        ValueError: As `paired`.
    """
    differences, rounding = _differences(a, b)
    n = differences.size
    exact_p = _flip_p(differences, rounding)
    means = _subset_means(differences)
    k = math.floor((1.0 - student.checked_level(level)) / 2 * (means.size + 1) + 1e-9)
    low = high = None
    if k >= 1:
        low, high = _end(means, k, rounding), -_end(-means, k, rounding)
    sd = float(differences.std(ddof=1)) if n > 1 else None
    method = f"sign flips, {'exact' if n <= EXACT_UP_TO else 'random'}"
    return Difference(float(differences.mean()), low, high, exact_p, n, method, sd, exact_p)


def least_seeds(level: float = 0.95, comparisons: int = 1) -> int:
    """The fewest seeds at which sign flips can tell a difference at all: 6 at 95 %.

    With n seeds p is at least 2 / 2^n; with more comparisons, corrected for, `comparisons` times
    that.
    """
    return math.ceil(math.log2(2 * comparisons / (1.0 - student.checked_level(level))) - 1e-9)


def holm(p: Sequence[float]) -> list[float]:
    """p of several tests, corrected: one below 5 % by chance in 5 % of families (Holm 1979).

    In their order. The smallest of m is multiplied by m, the next one by m - 1, and so on, none
    below the one before; at most 1.

    Raises:
        ValueError: One is not within 0 to 1.
    """
    if not all(0 <= each <= 1 for each in p):
        raise ValueError("p must be within 0 to 1")
    adjusted, least = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        least = max(least, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = least
    return adjusted


def seeds_needed(
    difference: float, sd: float, level: float = 0.95, power: float = 0.8, comparisons: int = 1
) -> int:
    """How many seeds find a true difference that often: by what `verdicts.told` asks for.

    By the noncentral t distribution (`student.power`), exact for normal differences; at least
    `least_seeds`, at which flips of signs find it only if all differences have one sign.

    Args:
        difference: The true difference, other than 0.
        sd: Standard deviation of the differences over seeds: `Difference.sd`.
        level: 1 - the probability of finding one where there is none.
        power: How often it is to be found, 0 to 1.
        comparisons: How many are corrected for, as if it were the clearest of them (Bonferroni).

    Raises:
        ValueError: `difference` is 0 or not finite, `sd` below 0, `comparisons` below 1, or a
            probability is not within 0 to 1.
    """
    if not (math.isfinite(difference) and difference != 0 and sd >= 0 and 0 < power < 1):
        raise ValueError("seeds_needed needs a difference other than 0, sd >= 0 and 0 < power < 1")
    if comparisons < 1:
        raise ValueError("comparisons must be at least 1")
    least, effect = least_seeds(level), abs(difference) / sd if sd > 0 else math.inf
    corrected = 1.0 - (1.0 - level) / comparisons

    def enough(seeds: int) -> bool:
        if seeds == least and NormalDist().cdf(min(effect, 9.0)) ** seeds < power:
            return False
        return effect > 9.0 or student.power(effect, seeds, corrected) >= power

    below, above = least - 1, least
    while not enough(above):
        below, above = above, 2 * above
        if above > MOST:
            return MOST
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if enough(middle) else (middle, above)
    return above


def mean_interval(x: ArrayLike, level: float = 0.95) -> tuple[float, float | None, float | None]:
    """The mean over seeds and its Student's t interval.

    ``None`` for one seed, or where all outcomes are the same: they say nothing of how far others
    would be, and an interval without width would say that there is no doubt.

    Raises:
        ValueError: No finite outcomes, or `level` not within 0 to 1.
    """
    values = outcomes("x", x)
    student.checked_level(level)
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if values.size > 1 else 0.0
    if sd <= rounding_of(values):
        return mean, None, None
    half = student.quantile(level, values.size - 1) * sd / math.sqrt(values.size)
    return mean, mean - half, mean + half


def within(
    found: tuple[float, float | None, float | None], least: float, most: float
) -> tuple[float, float | None, float | None]:
    """A mean and the part of its interval where such a mean can be, which holds it as often.

    Student's t knows nothing of that: of shares of 0.8 and 1.0 its interval ends at 2.17.

    Args:
        least, most: What no outcome is below or above. Where the mean itself is, that end is it.
    """
    mean, low, high = found
    if low is None or high is None:
        return found
    return mean, min(mean, max(low, least)), max(mean, min(high, most))


def _differences(a: ArrayLike, b: ArrayLike) -> tuple[Array, float]:
    """b - a for each seed, shape (n,), 0 where only rounding differs, and how much that is."""
    first, second = outcomes("a", a), outcomes("b", b)
    if first.shape != second.shape:
        raise ValueError("a and b must have an outcome for each of the same seeds")
    differences, rounding = second - first, rounding_of(first, second)
    return np.where(np.abs(differences) <= rounding, 0.0, differences), rounding


@lru_cache(maxsize=8)
def _subsets(n: int) -> Array:
    """Subsets of n as rows of 0 and 1 without the empty one: all, or as many at random."""
    if n <= EXACT_UP_TO:
        numbers = np.arange(1, 2**n, dtype=np.int64)
        return (numbers[:, None] >> np.arange(n) & 1).astype(np.float64)
    rows = np.random.default_rng(n).integers(0, 2, (FLIPS, n)).astype(np.float64)
    return rows[rows.any(axis=1)]


def _subset_means(differences: Array) -> Array:
    """Means of subsets of the differences, shape (subsets,); all are flips of signs but one."""
    subsets = _subsets(differences.size)
    return np.asarray(subsets @ differences / subsets.sum(axis=1))


def _flip_p(differences: Array, rounding: float) -> float:
    """Two-sided p over flips of signs."""
    means = _subset_means(differences)
    fewest = min(int((means <= rounding).sum()), int((means >= -rounding).sum()))
    return min(1.0, 2 * (1 + fewest) / (means.size + 1))


def _end(means: Array, k: int, rounding: float) -> float:
    """The k-th smallest, 0 if that is what it is but for rounding."""
    end = float(np.partition(means, k - 1)[k - 1])
    return 0.0 if abs(end) <= rounding else end
