"""Rules about how much samples differ: entropy, distinct right answers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from winnow.reporting.alarms.history import LATEST, History, mean, numbers
from winnow.reporting.alarms.reading import Reading, above, below
from winnow.reporting.alarms.signal import LEARNED, tied_share

_ALIKE = 0.9
"""Share of prompts whose samples all score the same: a policy that has stopped trying."""
_LEAST = 0.02
"""Nats; a policy that begins with less is sure of all it says from the start."""
_STEPS_LEFT = 5
"""A trend that reaches the threshold in so few steps is told of before it does."""
_TREND = 6
"""Fewest steps that have one."""
_FIT = 0.8
"""Share of the variance of log entropy that a line must explain to be a trend."""
_HALVED, _RISEN = 0.5, 1.5
"""How far it must have come by then, relative to where it began."""
_MUCH = 0.3
"""Nats from where on a multiple of the entropy is more than noise about a small one."""
_EXPLODED = 2.0
"""Mean of the first steps over the first one from where on they are no start."""
_TELLS = 0.1
"""Distinct right answers at the start from where on their fall says something."""


def entropy_collapse(history: History, threshold: float) -> Reading | None:
    """Entropy relative to the run's start, where there is still something to learn.

    Low entropy alone is no alarm: a policy that has learned arithmetic has little. It is one where
    samples have become so alike that nearly no prompt has different rewards, or where it falls
    within steps while the reward does not rise.
    """
    found = _start_and_now(history)
    right = mean(history.values("right_rate"))
    if found is None or right is None:
        return None
    start, now = found
    value, tied = now / start, tied_share(history)
    slope, rising = trend(history.values("entropy")), reward_rises(history)
    facts = {"start": f"{start:.3g}", "now": f"{now:.3g}", "right": f"{right:.0%}"}
    if right >= LEARNED:
        return Reading(value, "well", facts)
    if value <= threshold:
        alike = tied is not None and tied >= _ALIKE
        return Reading(value, below(value, threshold, if_=alike), facts)
    left = steps_to(now, threshold * start, slope)
    if left is not None and left <= _STEPS_LEFT and value <= _HALVED and not rising:
        return Reading(value, "alarming", {**facts, "left": str(math.ceil(left))}, "slope")
    return Reading(value, below(value, threshold), facts)


def entropy_explosion(history: History, threshold: float) -> Reading | None:
    """Entropy relative to where it was, the start or lower, in times.

    Where the first steps themselves explode, the start is the first of them alone.
    """
    found = _start_and_now(history)
    if found is None:
        return None
    start, now = found
    before = numbers(list(history.recent)[:-LATEST], "entropy")
    first = numbers(history.first, "entropy")[0]
    origin = first if start >= _EXPLODED * first else start
    base = min(origin, median(before)) if before else origin
    value = now / max(base, _LEAST)
    slope, rising = trend(history.values("entropy")), reward_rises(history)
    facts = {"base": f"{base:.3g}", "now": f"{now:.3g}"}
    much = now >= _MUCH and now >= _HALVED * start
    left = steps_to(now, threshold * base, slope)
    soon = value < threshold and left is not None and left <= _STEPS_LEFT
    if soon and much and value >= _RISEN and not rising:
        return Reading(value, "alarming", facts, "slope")
    return Reading(value, above(value, threshold) if much else "well", facts)


def _start_and_now(history: History) -> tuple[float, float] | None:
    """Mean entropy of the first steps and median of the latest; ``None`` before there are both."""
    start = mean(numbers(history.first[:LATEST], "entropy"))
    latest = history.values("entropy", LATEST)
    if start is None or start < _LEAST or len(latest) < LATEST or len(history.recent) <= LATEST:
        return None
    return start, median(latest)


def trend(values: Sequence[float]) -> float | None:
    """Change of the logarithm a step, by least squares; ``None`` if that is no straight line."""
    if len(values) < _TREND or min(values) <= 0:
        return None
    logs, steps = np.log(np.array(values)), np.arange(len(values), dtype=np.float64)
    steps -= steps.mean()
    slope = float((steps * logs).sum() / (steps * steps).sum())
    spread = float(((logs - logs.mean()) ** 2).sum())
    explained = slope * slope * float((steps * steps).sum())
    return slope if spread > 0 and explained >= _FIT * spread else None


def steps_to(now: float, goal: float, slope: float | None) -> float | None:
    """Steps until a trend of the logarithm reaches a goal; ``None`` if it leads elsewhere."""
    if not slope:
        return None
    left = math.log(goal / now) / slope
    return left if left > 0 else None


def reward_rises(history: History) -> bool:
    """Whether the mean reward of the window's second half is above that of its first."""
    values = history.values("reward_mean")
    half = len(values) // 2
    return half > 0 and sum(values[half:]) / (len(values) - half) > sum(values[:half]) / half


def distinct_right(history: History, threshold: float) -> Reading | None:
    """`distinct_right` of the window relative to the first one, where there is more to learn."""
    first = numbers(history.first, "distinct_right")
    latest = history.values("distinct_right")
    apart = len(history.recent) >= 2 * history.window
    start, now, right = mean(first), mean(latest), mean(history.values("right_rate"))
    if not apart or start is None or now is None or right is None or start < _TELLS:
        return None
    if min(len(first), len(latest)) < min(LATEST, history.window):
        return None
    value = now / start
    facts = {"start": f"{start:.2f}", "now": f"{now:.2f}"}
    if right >= LEARNED:
        return Reading(value, "well", facts)
    return Reading(value, below(value, threshold), facts)
