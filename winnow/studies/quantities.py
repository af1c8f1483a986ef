"""Entropy, distinct right answers, KL and pass@k over seeds: at the end, and at equal metric. Pure.

A policy that has learned more has a lower entropy whatever taught it, so the two of a pair are
compared where their metric is the same, not at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from winnow.studies.curves import at_metric, common_level
from winnow.studies.outcomes import QUANTITIES, Outcome
from winnow.theory.comparison import holm, mean_interval, paired
from winnow.theory.verdicts import Measure, Rule, told, verdict

QUANTITY_MEASURES = {
    "entropy": Measure("entropy", "nats", 1.0, 3, None, 0.0),
    "distinct_right": Measure(
        "share of distinct right answers", "points", 100.0, 1, None, 0.0, 1.0
    ),
    "kl": Measure("KL to the start", "nats", 1.0, 3, None, 0.0),
    "pass_at_k": Measure("pass@k", "points", 100.0, 1, None, 0.0, 1.0),
}
_ENDS = ("value", "low", "high")


def final_quantities(runs: Sequence[Outcome], level: float) -> dict[str, Any]:
    """Of a variant, the mean over seeds of each as the runs end, with its interval.

    Entropy and distinct answers are of the last step's samples, KL and pass@k of the last
    evaluation; those that a run lacks are left out.
    """
    made: dict[str, Any] = {}
    for name in QUANTITIES:
        values = [run.last[name] for run in runs if name in run.last]
        if values and len(values) == len(runs):
            mean, low, high = QUANTITY_MEASURES[name].mean(mean_interval(values, level))
            made[name] = {"value": mean, "low": low, "high": high}
    return made


def compared_at_equal_metric(
    runs: Mapping[str, Mapping[int, Outcome]],
    names: Sequence[str],
    reference: str,
    seeds: Sequence[int],
    rule: Rule,
) -> list[dict[str, Any]]:
    """Each quantity of each variant minus the reference's, where both have the same metric.

    That is the highest metric that all runs of the two reach, if it is above the start; each run's
    quantity is that of the moment when it first does. p is corrected over the variants (Holm).
    """
    made: list[dict[str, Any]] = []
    for quantity in QUANTITIES:
        found = [
            one
            for name in names
            if name != reference
            and (one := _at_equal(runs[reference], runs[name], quantity, seeds, rule)) is not None
            and one.update({"a": reference, "b": name}) is None
        ]
        own = replace(rule, comparisons=max(1, len(found)), margin=None)
        adjusted = holm([one["difference"].p for one in found])
        for one, p in zip(found, adjusted, strict=True):
            difference = one.pop("difference")
            where = f"at {one['metric']:.3f} of the metric"
            said = verdict(difference, p, (one["a"], one["b"]), QUANTITY_MEASURES[quantity], own)
            made.append(
                {
                    "quantity": quantity,
                    **one,
                    "paired": asdict(difference),
                    "adjusted_p": p,
                    "told": told(difference, p, own),
                    "verdict": f"{where}: {said}",
                }
            )
    return made


def _at_equal(
    reference: Mapping[int, Outcome],
    variant: Mapping[int, Outcome],
    quantity: str,
    seeds: Sequence[int],
    rule: Rule,
) -> dict[str, Any] | None:
    both = [seed for seed in seeds if seed in reference and seed in variant]
    pairs = [(reference[seed], variant[seed]) for seed in both]
    every = [run for pair in pairs for run in pair]
    if quantity == "entropy" and any(run.temperature != 1 for run in every):
        return None  # of other distributions than the policies'
    if quantity == "pass_at_k" and len({run.k for run in every}) > 1:
        return None  # more samples find more
    level = common_level(every, quantity)
    if level is None or level <= fmean(run.points[0].metric for run in every):
        return None
    values = [[at_metric(run, quantity, level) for run in pair] for pair in pairs]
    known = [(a, b) for a, b in values if a is not None and b is not None]
    if len(known) < len(values):
        return None
    one, other = ([pair[side] for pair in known] for side in range(2))
    measure = QUANTITY_MEASURES[quantity]
    of_a, of_b = (
        dict(zip(_ENDS, measure.mean(mean_interval(x, rule.level)), strict=True))
        for x in (one, other)
    )
    difference = measure.difference(paired(one, other, rule.level))
    return {"metric": level, "of_a": of_a, "of_b": of_b, "difference": difference}
