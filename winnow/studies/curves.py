"""Curves over seeds: at each x the mean and its interval, from the curves of single runs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from winnow.studies.outcomes import Outcome, Point
from winnow.theory.comparison import mean_interval
from winnow.theory.summaries import first_reach
from winnow.theory.verdicts import Measure

_POINTS = 40
"""Of a curve whose runs were evaluated at unlike x."""
Value = Callable[[Point], float | None]


@dataclass(frozen=True)
class Curve:
    """A curve over seeds; `low` and `high` are ``None`` as those of `comparison.mean_interval`."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float | None]
    high: Sequence[float | None]


def curve_of(
    runs: Sequence[Outcome], axis: str, value: Value, measure: Measure, level: float
) -> Curve:
    """The mean over runs of a value on the way, as far as all of them go.

    Args:
        runs: Of one variant, one for each seed.
        axis: Kind of budget that is the x axis.
        value: Of an evaluation; points without one are passed by.
        measure: What the value is one of.
        level: Of the interval.
    """
    lines = [line_of(run, axis, value) for run in runs]
    lines = [line for line in lines if line[0]]
    if not lines:
        return Curve((), (), (), ())
    first, last = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    same = all(x == lines[0][0] for x, _ in lines)
    grid = lines[0][0] if same else [float(x) for x in np.linspace(first, last, _POINTS)]
    if not same and last <= first:
        grid = [first] if last == first else []
    heights = [np.interp(grid, x, y) for x, y in lines]
    each = ([h[i] for h in heights] for i in range(len(grid)))
    found = [measure.mean(mean_interval(values, level)) for values in each]
    mean, low, high = ([one[part] for one in found] for part in range(3))
    return Curve(grid, [m for m in mean if m is not None], low, high)


def line_of(run: Outcome, axis: str, value: Value) -> tuple[list[float], list[float]]:
    """The x and the values of a run on the way; x rises."""
    xs: list[float] = []
    ys: list[float] = []
    for point in run.points:
        x, y = point.spent[axis], value(point)
        if y is None:
            continue
        if xs and x <= xs[-1]:  # nothing was spent since: the later evaluation holds
            xs, ys = xs[:-1], ys[:-1]
        xs.append(x)
        ys.append(y)
    return xs, ys


def at_metric(run: Outcome, quantity: str, level: float) -> float | None:
    """A quantity where the run's metric is first at a level, between evaluations by a line.

    ``None`` where it never is, or the quantity is not known there.
    """
    points = [point for point in run.points if quantity in point.quantities]
    steps = [float(point.step) for point in points]
    if not steps:
        return None
    step = first_reach(steps, [point.metric for point in points], level)
    if step is None:
        return None
    return float(np.interp(step, steps, [point.quantities[quantity] for point in points]))


def common_level(runs: Sequence[Outcome], quantity: str) -> float | None:
    """The highest metric that all runs reach where a quantity is known."""
    tops = [
        max((p.metric for p in run.points if quantity in p.quantities), default=None)
        for run in runs
    ]
    known = [top for top in tops if top is not None]
    return min(known) if known and len(known) == len(tops) else None
