"""What a study would run, and how long: nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from winnow.config.phases import phases_of
from winnow.rollouts.inputs import flat
from winnow.studies.running import opened, refuse_other, seconds_of, study_folder
from winnow.studies.runs import folder_of, state_of
from winnow.studies.variants import Planned, planned_runs, threads_of
from winnow.theory.comparison import least_seeds
from winnow.training.file_source import open_file
from winnow.training.forecast import work


@dataclass(frozen=True)
class VariantPreview:
    """A variant that would run.

    Attributes:
        settings: Those that are not the reference's, as `key = value`, or `key: unset`.
        steps: At most.
        samples: Training samples of all its steps, refilling aside.
        done: Runs that have ended.
    """

    name: str
    settings: Sequence[str]
    steps: int
    samples: int
    done: int


@dataclass(frozen=True)
class StudyPreview:
    """What a study would run.

    Attributes:
        budget: Of each run, by kind.
        left: Runs that are not done.
        seconds: That they would take, by those that were timed; ``None`` where none was.
        least_seeds: That can tell a difference at all.
    """

    folder: str
    reference: str
    seeds: Sequence[int]
    parallel: int
    threads: int
    budget: Mapping[str, float]
    variants: Sequence[VariantPreview]
    runs: int
    left: int
    seconds: float | None
    least_seeds: int


def preview_study(
    study: str | Path | Mapping[str, Any], out: str | Path | None = None
) -> StudyPreview:
    """Check every run of a study, and say what it would do.

    Raises:
        UserError: whatever is wrong with it.
    """
    file, beside = opened(study)
    folder = study_folder(study, out, file)
    refuse_other(folder)
    runs = planned_runs(file, beside)
    left = [run for run in runs if state_of(folder_of(folder, run)) not in ("done", "stopped")]
    first = {run.variant: run for run in reversed(runs)}
    reference = first[file.reference]
    variants = []
    for name in file.variants:
        config = first[name].config
        found = work(config, phases_of(config, None, open_file), 0, 0)
        variants.append(
            VariantPreview(
                name,
                _changed(reference, first[name]),
                found.steps,
                found.samples,
                len(file.study.seeds) - sum(run.variant == name for run in left),
            )
        )
    return StudyPreview(
        folder=str(folder),
        reference=file.reference,
        seeds=file.study.seeds,
        parallel=file.study.parallel,
        threads=threads_of(file),
        budget=file.study.budget.limits,
        variants=variants,
        runs=len(runs),
        left=len(left),
        seconds=_seconds(folder, left, file.study.parallel),
        least_seeds=least_seeds(file.study.level),
    )


def _changed(reference: Planned, run: Planned) -> list[str]:
    one, other = flat(reference.values), flat(run.values)
    changed = [key for key in dict.fromkeys([*other, *one]) if one.get(key) != other.get(key)]
    return [f"{key} = {other[key]}" if key in other else f"{key}: unset" for key in changed]


def _seconds(folder: Path, left: Sequence[Planned], parallel: int) -> float | None:
    times = seconds_of(folder)
    if not times:
        return None
    of_all = fmean(times.values())
    own = [[t for (name, _), t in times.items() if name == run.variant] for run in left]
    return sum(fmean(found) if found else of_all for found in own) / parallel
