"""Variants compared over seeds: all that a study's table, JSON and page say. Pure.

No time is in it and nothing of the machine, so that a study that was killed and resumed says the
same, bit for bit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from winnow.studies.curves import Value, curve_of, line_of
from winnow.studies.outcomes import QUANTITIES, Outcome, Point
from winnow.studies.quantities import (
    QUANTITY_MEASURES,
    compared_at_equal_metric,
    final_quantities,
)
from winnow.studies.schema import StudyFile, variant_pairs
from winnow.theory.comparison import (
    holm,
    least_seeds,
    mean_interval,
    paired,
    sign_flip,
    unpaired,
)
from winnow.theory.summaries import (
    area_under,
    first_reach,
    interquartile_mean,
    probability_of_improvement,
)
from winnow.theory.verdicts import Measure, Rule, more_seeds, told, verdict

Runs = Mapping[str, Mapping[int, Outcome]]
"""The outcomes of each variant, by seed."""
MEASURES = {
    "accuracy": Measure("held-out accuracy", least=0.0, most=1.0),
    "reward": Measure("", unit="held-out reward", scale=1.0, digits=3),
}


@dataclass(frozen=True)
class Study:
    """What is compared, and how."""

    file: StudyFile
    runs: Runs

    @property
    def names(self) -> list[str]:
        return list(self.file.variants)

    @property
    def level(self) -> float:
        return self.file.study.level

    @property
    def measure(self) -> Measure:
        return MEASURES[self.file.study.metric]

    def rule(self, comparisons: int) -> Rule:
        table = self.file.study
        return Rule(table.level, table.power, table.margin or None, max(1, comparisons))

    def both(self, a: str, b: str) -> list[int]:
        """The seeds with which both have ended."""
        return [
            seed for seed in self.file.study.seeds if seed in self.runs[a] and seed in self.runs[b]
        ]

    def finals(self, name: str) -> list[float]:
        return [self.runs[name][seed].final for seed in self.seeds(name)]

    def seeds(self, name: str) -> list[int]:
        return [seed for seed in self.file.study.seeds if seed in self.runs[name]]


def compared(file: StudyFile, runs: Runs) -> dict[str, Any]:
    """The comparison, as JSON has it.

    Args:
        runs: Of every variant those that have ended, with a score.
    """
    study = Study(file, runs)
    level = reach_of(study)
    finals = {n: {seed: run.final for seed, run in own.items()} for n, own in runs.items()}
    differences = _differences(study, finals, study.measure)
    on_the_way = replace(study.measure, what=f"{file.study.metric} on the way")
    quantities = compared_at_equal_metric(
        runs, study.names, file.reference, file.study.seeds, study.rule(1)
    )
    return {
        "study": _told(study, level),
        "variants": [_variant(study, name, level) for name in study.names],
        "differences": differences,
        "on_the_way": _differences(study, _areas(study), on_the_way),
        "quantities": quantities,
        "curves": _curves(study),
        "verdicts": [each["verdict"] for each in differences if each["a"] == file.reference],
        "notes": _notes(study, level),
    }


def reach_of(study: Study) -> float | None:
    """The level of the metric to be reached: as set, or half of the way up from the start.

    The way is from the mean of all first evaluations to the highest mean of a variant at its end.
    """
    table = study.file.study
    if table.reach is not None:
        return table.reach
    begins = [run.points[0].metric for runs in study.runs.values() for run in runs.values()]
    means = [statistics.fmean(study.finals(name)) for name in study.names if study.runs[name]]
    if not begins or max(means) <= statistics.fmean(begins):
        return None
    begin, top = statistics.fmean(begins), max(means)
    digits = max(3, 2 - math.floor(math.log10(top - begin)))
    return round((begin + top) / 2, digits)


def _told(study: Study, level: float | None) -> dict[str, Any]:
    table = study.file.study
    pairs = variant_pairs(study.names, study.file.reference)
    return {
        "name": table.name,
        "variants": study.names,
        "reference": study.file.reference,
        "seeds": table.seeds,
        "metric": table.metric,
        "unit": study.measure.unit,
        "level": table.level,
        "power": table.power,
        "margin": table.margin,
        "budget": table.budget.limits,
        "axis": table.over,
        "reach": level,
        "comparisons": len(pairs),
        "correction": "Holm over all pairs",
        "least_seeds": least_seeds(table.level),
    }


def _variant(study: Study, name: str, level: float | None) -> dict[str, Any]:
    runs = [study.runs[name][seed] for seed in study.seeds(name)]
    finals = study.finals(name)
    made: dict[str, Any] = {
        "name": name,
        "seeds": study.seeds(name),
        "finals": finals,
        "stopped": [seed for seed in study.seeds(name) if study.runs[name][seed].stopped],
        "steps": [run.steps for run in runs],
        "spent": [_without_time(run.spent) for run in runs],
    }
    if not runs:
        return made
    axis = study.file.study.over
    areas = [area_of(run, axis) for run in runs]
    known = [area for area in areas if area is not None]
    reached = [reach_at(run, axis, level) for run in runs] if level is not None else []
    return {
        **made,
        "mean": _interval(study.measure.mean(mean_interval(finals, study.level))),
        "iqm": _interval(study.measure.mean(interquartile_mean(finals, study.level))),
        "area": None
        if len(known) < len(areas)
        else _interval(study.measure.mean(mean_interval(known, study.level))),
        "reach": {
            "level": level,
            "each": reached,
            "reached": sum(x is not None for x in reached),
            "median": _median(reached),
        },
        "quantities": final_quantities(runs, study.level),
    }


def _without_time(spent: Mapping[str, float]) -> dict[str, float]:
    return {kind: value for kind, value in spent.items() if kind != "seconds"}


def area_of(run: Outcome, axis: str) -> float | None:
    """Area under the metric's curve over its length; ``None`` with one evaluation."""
    xs, ys = line_of(run, axis, _metric)
    return area_under(xs, ys) if len(xs) > 1 else None


