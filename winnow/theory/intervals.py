"""Confidence intervals, 95 %: of a proportion, a mean, a mean of rates, resamples. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from winnow.theory.checks import Array

_Z = 1.959963984540054


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
    values: np.ndarray[Any, Any], *, bounded: bool = True
) -> tuple[float | None, float | None, float | None]:
    """A mean and its 95 % interval by the normal approximation.

    Args:
        bounded: Whether the values are rates, so that the interval is cut at 0 and 1.
    """
    if values.size == 0:
        return None, None, None
    mean = float(values.mean())
    if values.size < 2:
        return mean, None, None
    half = _Z * float(values.std(ddof=1)) / math.sqrt(values.size)
    low, high = mean - half, mean + half
    return (mean, max(0.0, low), min(1.0, high)) if bounded else (mean, low, high)


def rate_interval(values: Array, blocks: float) -> tuple[float, float | None, float | None]:
    """A mean of rates and its 95 % interval, which does not close where all are 0 or all are 1.

    Wilson's interval (1927) with an effective sample size, as for surveys (Korn & Graubard 1998):
    as many 0/1 outcomes as would vary as the values do between prompts, but no more than there are
    separate outcomes. Far from both ends it is the normal approximation; where each value is 0 or
    1 it is Wilson's own.

    Args:
        values: One for each prompt, 0 to 1.
        blocks: Separate outcomes in each value: N / n for n out of N samples.
    """
    values = np.clip(values, 0.0, 1.0)  # sums of weights may pass 1 by rounding
    mean, prompts = float(values.mean()), values.size
    if prompts < 2:
        return mean, None, None
    size = float(prompts)
    if not np.isclose(values, np.round(values), rtol=0, atol=1e-9).all():
        spread = float(values.var(ddof=1))
        size *= min(blocks, mean * (1.0 - mean) / spread) if spread > 0 else blocks
    low, high = _wilson(mean, size)
    return mean, min(mean, low), max(mean, high)


def resampled_interval(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % interval from a statistic of resamples (percentile bootstrap); NaN if none is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return math.nan, math.nan
    low, high = np.quantile(finite, [0.025, 0.975]).tolist()
    return low, high
