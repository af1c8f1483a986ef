"""How far a mean is below the highest of others that were measured on the same prompts. Pure.

The highest of several measured means is too high as an estimate, since it was chosen for being
high, and a test that forgets the choice finds drops where there are none. Here the choice is part
of the test: the largest t statistic of the differences is compared with what the largest would be
if all true differences were 0, of all cases without a drop the one most like a drop (Dunnett 1955;
Hothorn, Bretz & Westfall 2008, *Biometrical J.* 50:346, for correlated means).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from winnow.theory.checks import Array, finite

_SIMULATED = 10_000
_LEVEL = 0.05
_ROUNDING = 1e-9
_MORE = 2
"""Prompts at the top that the covariance counts beside those that there are."""


@dataclass(frozen=True)
class Drop:
    """How far one mean is below another, or below the highest of several.

    Attributes:
        value: As measured, in the values' unit. Of the highest it is too large on average.
        low, high: 95 % interval.
        p: One-sided, of the hypothesis that there is no drop: with a level of 5 % it is rejected
            in 5 % of data without a drop at most. `low` is above 0 where p is below 2.5 %.
    """

    value: float
    low: float
    high: float
    p: float


def drop_from_highest(values: Array, end: int, top: float, seed: int = 0) -> Drop:
    """The drop from the highest of several means to that of column `end`; at least 0.

    With D_i = mean of column i - mean of column `end` and s_i its standard error, the interval is

        low  = max(0, max_i (D_i - c s_i)),    high = max(0, max_i (D_i + t s_i)),

    where c is the 97.5 % quantile of the largest of these correlated t variables and t that of one
    of them: from above, only the column that is truly the highest has to be covered. p is that of
    the largest D_i / s_i.

    The covariance of the D_i counts two more prompts, whose values at `end` are `top`: where the
    end seldom scores highly, it may not have done so on any prompt that was seen, and then these
    vary too little. docs/metrics.md has levels and coverage.

    Args:
        values: Of each prompt at each point, shape (prompts, points); two of each at least.
        end: The column that is compared with all others.
        top: The highest value that one prompt can be expected to have.
        seed: Of the simulated quantiles.

    Raises:
        ValueError: a shape or a number is not as described.
    """
    drop = _drop(values, end, top, seed)
    return Drop(max(0.0, drop.value), max(0.0, drop.low), max(0.0, drop.high), drop.p)


def drop_between(values: Array, start: int, end: int, top: float, seed: int = 0) -> Drop:
    """The drop from column `start`, which was chosen without these values, to column `end`.

    Below 0 where the mean rises. Arguments and errors as of `drop_from_highest`.
    """
    return _drop(finite("values", values)[:, [start, end]], 1, top, seed)


def highest_columns(values: Array, top: float, seed: int = 0) -> list[int]:
    """The columns whose mean may be the highest: a 95 % confidence set.

    Those from which no drop to them is shown at a level of 5 %. The measured highest is among them.
    Arguments and errors as of `drop_from_highest`.
    """
    columns = range(np.shape(values)[1])
    return [i for i in columns if _drop(values, i, top, seed).p > _LEVEL]


def _drop(values: Array, end: int, top: float, seed: int) -> Drop:
    values = finite("values", values)
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError("values must have shape (prompts, points), two of each at least")
    prompts = len(values)
    differences = np.delete(values, end, axis=1) - values[:, [end]]
    means = differences.mean(axis=0)
    means[np.abs(means) <= _ROUNDING * float(np.abs(values).max())] = 0.0
    reach = max(top, float(values.max())) - float(values[:, end].mean())
    centred = differences - means
    covariance = (centred.T @ centred + _MORE * reach**2) / (prompts * (prompts - 1))
    errors = np.sqrt(np.diag(covariance))
    known = errors == 0  # then all of `end` is at `top`, and no drop to it can be
    if known.all():
        largest = float(means.max())
        return Drop(largest, largest, largest, 1.0)
    scale = np.where(known, 1.0, errors)
    simulated = _t_variables(covariance / np.outer(scale, scale), prompts - 1, seed)
    found = float((means / scale)[~known].max())
    highest, single = simulated[:, ~known].max(axis=1), simulated[:, ~known][:, 0]
    c, t = (float(np.quantile(some, 1 - _LEVEL / 2)) for some in (highest, single))
    return Drop(
        value=float(means.max()),
        low=float((means - c * errors).max()),
        high=float((means + t * errors).max()),
        p=float((np.count_nonzero(highest >= found) + 1) / (_SIMULATED + 1)),
    )


def _t_variables(correlation: Array, freedom: int, seed: int) -> Array:
    """Multivariate t, shape (simulated, variables), with one chi-square for each row."""
    rng = np.random.default_rng(seed)
    sizes, directions = np.linalg.eigh(correlation)
    root = directions * np.sqrt(np.maximum(sizes, 0.0))
    normal = rng.standard_normal((_SIMULATED, len(correlation))) @ root.T
    spread = np.sqrt(rng.chisquare(freedom, (_SIMULATED, 1)) / freedom)
    return np.asarray(normal / np.maximum(spread, math.ulp(1.0)))
