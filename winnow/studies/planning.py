"""What a study needs, from a pilot: seeds for a difference of a given size, and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from winnow.errors import UserError
from winnow.storage.paths import shown
from winnow.studies.analysis import Runs, Study
from winnow.studies.running import opened, outcomes_of, seconds_of
from winnow.studies.schema import variant_pairs
from winnow.studies.variants import planned_runs
from winnow.theory.comparison import MOST, paired, seeds_needed, unpaired


@dataclass(frozen=True)
class Need:
    """How many seeds tell two variants apart.

    Attributes:
        sd: Standard deviation over seeds of the differences of runs of one seed; 0 where they are
            all the same, which says nothing of how far others would be.
        unpaired_sd: What it would be if the two shared nothing: sqrt(var a + var b).
        alone: Seeds, where these two are all that is compared.
        all: Seeds, corrected for all pairs of the study (Bonferroni; with Holm they are
            enough); ``None``: more than can be run.
    """

    a: str
    b: str
    seeds: int
    sd: float
    unpaired_sd: float
    alone: int | None
    all: int | None


@dataclass(frozen=True)
class StudyPlan:
    """What a study needs.

    Attributes:
        difference: Of the metric, that is to be found.
        needs: For each pair with the reference, those that share seeds enough for a deviation.
        seeds: The most that any of them needs, all pairs corrected for.
        run_seconds: Of one run, by variant, as the pilot's took with so many at a time.
        samples: That all runs of that many seeds make for training.
        seconds: That they take, so many at a time; ``None`` where no run was timed.
    """

    difference: float
    power: float
    level: float
    comparisons: int
    parallel: int
    needs: Sequence[Need]
    seeds: int | None
    run_seconds: Mapping[str, float]
    samples: float | None
    seconds: float | None


def plan_study(
    pilot: str | Path | Mapping[str, Any], difference: float, out: Path | None = None
) -> StudyPlan:
    """How many seeds find a difference of this size, by the spread of a pilot's runs.

    Args:
        pilot: The folder of a study that was run, or its STUDY.toml with `out`.
        difference: Of the metric: 0.02 is two points of accuracy.
        out: The folder of the study, where `pilot` is a file.

    Raises:
        UserError: it has too few runs.
    """
    if not (difference > 0 and difference < 1e9):
        raise UserError("--difference", f"must be above 0 (got {difference:g})")
    file, beside = opened(pilot)
    folder = out if out is not None else beside
    assert folder is not None
    runs = planned_runs(file, beside, deeply=False)
    outcomes = outcomes_of(folder, file, runs)
    study = Study(file, outcomes)
    pairs = variant_pairs(study.names, file.reference)
    needs = [
        need
        for a, b in pairs
        if a == file.reference and (need := _need(study, a, b, difference, len(pairs))) is not None
    ]
    if not needs:
        problem = f"{shown(folder)} has no two variants with two seeds that both have ended"
        raise UserError(
            "--plan", problem, "run a pilot first: two variants and three seeds or more"
        )
    counts = [need.all for need in needs if need.all is not None]
    seeds = max(counts) if len(counts) == len(needs) else None
    times = seconds_of(folder)
    of_variant = {
        name: fmean(own)
        for name in study.names
        if (own := [t for (variant, _), t in times.items() if variant == name])
    }
    seconds = None
    if seeds is not None and len(of_variant) == len(study.names):
        seconds = seeds * sum(of_variant.values()) / file.study.parallel
    return StudyPlan(
        difference=difference,
        power=file.study.power,
        level=file.study.level,
        comparisons=len(pairs),
        parallel=file.study.parallel,
        needs=needs,
        seeds=seeds,
        run_seconds=of_variant,
        samples=_samples(outcomes, seeds),
        seconds=seconds,
    )


def _samples(outcomes: Runs, seeds: int | None) -> float | None:
    if seeds is None:
        return None
    return seeds * sum(
        fmean(run.spent["samples"] for run in runs.values()) for runs in outcomes.values() if runs
    )


def _need(study: Study, a: str, b: str, difference: float, comparisons: int) -> Need | None:
    seeds = study.both(a, b)
    if len(seeds) < 2:
        return None
    one, other = ([study.runs[name][seed].final for seed in seeds] for name in (a, b))
    own, apart = paired(one, other, study.level), unpaired(one, other, study.level)
    assert own.sd is not None
    assert apart.sd is not None
    sd = 0.0 if own.low is None else own.sd  # less than rounding is none
    table = study.file.study
    return Need(
        a=a,
        b=b,
        seeds=len(seeds),
        sd=sd,
        unpaired_sd=apart.sd,
        alone=_within(seeds_needed(difference, sd, table.level, table.power)),
        all=_within(seeds_needed(difference, sd, table.level, table.power, comparisons)),
    )


def _within(seeds: int) -> int | None:
    return None if seeds >= MOST else seeds
