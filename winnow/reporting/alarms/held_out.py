"""Rules about evaluations: held-out accuracy falls, KL to the start runs away. Pure."""

from __future__ import annotations

import math
from statistics import NormalDist

from winnow.reporting.alarms.history import Evaluated, History, Row
from winnow.reporting.alarms.reading import Reading, above
from winnow.reporting.evaluation_line import accuracy_of

_DONE = 0.95
"""Held-out accuracy from where on there is nothing left to gain by."""
_GAIN = 0.05
"""Of accuracy: what a small set does not resolve, and nobody would call nothing."""
_LUCK = 0.05
"""How often accuracy that does not change may seem to fall, all evaluations together."""


def held_out_falls(history: History, threshold: float) -> Reading | None:
    """By how much held-out accuracy is below its best, where their intervals are apart.

    And the training reward has not fallen with it.
    """
    known = [one for one in history.evaluations if _interval(one.row) is not None]
    if len(known) < 2:
        return None
    *before, now = known
    best = max(before, key=lambda one: float(one.row["accuracy"]))
    value = float(best.row["accuracy"]) - float(now.row["accuracy"])
    apart = float(now.row["high"]) < float(best.row["low"])
    apart = apart and value > _by_luck(best.row, now.row, len(known))
    facts = {
        "best": _told(best.row),
        "best_step": str(best.row["step"]),
        "now": _told(now.row),
        "step": str(now.row["step"]),
        "rewards": _rewards(best, now),
    }
    if not apart:
        return Reading(value, "well", facts)
    return Reading(value, above(value, threshold, if_=_not_fallen(best, now)), facts)


def _by_luck(best: Row, now: Row, evaluations: int) -> float:
    """The largest fall, of accuracy, that chance explains: the best of many is high by luck.

    Bonferroni over the pairs of evaluations. The intervals in evals.jsonl are of 95 %.
    """
    pairs = evaluations * (evaluations - 1)
    normal = NormalDist()
    wider = normal.inv_cdf(1 - _LUCK / pairs) / normal.inv_cdf(0.975)
    return wider * math.hypot(best["accuracy"] - best["low"], now["high"] - now["accuracy"])


def _not_fallen(best: Evaluated, now: Evaluated) -> bool:
    return best.reward is not None and now.reward is not None and now.reward >= best.reward


def _rewards(best: Evaluated, now: Evaluated) -> str:
    if best.reward is None or now.reward is None:
        return ""
    return f"from {best.reward:.3f} to {now.reward:.3f}"


def kl_to_start(history: History, threshold: float) -> Reading | None:
    """KL to the start, where it has doubled without accuracy or reward to show for it."""
    known = [one.row for one in history.evaluations if _kl(one.row) is not None]
    if not known:
        return None
    *before, now = known
    value = _kl(now) or 0.0
    earlier = [row for row in before if 2 * (_kl(row) or 0.0) <= value]
    if not earlier:
        return Reading(value, above(value, threshold, if_=False))
    then = earlier[-1]
    facts = {
        "then": f"{_kl(then) or 0.0:.3g}",
        "then_step": str(then["step"]),
        "before": _told(then),
        "after": _told(now),
    }
    stands = not _gained(then, now) and (now.get("accuracy") or 0.0) < _DONE
    return Reading(value, "well" if not stands else above(value, threshold), facts)


def _gained(then: Row, now: Row) -> bool:
    """Whether accuracy has left its earlier interval upwards or risen by `_GAIN`, or a graded
    reward has risen."""
    if then.get("accuracy") is None or now.get("accuracy") is None:
        return True
    highest = then["accuracy"] if then.get("high") is None else then["high"]
    graded = any(_graded(row) for row in (then, now))
    enough = min(highest, then["accuracy"] + _GAIN)
    return bool(now["accuracy"] > enough or (graded and now["reward"] > then["reward"]))


def _graded(row: Row) -> bool:
    return row.get("reward") is not None and abs(row["reward"] - row["accuracy"]) > 1e-9


def _kl(row: Row) -> float | None:
    found = row.get("kl")
    return None if not found or found.get("value") is None else float(found["value"])


def _interval(row: Row) -> tuple[float, float] | None:
    if any(row.get(key) is None for key in ("accuracy", "low", "high")):
        return None
    return float(row["low"]), float(row["high"])


def _told(row: Row) -> str:
    return "no accuracy" if row.get("accuracy") is None else accuracy_of(row)
