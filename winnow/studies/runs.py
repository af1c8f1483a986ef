"""What has become of each run of a study, by its folder alone: nothing else is kept of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from winnow.config.recipe import CONFIG, load_folder
from winnow.errors import UserError
from winnow.rollouts.inputs import flat, worded
from winnow.storage.atomic import disk, make_folder, write_text
from winnow.storage.checkpoints import found_in
from winnow.storage.lines import rows_of
from winnow.storage.lock import written_to
from winnow.storage.paths import shown
from winnow.studies.variants import Planned
from winnow.training.cleaning import has_ended

RUNS, RECIPES, LOGS = "runs", "recipes", "logs"
STUDY = "study.toml"
State = Literal["new", "unfinished", "running", "done", "stopped"]
"""`running`: another process writes to it; `stopped`: by an alarm that ends runs."""
_HOW = ("threads", "device")
"""Settings that say where a run works: another machine may have others."""


def folder_of(study: Path, run: Planned) -> Path:
    """Where a study has a run."""
    return study / RUNS / run.place


def log_of(study: Path, run: Planned) -> Path:
    """What its process printed."""
    return (study / LOGS / run.place).with_suffix(".log")


def recipe_of(study: Path, run: Planned) -> Path:
    """The recipe that it is begun with."""
    return (study / RECIPES / run.place).with_suffix(".toml")


def state_of(folder: Path) -> State:
    """What has become of a run.

    Raises:
        UserError: a file of it is damaged.
    """
    if not (folder / CONFIG).is_file():
        return "new"
    if written_to(folder):
        return "running"
    if has_ended(folder):
        return "done"
    return "stopped" if _stopped(folder) else "unfinished"


def _stopped(folder: Path) -> bool:
    """Whether an alarm of `alarms.stop` has ended it, and what it ends with is saved."""
    path = folder / "alarms.jsonl"
    ends = load_folder(folder).alarms.stop
    if not ends or not path.is_file():
        return False
    raised = [r for _, r in rows_of(path) if r["name"] in ends and not r.get("cleared")]
    saved = max((step for step, _ in found_in(folder / "checkpoints")), default=-1)
    return any(row["step"] <= saved for row in raised)


def prepare(study: Path, runs: Sequence[Planned], text: str) -> None:
    """Write the study's own files; runs that were begun must be of the same settings.

    Args:
        text: Of its study.toml.

    Raises:
        UserError: some were begun with others, which is named; nothing is written then.
        DiskError: they cannot be written.
    """
    for run in runs:
        folder = folder_of(study, run)
        if (folder / CONFIG).is_file():
            _check_same(folder, run)
    for run in runs:
        path = recipe_of(study, run)
        with disk(path):
            if not path.is_file() or path.read_text(encoding="utf-8") != run.text:
                make_folder(path.parent)
                write_text(path, run.text)
            make_folder(log_of(study, run).parent)
            make_folder(folder_of(study, run).parent)
    write_text(study / STUDY, text)


def _check_same(folder: Path, run: Planned) -> None:
    begun = _comparable(load_folder(folder).model_dump(exclude_none=True))
    wanted = _comparable(run.values)
    changed = [
        f"{key} {worded(begun.get(key))} -> {worded(wanted.get(key))}"
        for key in dict.fromkeys([*begun, *wanted])
        if begun.get(key) != wanted.get(key)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        problem = f"{shown(folder)} was begun with other settings ({', '.join(changed[:3])}{more})"
        remedy = "restore them, give the variant another name, or choose another --out"
        raise UserError("out", problem, remedy)


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(values).items() if key not in _HOW}
