"""Rules about samples as they come: cut off, not scored, identical, of other tokens. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from winnow.reporting.alarms.history import LATEST, History, Row, mean
from winnow.reporting.alarms.reading import Reading, above

_FEW = 8
"""Fewer samples, or prompts of which pairs are compared, say nothing."""
_PLAIN = 0.5
"""Excess of identical pairs that one step is enough for."""
_LUCK = 4.0
"""Standard errors of that excess that chance does not explain, step after step."""


def cut_off(history: History, threshold: float) -> Reading | None:
    """Share of the latest samples that were cut off."""
    rows = [row for row in history.rows(LATEST) if row.get("cut_off_rate") is not None]
    samples = sum(row["samples"] for row in rows)
    if samples < _FEW:
        return None
    value = sum(row["cut_off_rate"] * row["samples"] for row in rows) / samples
    facts = {"samples": str(samples)}
    right = sum((row.get("right_rate") or 0.0) * row["samples"] for row in rows) / samples
    # Even if all others are right, most of those cut off are: the answer comes before the limit.
    if right - (1 - value) > value / 2:
        return Reading(value, "well", facts)
    return Reading(value, above(value, threshold), facts)


def verifier_errors(history: History, threshold: float) -> Reading | None:
    """Share of the window's samples that the verifier failed on."""
    rows = history.rows()
    samples = sum(row.get("samples") or 0 for row in rows)
    errors = sum(row.get("errors") or 0 for row in rows)
    if samples < _FEW:
        return None
    value = errors / samples
    return Reading(value, above(value, threshold), {"errors": f"{errors}", "samples": f"{samples}"})


def identical_samples(history: History, threshold: float) -> Reading | None:
    """Share of pairs of a prompt's samples that are identical, less the share to be expected."""
    rows = _with_pairs(history.rows(LATEST))
    if sum(row["prompts"] for row in rows) < _FEW:
        rows = _with_pairs(history.rows())
    found = mean([row["identical_pairs"] for row in rows])
    expected = mean([row["identical_expected"] for row in rows])
    if found is None or expected is None:
        return None
    value = found - expected
    prompts = sum(row["prompts"] for row in rows)
    enough = len(rows) >= LATEST or value >= _PLAIN
    enough = enough and prompts >= _FEW and value >= _LUCK * _error(rows)
    facts = {"found": f"{found:.0%}", "expected": f"{expected:.0%}"}
    return Reading(value, above(value, threshold, if_=enough), facts)


def _with_pairs(rows: Sequence[Row]) -> list[Row]:
    keys = ("identical_pairs", "identical_expected")
    return [row for row in rows if all(row.get(key) is not None for key in keys)]


def _error(rows: Sequence[Row]) -> float:
    """A bound of the standard error of the excess of identical pairs, of independent samples.

    Of n samples of a prompt, with V the variance of p(y) and s = sum_y p(y)^2, the variance is
    V / n + 2 (s (1 - s) - 2 V) / (n (n - 1)) by the Hoeffding decomposition of the pairs, and
    s (1 - s) <= 1/4, V <= max_p p^3 (1 - p) = 27/256.
    """
    prompts = sum(row["prompts"] for row in rows)
    n = max(2.0, sum(row["samples"] for row in rows) / prompts)
    return math.sqrt((0.5 + max(0.0, n - 5) * 27 / 256) / (n * (n - 1)) / prompts)


def retokenised(history: History, threshold: float) -> Reading | None:
    """Share of the latest samples whose tokens are not those that were sampled."""
    value = mean(history.values("retokenised_rate", LATEST))
    return None if value is None else Reading(value, above(value, threshold))
