"""`winnow compare`: runs a study to its end, and writes what it came to.

    STUDY/study.toml    the study, resolved
    STUDY/recipes/      a recipe for each run
    STUDY/runs/VARIANT/seed-N/   an ordinary run folder each
    STUDY/logs/         what the runs printed
    STUDY/result.json, study.html   the comparison, and its page
    STUDY/times.jsonl   how long the runs took, for `--plan`

Which runs are done is read from their own folders, so it is resumed by the same command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from winnow.errors import UserError, WinnowError, number_of
from winnow.reporting.page.study import study_page
from winnow.reporting.study_terminal import Quiet, Shown, StudyTerminal
from winnow.storage.atomic import append_line, disk, make_folder, refuse, write_text
from winnow.storage.lines import drop_cut, line_of, rows_of
from winnow.storage.lock import FolderLock
from winnow.storage.paths import located, shown
from winnow.storage.reading import has_file, has_folder
from winnow.studies.analysis import compared
from winnow.studies.children import TRAIN, Child, Children, Ended
from winnow.studies.outcomes import Outcome, outcome_of
from winnow.studies.runs import RUNS, STUDY, folder_of, prepare, state_of
from winnow.studies.schema import StudyFile, read_study, study_of
from winnow.studies.sharing import Sharing, sharing_of
from winnow.studies.variants import Planned, planned_runs, threads_of

RESULT, PAGE, TIMES = "result.json", "study.html", "times.jsonl"


class FailedRuns(WinnowError):
    """Some runs of a study did not come to their ends; the others did, and are compared."""


@dataclass(frozen=True)
class Comparison:
    """A study that was run.

    Attributes:
        folder: Of the study.
        result: Its comparison: what result.json has.
        page: The page of it.
        failed: A line for each run that did not come to its end.
    """

    folder: Path
    result: Mapping[str, Any]
    page: Path
    failed: Sequence[str] = ()

    @property
    def verdicts(self) -> Sequence[str]:
        """Of each variant against the reference, in words."""
        return list(self.result["verdicts"])

    def __repr__(self) -> str:
        return "\n".join([f"Comparison in {shown(self.folder)}", *self.verdicts])


def opened(study: str | Path | Mapping[str, Any]) -> tuple[StudyFile, Path | None]:
    """A study and the folder that its paths are beside: of a file, of a study's folder, of values.

    Raises:
        UserError: it is none.
    """
    if isinstance(study, Mapping):
        return study_of(study), None
    path = located(study, "study")
    if has_folder(path, "study"):
        path = path / STUDY
        if not has_file(path, "study"):
            problem = f"{shown(path.parent)} is no folder of a study (it has no {STUDY})"
            raise UserError("study", problem, "name a STUDY.toml, or what winnow compare made")
    return read_study(path), path.parent


def run_study(
    study: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    quiet: bool = False,
    train: Sequence[str] = TRAIN,
) -> Comparison:
    """Run what is not done of a study, and compare.

    Args:
        study: A STUDY.toml, or its values, or the folder of a study, to resume.
        out: Folder of the study; one that was begun is resumed. Default: `studies/NAME`.
        train: The command that is `winnow train`.

    Raises:
        UserError: something in the study is wrong, or its folder was begun with other settings.
        Stopped: by Ctrl-C; the runs end saved, and the same command resumes.
        WinnowError: no variant has a result.
    """
    file, beside = opened(study)
    folder = study_folder(study, out, file)
    refuse_other(folder)
    runs = planned_runs(file, beside)
    with FolderLock("out") as lock:
        with disk(folder):
            make_folder(folder)
        lock.take(folder)
        prepare(folder, runs, _text(file, runs))
        left = [run for run in runs if state_of(folder_of(folder, run)) not in ("done", "stopped")]
        failed = _run(folder, file, runs, left, Quiet() if quiet else StudyTerminal(), train)
        made = compare_folder(folder, file, runs)
    return Comparison(folder, made, folder / PAGE, failed)


def study_folder(
    study: str | Path | Mapping[str, Any], out: str | Path | None, file: StudyFile
) -> Path:
    """Where a study is run: `out`, the folder that was given as the study, or `studies/NAME`."""
    if out is not None:
        return located(out, "out")
    if not isinstance(study, Mapping) and (path := located(study, "study")).is_dir():
        return path
    return located(Path("studies") / file.study.name, "out")


def refuse_other(folder: Path) -> None:
    """Raise a `UserError` if a folder holds anything but a study, or cannot be made."""
    if not os.path.isdir(folder):
        refuse(folder)
    elif not (folder / STUDY).is_file():
        others = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
        if set(others) - {RUNS, "recipes", "logs"}:
            problem = f"{shown(folder)} is there and is no folder of a study"
            raise UserError("out", problem, "choose another --out")


def _text(file: StudyFile, runs: Sequence[Planned]) -> str:
    """The study with what it names by paths made absolute: it is resumed from anywhere."""
    values = file.model_dump(exclude_none=True)
    values["base"] = {}
    values["variants"] = {}
    for run in runs:
        if run.seed == file.study.seeds[0]:
            own = {k: v for k, v in run.values.items() if k not in ("seed", "threads", "budget")}
            values["variants"][run.variant] = own
    values["study"]["threads"] = threads_of(file)
    return tomli_w.dumps(values)


def _run(
    folder: Path,
    file: StudyFile,
    runs: Sequence[Planned],
    left: Sequence[Planned],
    shows: Shown,
    train: Sequence[str],
) -> list[str]:
    """Bring runs to their ends; a line for each that did not come to one."""
    failed: list[str] = []

    def ended(end: Ended) -> None:
        if end.seconds is not None:
            _record(folder, end.run, end.seconds)
        if end.failed:
            failed.append(f"{end.run.name}: {end.said}")
            shows.note(f"{end.run.name} failed: {end.said}")
        else:
            outcome = outcome_of(folder_of(folder, end.run), file.study.metric)
            shows.ended(end.run.name, _came_to(file, outcome))

    def watch(children: Sequence[Child]) -> None:
        shows.going([(child.run.name, child.folder) for child in children])

    with shows:
        shows.begin(len(runs), len(runs) - len(left), file.study.parallel)
        Children(folder, file.study.parallel, threads_of(file), train).run(left, ended, watch)
    return failed


def _came_to(file: StudyFile, outcome: Outcome | None) -> str:
    if outcome is None:
        return "no evaluation has a score"
    what = file.study.metric
    return f"{what} {outcome.final:.3f} after {number_of(outcome.steps, 'step')}"


def _record(folder: Path, run: Planned, seconds: float) -> None:
    row = {"variant": run.variant, "seed": run.seed, "seconds": round(seconds, 1)}
    path = folder / TIMES
    if path.is_file():
        drop_cut(path)
    append_line(path, line_of(row))


def seconds_of(folder: Path) -> dict[tuple[str, int], float]:
    """How long each run took, of those that were timed: runs that one process made whole."""
    path = folder / TIMES
    rows = rows_of(path) if path.is_file() else ()
    return {(row["variant"], row["seed"]): row["seconds"] for _, row in rows}


def outcomes_of(
    folder: Path, file: StudyFile, runs: Sequence[Planned]
) -> dict[str, dict[int, Outcome]]:
    """What every run that has ended came to, by variant and seed."""
    found: dict[str, dict[int, Outcome]] = {name: {} for name in file.variants}
    for run in runs:
        own = folder_of(folder, run)
        state = state_of(own)
        if state not in ("done", "stopped"):
            continue
        outcome = outcome_of(own, file.study.metric, stopped=state == "stopped")
        if outcome is not None:
            found[run.variant][run.seed] = outcome
    return found


def compare_folder(folder: Path, file: StudyFile, runs: Sequence[Planned]) -> dict[str, Any]:
    """Compare what has ended of a study; write result.json and the page.

    Raises:
        WinnowError: nothing has.
    """
    outcomes = outcomes_of(folder, file, runs)
    if not any(outcomes.values()):
        logs = shown(folder / "logs")
        raise FailedRuns(f"no run of the study has a result; {logs} has what the runs said")
    made = compared(file, outcomes)
    sharing = [_sharing(folder, file, name, outcomes) for name in file.variants]
    made["sharing"] = [
        {"variant": s.variant, "other": s.other, "seeds": s.seeds, "said": s.sentence,
         "held_out": s.held_out, "order": s.order, "samples": s.samples}
        for s in sharing
        if s is not None
    ]  # fmt: skip
    text = json.dumps(made, indent=2) + "\n"
    write_text(folder / RESULT, text)
    result: dict[str, Any] = json.loads(text)
    write_text(folder / PAGE, study_page(result))
    return result


def _sharing(
    folder: Path, file: StudyFile, name: str, outcomes: Mapping[str, Mapping[int, Outcome]]
) -> Sharing | None:
    """What a variant shares with the reference at the seeds that both have."""
    other = file.reference
    seeds = [s for s in file.study.seeds if s in outcomes[name] and s in outcomes[other]]
    if name == other or not seeds:
        return None
    places = [
        (folder / RUNS / name / f"seed-{seed}", folder / RUNS / other / f"seed-{seed}")
        for seed in seeds
    ]
    return sharing_of(name, other, places)
