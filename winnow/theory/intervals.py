"""Confidence intervals, 95 %: of proportions, means, rates, differences, resamples. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from winnow.theory.checks import Array, rounding_of

_Z = 1.959963984540054
_AGREEING = 2
"""Prompts that `rate_interval` adds, whose samples all agree."""
_ROUNDING = 1e-9
"""A rate this near to 0 or 1 is 0 or 1."""


def wilson(outcomes: np.ndarray[Any, Any]) -> tuple[float | None, float | None]:
    """95 % interval of a proportion from 0/1 outcomes (Wilson 1927)."""
    if outcomes.size == 0:
        return None, None
    return _wilson(float(outcomes.mean()), outcomes.size)


def _wilson(p: float, n: float) -> tuple[float, float]:
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(
    values: np.ndarray[Any, Any],
) -> tuple[float | None, float | None, float | None]:
    """A mean and its 95 % interval by Student's t; of rates see `rate_interval`.

    There is no interval of one value, nor where all are the same, of which it would have no width.
    """
    if values.size == 0:
        return None, None, None
    mean = float(values.mean())
    sd = float(values.std(ddof=1)) if values.size > 1 else 0.0
    if sd <= rounding_of(values):
        return mean, None, None
    half = _student(values.size - 1) * sd / math.sqrt(values.size)
    return mean, mean - half, mean + half


def rate_interval(values: Array, blocks: float) -> tuple[float, float | None, float | None]:
    """A mean of rates and its 95 % interval, which does not close where all are 0 or all are 1.

    Wilson's interval (1927) with an effective sample size, as for surveys (Korn & Graubard 1998):
    m prompts count for m / d outcomes, where

        d = (k d_k + 2) / (k + 2),    1 / d_k = mean (1 - mean) / variance, from 1 to `blocks`,

    and k is how many values are above 0 or how many are below 1, the fewer: only those say how the
    samples of a prompt go together. The 2 stand for two more prompts whose samples all agree
    (d_k = 1, the widest); without them the interval is too narrow where few values are seen that
    are not 0 (or not 1). Far from both ends it is the normal approximation; where each value is 0
    or 1 it is Wilson's own. docs/metrics.md shows what it covers.

    Args:
        values: One for each prompt, 0 to 1.
        blocks: Separate outcomes in each value: N / n for n out of N samples.
    """
    values = np.clip(values, 0.0, 1.0)  # sums of weights may pass 1 by rounding
    mean, prompts = float(values.mean()), values.size
    if prompts < 2:
        return mean, None, None
    spread = float(values.var(ddof=1))
    outcomes = float(np.clip(mean * (1.0 - mean) / spread, 1.0, blocks)) if spread > 0 else blocks
    telling = min(int((values > _ROUNDING).sum()), int((values < 1.0 - _ROUNDING).sum()))
    effect = (telling / outcomes + _AGREEING) / (telling + _AGREEING)
    low, high = _wilson(mean, prompts / effect)
    return mean, min(mean, low), max(mean, high)


def clustered_interval(
    outcomes: Array, clusters: NDArray[np.int64]
) -> tuple[float | None, float | None, float | None]:
    """A share of 0/1 outcomes and its 95 % interval, where those of a cluster go together.

    That of `rate_interval` for clusters of unequal size. N outcomes in m clusters are worth N / d
    separate ones, at least m, with the design effect d of a share as a ratio of two sums:

        d = m / (m - 1) sum_c (y_c - p n_c)^2 / (N p (1 - p))

    Args:
        outcomes: 0 or 1, shape (N,).
        clusters: The number of each one's cluster, such as its prompt, shape (N,).
    """
    if outcomes.size == 0:
        return None, None, None
    _, numbers = np.unique(clusters, return_inverse=True)
    sizes, sums = np.bincount(numbers), np.bincount(numbers, outcomes)
    share, m = float(outcomes.mean()), sizes.size
    if m < 2:
        return share, None, None
    most = outcomes.size / m
    spread = float(np.square(sums - share * sizes).sum()) * m / (m - 1)
    alone = outcomes.size * share * (1.0 - share)
    effect = float(np.clip(spread / alone, 1.0, most)) if alone > 0 else 1.0
    telling = min(int((sums > 0).sum()), int((sums < sizes).sum()))
    shrunk = (telling * effect / most + _AGREEING) / (telling + _AGREEING)
    low, high = _wilson(share, m / shrunk)
    return share, min(share, low), max(share, high)


def paired_difference(
    before: Array, after: Array, blocks: tuple[float, float]
) -> tuple[float, float | None, float | None]:
    """Mean of after - before over the same prompts, and its 95 % interval, which never closes.

    Newcombe's interval for paired proportions (1998, *Stat. Med.* 17:2635, method 10), with
    `rate_interval` in place of Wilson's for each side (so that a prompt may have several samples:
    MOVER, Zou & Donner 2008). With d the difference and r the correlation over prompts:

        low  = d - sqrt((p2 - l2)^2 - 2 r (p2 - l2) (u1 - p1) + (u1 - p1)^2)
        high = d + sqrt((u2 - p2)^2 - 2 r (u2 - p2) (p1 - l1) + (p1 - l1)^2)

    A covariance above 0 is first made smaller by 1 / (2 m), Newcombe's correction, so that prompts
    that have all kept their rates still leave room for a few that would not.

    Args:
        before, after: Rates of the same m prompts, 0 to 1.
        blocks: Separate outcomes in each rate, before and after: see `rate_interval`.
    """
    p1, l1, u1 = rate_interval(before, blocks[0])
    p2, l2, u2 = rate_interval(after, blocks[1])
    difference = p2 - p1
    if l1 is None or u1 is None or l2 is None or u2 is None:
        return difference, None, None
    spread = float(before.std() * after.std())
    covariance = float(((before - p1) * (after - p2)).mean())
    if covariance > 0:
        covariance = max(0.0, covariance - 0.5 / before.size)
    r = max(-1.0, covariance / spread) if spread > 0 else 0.0

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * r * one * other + other * other))

    low, high = difference - distance(p2 - l2, u1 - p1), difference + distance(u2 - p2, p1 - l1)
    return difference, max(-1.0, low), min(1.0, high)


def resampled_interval(values: np.ndarray[Any, Any], prompts: int) -> tuple[float, float]:
    """95 % interval from a statistic of resamples of m prompts; NaN if none is finite.

    Percentiles of the bootstrap, expanded (Hesterberg 2015, *Am. Stat.* 69:371): at the levels
    Phi(-/+ sqrt(m / (m - 1)) t), t the 97.5 % quantile of Student's t with m - 1 degrees of
    freedom, since resamples vary less than data made anew, and few prompts say little of how much.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return math.nan, math.nan
    t = _student(prompts - 1)
    below = 0.5 * math.erfc(math.sqrt(prompts / (prompts - 1) / 2) * t)
    low, high = np.quantile(finite, [below, 1 - below]).tolist()
    return low, high


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to .005.

    Exact for 1 and 2 degrees of freedom, else the Cornish-Fisher expansion in 1 / freedom
    (Abramowitz & Stegun 26.7.5).
    """
    if freedom == 1:
        return math.tan(0.475 * math.pi)
    if freedom == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    z, v = _Z, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / float(v) ** (i + 1) for i, term in enumerate(terms))
