"""Student's t with and without a shift, and the beta distribution behind it: exact, for any level.

Abramowitz & Stegun (1964), chapters 6 and 26; the continued fraction is that of Numerical Recipes
(Press et al. 2007, 6.4). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from winnow.theory.checks import Array

_TINY = 1e-300
_STEPS = 10_000
_NODES = 200


def betainc(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function I_x(a, b): P(B <= x) of B ~ Beta(a, b).

    Raises:
        ValueError: a or b is not above 0, or x is outside 0 to 1.
    """
    if not (a > 0 and b > 0 and 0 <= x <= 1):
        raise ValueError("betainc needs a > 0, b > 0 and 0 <= x <= 1")
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # where the fraction would converge slowly
        return 1.0 - betainc(b, a, 1.0 - x)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return math.exp(log_front) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b), by Lentz's method."""
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / _away(1.0 + term * d)
            c = _away(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _away(value: float) -> float:
    """`value`, but not 0."""
    return value if abs(value) > _TINY else _TINY


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = probability, by bisection to the last bits."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if betainc(a, b, middle) < probability else (low, middle)
    return (low + high) / 2


def two_sided(t: float, freedom: float) -> float:
    """P(|T| >= |t|) for T of Student's t with that many degrees of freedom, not only whole ones."""
    if math.isinf(t):
        return 0.0
    return betainc(freedom / 2, 0.5, freedom / (freedom + t * t))


@lru_cache(maxsize=4096)
def quantile(level: float, freedom: float) -> float:
    """The t with P(|T| <= t) = level: 2.262 for .95 and 9 degrees of freedom.

    Newton's method from the normal quantile: the tail is convex, so it never passes the root.

    Raises:
        ValueError: `level` is not between 0 and 1, or `freedom` is not above 0.
    """
    checked_level(level)
    if not freedom > 0:
        raise ValueError("freedom must be above 0")
    t = NormalDist().inv_cdf(0.5 + level / 2)
    log_front = (
        math.lgamma((freedom + 1) / 2)
        - math.lgamma(freedom / 2)
        - 0.5 * math.log(freedom * math.pi)
    )
    for _ in range(_STEPS):
        density = math.exp(log_front - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (two_sided(t, freedom) - (1.0 - level)) / (2 * density)
        t += step
        if abs(step) <= 1e-13 * t:
            break
    return t


def checked_level(level: float) -> float:
    """`level`, if it is between 0 and 1; else ValueError."""
    if not 0 < level < 1:
        raise ValueError("level must be between 0 and 1")
    return level


@lru_cache(maxsize=1)
def _nodes() -> tuple[Array, Array]:
    legendre: Callable[[int], tuple[Array, Array]] = np.polynomial.legendre.leggauss
    return legendre(_NODES)


def shifted_cdf(t: float, freedom: int, shift: float) -> float:
    """P(T <= t) for T = (Z + shift) / s, the noncentral t distribution.

    Z is standard normal and freedom s^2 chi-squared with that many degrees of freedom. Integrated
    over s by Gauss-Legendre quadrature where its density is above rounding.
    """
    width = 12.0 / math.sqrt(2 * freedom)
    low, high = max(0.0, 1.0 - width), 1.0 + width
    points, weights = _nodes()
    s = low + (high - low) * (points + 1) / 2
    half = freedom / 2
    log_density = (
        math.log(2.0)
        + half * math.log(half)
        - math.lgamma(half)
        + (freedom - 1) * np.log(s)
        - half * s * s
    )
    below = np.array([0.5 * math.erfc(-(t * each - shift) / math.sqrt(2)) for each in s])
    return float((weights * np.exp(log_density) * below).sum() * (high - low) / 2)


def power(effect: float, seeds: int, level: float = 0.95) -> float:
    """How often a paired t test finds a true difference: P(|T| > t) of the noncentral t.

    Args:
        effect: True difference over the standard deviation of the differences.
        seeds: How many differences there are, at least 2.
        level: 1 - the probability of finding one where there is none.
    """
    t, shift = quantile(level, seeds - 1), effect * math.sqrt(seeds)
    return 1.0 - shifted_cdf(t, seeds - 1, shift) + shifted_cdf(-t, seeds - 1, shift)