def reach_at(run: Outcome, axis: str, level: float) -> float | None:
    """What was spent when the metric was first at a level."""
    xs, ys = line_of(run, axis, _metric)
    return first_reach(xs, ys, level) if xs else None


def _median(values: Sequence[float | None]) -> float | None:
    """Runs that never reach it are above all that do; ``None``: the median is of such a run."""
    if not values:
        return None
    found = statistics.median([math.inf if x is None else x for x in values])
    return found if math.isfinite(found) else None


def _of(quantity: str) -> Value:
    return lambda point: point.quantities.get(quantity)


def _metric(point: Point) -> float | None:
    return point.metric


def _interval(found: tuple[float, float | None, float | None]) -> dict[str, float | None]:
    return dict(zip(("value", "low", "high"), found, strict=True))


def _areas(study: Study) -> dict[str, dict[int, float]]:
    """For each variant the area under each run's curve, of those that have one."""
    axis = study.file.study.over
    found = {n: {s: area_of(run, axis) for s, run in own.items()} for n, own in study.runs.items()}
    return {n: {s: a for s, a in own.items() if a is not None} for n, own in found.items()}


def _differences(
    study: Study, values: Mapping[str, Mapping[int, float]], measure: Measure
) -> list[dict[str, Any]]:
    """b minus a for each pair of variants; p corrected for all of them (Holm).

    Args:
        values: One of each run, by variant and seed.
    """
    found = []
    for a, b in variant_pairs(study.names, study.file.reference):
        seeds = [s for s in study.file.study.seeds if s in values[a] and s in values[b]]
        if seeds:
            one, other = ([values[name][seed] for seed in seeds] for name in (a, b))
            found.append((a, b, one, other, measure.difference(paired(one, other, study.level))))
    adjusted = holm([each[-1].p for each in found])
    rule = study.rule(len(found))
    made = []
    for (a, b, one, other, difference), p in zip(found, adjusted, strict=True):
        apart = measure.difference(
            unpaired([*values[a].values()], [*values[b].values()], study.level)
        )
        made.append(
            {
                "a": a,
                "b": b,
                "paired": asdict(difference),
                "sign_flip": asdict(sign_flip(one, other, study.level)),
                "unpaired": asdict(apart),
                "adjusted_p": p,
                "told": told(difference, p, rule),
                "improvement": _interval(probability_of_improvement(one, other, True, study.level)),
                "seeds_needed": more_seeds(difference, rule),
                "verdict": verdict(difference, p, (a, b), measure, rule),
            }
        )
    return made


def _curves(study: Study) -> dict[str, dict[str, Any]]:
    """For each variant its curves over seeds: of the metric, and of what is known beside it."""
    axis = study.file.study.over
    made: dict[str, dict[str, Any]] = {}
    for name in study.names:
        runs = [study.runs[name][seed] for seed in study.seeds(name)]
        if runs:
            own = curve_of(runs, axis, _metric, study.measure, study.level)
            made[name] = {"metric": asdict(own)}
            for quantity in QUANTITIES:
                curve = curve_of(
                    runs, axis, _of(quantity), QUANTITY_MEASURES[quantity], study.level
                )
                if curve.x:
                    made[name][quantity] = asdict(curve)
                    made[name][f"metric_by_{quantity}"] = _beside(study, runs, quantity)
    return made


def _beside(study: Study, runs: Sequence[Outcome], quantity: str) -> dict[str, Any]:
    """Mean of a quantity and mean metric at the same x: a path of points."""
    axis, level = study.file.study.over, study.level

    def known(point: Point) -> float | None:
        return point.metric if quantity in point.quantities else None

    own = curve_of(runs, axis, _of(quantity), QUANTITY_MEASURES[quantity], level)
    metric = curve_of(runs, axis, known, study.measure, level)
    return {"x": own.mean, "mean": metric.mean, "low": metric.low, "high": metric.high}


def _notes(study: Study, level: float | None) -> list[str]:
    """What a person should know of the comparison."""
    notes = []
    table = study.file.study
    for name in study.names:
        if missing := [seed for seed in table.seeds if seed not in study.runs[name]]:
            seeds = ", ".join(map(str, missing))
            notes.append(f"{name}: no result for seed {seeds}; it is compared with the others")
        stopped = [seed for seed in study.seeds(name) if study.runs[name][seed].stopped]
        if stopped:
            seeds = ", ".join(map(str, stopped))
            notes.append(f"{name}: ended by an alarm at seed {seeds}; what it came to counts")
    for kind, limit in table.budget.limits.items():
        for name in study.names:
            runs = [study.runs[name][seed] for seed in study.seeds(name)]
            short = [run.early for run in runs if run.spent[kind] < limit and not run.stopped]
            for early, why in ((False, "raise steps"), (True, "eval.patience ended it")):
                if early in short:
                    notes.append(
                        f"{name}: ended before its budget of {limit:,.10g} {kind} at "
                        f"{short.count(early)} of {len(runs)} seeds: {why}"
                    )
    if level is None and study.file.study.reach is None:
        notes.append("no variant rose above the start, so there is no level to reach")
    return notes
