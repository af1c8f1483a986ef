"""What sums up runs over seeds, and the curve of a run, in one number. Pure.

The interquartile mean and the probability of improvement are those of Agarwal et al. (2021,
2108.13264; the library rliable), with intervals that hold for few seeds in place of its bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from winnow.theory import student
from winnow.theory.checks import Array, outcomes, rounding_of


def interquartile_mean(
    x: ArrayLike, level: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Mean of the middle half of the runs, and its interval.

    Of n runs the floor(n / 4) lowest and as many highest are left out, h remain. The interval is
    that of Yuen (1974, *Biometrika* 61:165): Student's t with h - 1 degrees of freedom and the
    standard error s_w sqrt((n - 1) / (h (h - 1))), s_w the standard deviation after the outermost
    ones are set to the nearest that remain. For 2 and 3 runs it is that of the mean. ``None`` for
    one run, or where those that remain are all the same.

    Args:
        x: An outcome for each seed, shape (n,).
        level: What share of such intervals is to hold the true one.

    Raises:
        ValueError: No finite outcomes, or `level` not within 0 to 1.
    """
    values = np.sort(outcomes("x", x))
    student.checked_level(level)
    n, out = values.size, values.size // 4
    middle = values[out : n - out]
    mean, h = float(middle.mean()), middle.size
    if middle[-1] - middle[0] <= rounding_of(values):
        return mean, None, None
    spread = float(np.clip(values, middle[0], middle[-1]).std(ddof=1))
    half = student.quantile(level, h - 1) * spread * math.sqrt((n - 1) / (h * (h - 1)))
    return mean, mean - half, mean + half


def probability_of_improvement(
    a: ArrayLike, b: ArrayLike, paired: bool, level: float = 0.95
) -> tuple[float, float | None, float | None]:
    """How probable it is that a run of b is above one of a (ties count half), and its interval.

    Outcomes that differ by rounding alone tie.

    Paired, the share of seeds at which b is above a, with the interval of Clopper and Pearson
    (1934). Unpaired, the share of all pairs of runs (Mann & Whitney 1947), with the interval of
    Newcombe (2006, *Stat. Med.* 25:559, method 5), but Student's t with n + m - 2 degrees of
    freedom in place of z, which at 3 runs each would be too narrow. ``None`` for one seed.

    Args:
        a, b: An outcome for each seed; paired, of the same seeds in the same order.
        paired: Whether a run of b is compared with the run of a that has its seed.
        level: What share of such intervals is to hold the true probability.

    Raises:
        ValueError: No finite outcomes, unlike numbers of paired ones, or `level` not within 0 to 1.
    """
    first, second = outcomes("a", a), outcomes("b", b)
    student.checked_level(level)
    if paired and first.size != second.size:
        raise ValueError("a and b must have an outcome for each of the same seeds")
    others = first if paired else first[:, None]
    above = second - others
    tied = np.abs(above) <= rounding_of(first, second)
    value = float(np.where(tied, 0.5, above > 0).mean())
    if min(first.size, second.size) < 2:
        return value, None, None
    if paired:
        return value, *_clopper_pearson(value * first.size, first.size, level)
    return value, *_newcombe(value, first.size, second.size, level)


def _clopper_pearson(successes: float, n: int, level: float) -> tuple[float, float]:
    tail, failures = (1.0 - level) / 2, n - successes
    low = student.beta_quantile(tail, successes, failures + 1) if successes > 0 else 0.0
    high = student.beta_quantile(1 - tail, successes + 1, failures) if failures > 0 else 1.0
    return low, high


def _newcombe(value: float, n: int, m: int, level: float) -> tuple[float, float]:
    """The probabilities theta that are t standard errors, theta's own, from the measured one."""
    t, half = student.quantile(level, n + m - 2), (n + m) / 2 - 1

    def within(theta: float) -> bool:
        share = (1 - theta) / (2 - theta) + theta / (1 + theta)
        variance = theta * (1 - theta) / (n * m) * (1 + half * share)
        return abs(theta - value) <= t * math.sqrt(variance)

    return _edge(value, 0.0, within), _edge(value, 1.0, within)


def _edge(inside: float, outside: float, within: Callable[[float], bool]) -> float:
    """Where `within` ends on the way from a point inside to one that may be outside."""
    if abs(inside - outside) < 1e-12:
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if within(middle) else (inside, middle)
    return (inside + outside) / 2


def area_under(xs: ArrayLike, ys: ArrayLike) -> float:
    """Area under a curve over the length of its x axis: its mean height, in the unit of y.

    By trapezoids, so that it does not depend on how often a run is evaluated where y is a line.

    Args:
        xs: Budget spent, rising, shape (points,).
        ys: Metric there, shape (points,).

    Raises:
        ValueError: Fewer than two points, one not finite, or `xs` does not rise.
    """
    x, y = _curve(xs, ys)
    if x.size < 2:
        raise ValueError("an area needs two points")
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum() / (x[-1] - x[0]))


def first_reach(xs: ArrayLike, ys: ArrayLike, level: float) -> float | None:
    """The x at which a curve is first at or above a level but for rounding, or ``None``.

    On the line between the two points that it passes the level between.

    Args:
        xs: Budget spent, rising, shape (points,).
        ys: Metric there, shape (points,).
        level: The height to reach, in the unit of y.

    Raises:
        ValueError: No points, one not finite, or `xs` does not rise.
    """
    x, y = _curve(xs, ys)
    reached = np.flatnonzero(y >= level - rounding_of(y))
    if not reached.size:
        return None
    i = int(reached[0])
    if i == 0:
        return float(x[0])
    share = min(1.0, (level - y[i - 1]) / (y[i] - y[i - 1]))
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


def _curve(xs: ArrayLike, ys: ArrayLike) -> tuple[Array, Array]:
    x, y = outcomes("xs", xs), outcomes("ys", ys)
    if x.shape != y.shape:
        raise ValueError("xs and ys must be of one length")
    if not (np.diff(x) > 0).all():
        raise ValueError("xs must rise")
    return x, y
