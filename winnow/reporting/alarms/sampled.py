"""Rules about samples as they come: cut off, not scored, identical, of other tokens. Pure."""

from __future__ import annotations

from winnow.reporting.alarms.history import LATEST, History, mean
from winnow.reporting.alarms.reading import Reading, above

_FEW = 8
"""Fewer samples say nothing."""
_PLAIN = 0.5
"""Excess of identical pairs that one step is enough for."""


def cut_off(history: History, threshold: float) -> Reading | None:
    """Share of the latest samples that were cut off."""
    rows = [row for row in history.rows(LATEST) if row.get("cut_off_rate") is not None]
    samples = sum(row["samples"] for row in rows)
    if samples < _FEW:
        return None
    value = sum(row["cut_off_rate"] * row["samples"] for row in rows) / samples
    return Reading(value, above(value, threshold), {"samples": str(samples)})


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
    rows = [
        row
        for row in history.rows(LATEST)
        if row.get("identical_pairs") is not None and row.get("identical_expected") is not None
    ]
    found = mean([row["identical_pairs"] for row in rows])
    expected = mean([row["identical_expected"] for row in rows])
    if found is None or expected is None:
        return None
    value = found - expected
    enough = len(rows) >= LATEST or value >= _PLAIN
    facts = {"found": f"{found:.0%}", "expected": f"{expected:.0%}"}
    return Reading(value, above(value, threshold, if_=enough), facts)


def retokenised(history: History, threshold: float) -> Reading | None:
    """Share of the latest samples whose tokens are not those that were sampled."""
    value = mean(history.values("retokenised_rate", LATEST))
    return None if value is None else Reading(value, above(value, threshold))
