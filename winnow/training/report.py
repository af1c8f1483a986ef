"""The page of runs, from their folders."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from winnow.config.schema.describe import resolved
from winnow.errors import UserError
from winnow.evaluation.gain import Gain, gain_between
from winnow.reporting.page.blocks import Block, blocks_of
from winnow.reporting.page.budget import LIMIT, Embedded, embed
from winnow.reporting.page.html import Shown, page
from winnow.reporting.page.view import Kind, Measure, Row, Setting, View
from winnow.reporting.progress_file import progress_of
from winnow.storage.atomic import write_text
from winnow.storage.format import check_folder
from winnow.storage.lines import rows_of
from winnow.storage.paths import located, shown
from winnow.storage.reading import has_file, has_folder, listed
from winnow.storage.rollouts import holds_run
from winnow.storage.run_folder import RunStore
from winnow.training.early_stopping import Reported, chosen_checkpoint, reported
from winnow.training.loaded import Run

REPORT = "report.html"
_SPLITS = ("test", "train", "final", "sample", "eval")
"""In what order files of one step were made: it is evaluated at its end."""


def write_report(
    folders: Sequence[str | Path], out: Path | None = None, *, done: bool = False
) -> Path:
    """Write the page of a folder, or of several side by side.

    Args:
        folders: Of runs, evaluations or samples.
        out: Default: `report.html` in the folder, of several `comparison.html` here.
        done: Whether they are, which their folders say a little later.

    Returns:
        Where it is.

    Raises:
        UserError: one is no folder of Winnow's.
        DiskError: it cannot be written.
    """
    found = [opened(folder) for folder in folders]
    if out is None:
        out = found[0] / REPORT if len(found) == 1 else Path("comparison.html")
    path = located(out, "out")
    if path.suffix != ".html":
        raise UserError("out", f"{path.name} is no page", "give it a name that ends with .html")
    try:
        text = page([shown_of(folder, LIMIT // len(found), done) for folder in found])
    except (OSError, ValueError, TypeError, KeyError) as error:
        which = ", ".join(map(shown, found))
        problem = f"{which} cannot be shown: {type(error).__name__}: {error}"
        raise UserError("", problem, "is it a folder of this version of Winnow?") from error
    write_text(path, text)
    return path


def opened(folder: str | Path) -> Path:
    """A folder of a run, an evaluation or samples.

    Raises:
        UserError: it is none.
    """
    path = located(folder, "run")
    if not has_folder(path, "run"):
        raise UserError("", f"there is no folder {shown(path)}", "give a run folder")
    if not (files_of(path) or has_file(path / "config.toml", "run")):
        problem = f"{shown(path)} holds no samples and no config.toml"
        raise UserError("", problem, "give the folder of a run, an evaluation or samples")
    check_folder("run", path)
    return path


def shown_of(folder: Path, limit: int = LIMIT, done: bool = False) -> Shown:
    """A folder as a page shows it."""
    blocks, damaged = blocks_of(files_of(folder))
    view = view_of(folder, damaged)
    if done:
        view = replace(view, progress={**view.progress, "status": "done"})
    return Shown(view, blocks, embed(blocks, limit))


def served_of(folder: Path) -> Shown:
    """A folder as a page shows it that asks for its samples, a block for each file."""
    blocks, damaged = blocks_of(files_of(folder), least=0)
    parts = {(block.name, part): b"" for block in blocks for part in ("rows", "texts", "marks")}
    return Shown(view_of(folder, damaged), blocks, Embedded(parts))


def served_blocks(folder: Path) -> list[Block]:
    """The blocks of `served_of`."""
    return blocks_of(files_of(folder), least=0)[0]


def files_of(folder: Path) -> list[Path]:
    """The files of samples of a folder, in the order in which they were made."""
    if rollouts := listed(folder / "rollouts", "*.parquet"):
        return sorted(rollouts, key=_made)
    return listed(folder / "samples", "*.parquet") or listed(folder, "*.parquet")


def _made(path: Path) -> tuple[int, int, str]:
    split, _, step = path.stem.partition("-")
    order = _SPLITS.index(split) if split in _SPLITS else len(_SPLITS)
    return (int(step) if step.isdigit() else 0), order, path.name


def view_of(folder: Path, damaged: Sequence[Path] = ()) -> View:
    """What is known of a folder but for its samples."""
    run = Run(folder)
    values = _values(run)
    unread = [] if values is not None else ["config.toml"]
    values = values or {}
    evaluations, metrics = (_lines(folder / f"{name}.jsonl") for name in ("evals", "metrics"))
    is_run = holds_run(folder)
    kind: Kind = "run" if is_run else "evaluation" if evaluations else "samples"
    judged = _judged(folder, values, evaluations) if is_run else None
    found = judged[1] if judged else None
    told = judged[0] if judged else None
    after = told.after if told else evaluations[-1] if evaluations else None
    return View(
        name=folder.name,
        folder=shown(folder),
        kind=kind,
        progress=progress_of(folder),
        metrics=metrics,
        evaluations=evaluations,
        alarms=run.alarms,
        before=told.before if told else None,
        after=after,
        gain=None if found is None else Measure(found.value, found.low, found.high),
        left_out=found.left_out if found else 0,
        reward_gain=None
        if found is None or found.reward is None
        else Measure(found.reward, found.reward_low, found.reward_high),
        tested=told.tested if told else True,
        phases=_phases(metrics),
        settings=[Setting(*one) for one in resolved(values)] if values else [],
        environment=_environment(run),
        again=_again(folder, kind) if values else "",
        damaged=[*unread, *(path.name for path in damaged)],
    )


def _judged(
    folder: Path, values: Mapping[str, Any], evaluations: Sequence[Row]
) -> tuple[Reported, Gain | None] | None:
    """The evaluations before and after, and what was gained; ``None`` without any."""
    store = RunStore(folder)
    patience = values.get("eval", {}).get("patience", 0)
    step = chosen_checkpoint(store, patience)[1] if list(store.checkpoints()) else 0
    told = reported(evaluations, patience, step) if evaluations else None
    if told is None:
        return None
    found = None
    with suppress(UserError):  # damaged files are listed, and the rest is shown
        found = gain_between(store, told.before, told.after)
    return told, found


def _phases(metrics: Sequence[Row]) -> list[tuple[str, int]]:
    last: dict[Any, int] = {}
    for row in metrics:
        if row.get("phase") is not None:
            last[row["phase"]] = row["step"]
    return [(f"phase {number}", step) for number, step in last.items()]


def _again(folder: Path, kind: Kind) -> str:
    command = {"run": "train", "evaluation": "eval", "samples": "sample"}[kind]
    return f"winnow {command} {shlex.quote(shown(folder / 'config.toml'))} --out NEW"


def _values(run: Run) -> dict[str, Any] | None:
    """The settings; ``None`` if they cannot be read, empty if there are none."""
    try:
        return run.config if (run.folder / "config.toml").exists() else {}
    except UserError:
        return None


def _environment(run: Run) -> dict[str, Any]:
    try:
        return run.environment
    except UserError:
        return {}


def _lines(path: Path) -> list[Row]:
    return [row for _, row in rows_of(path)] if path.is_file() else []
