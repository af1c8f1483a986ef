"""What of a run can go, by what the rest of it needs; and its deletion."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from winnow.config.phases import phases_of
from winnow.config.recipe import load_folder
from winnow.errors import UserError
from winnow.storage.checkpoints import found_in
from winnow.storage.cleaning import Kind, Removable, removable, remove
from winnow.storage.digests import Damaged
from winnow.storage.format import check_folder
from winnow.storage.lock import FolderLock
from winnow.storage.paths import located, shown
from winnow.storage.reading import has_file, has_folder
from winnow.storage.run_folder import RunStore
from winnow.training.budget import budget_spent
from winnow.training.early_stopping import best_of_evaluations, stopped_early
from winnow.training.file_source import open_file
from winnow.training.resuming import needed_steps


def clean(folder: Path, kinds: Collection[Kind], *, delete: bool) -> Sequence[Removable]:
    """Find what of a run folder can go, and delete it if asked to.

    Args:
        kinds: What may go.

    Raises:
        UserError: it is no folder of a run, or another process writes to it, or something in it is
            damaged. What was deleted before is gone, all else as it was.
        DiskError: something cannot be deleted.
    """
    folder = located(folder, "RUN")
    if not (has_file(folder / "config.toml", "RUN") and has_folder(folder / "checkpoints", "RUN")):
        problem = f"{shown(folder)} is no run folder (it lacks config.toml or checkpoints)"
        raise UserError("RUN", problem, "name a folder that winnow train made")
    check_folder("RUN", folder)
    with FolderLock("RUN") as lock:
        lock.take(folder)
        keep, done = _needs(RunStore(folder))
        found = [one for one in removable(folder, keep, done=done) if one.kind in kinds]
        for one in found if delete else ():
            try:
                remove(one)
            except Damaged as damage:
                problem = f"{shown(one.path.parent)} is damaged ({damage})"
                raise UserError("RUN", problem, "restore it from a copy") from damage
    return found


def has_ended(folder: Path) -> bool:
    """Whether nothing is left to train, to make or to evaluate in a run folder.

    Raises:
        UserError: a file of it is damaged.
    """
    store = RunStore(folder)
    return _needs(store)[1] and bool(dict(store.checkpoints()))


def _needs(store: RunStore) -> tuple[set[int] | None, bool]:
    """The steps whose checkpoints are needed, ``None``: all; and whether the run is done.

    A run whose settings cannot be read, such as one with an algorithm that was made in Python, is
    not known to be done.
    """
    try:
        config = load_folder(store.folder)
        phases = phases_of(config, None, open_file)
    except UserError:
        return None, False
    patience = config.eval.patience
    steps = [step for step, _ in found_in(store.folder / "checkpoints")]
    needed = needed_steps(store, phases, patience)
    keep = set().union(*map(needed, steps))
    rows = store.lines("evals.jsonl")
    best = best_of_evaluations(rows)
    if patience and best.step is not None:
        keep.add(best.step)
    ended = phases[-1].last in steps or (stopped_early(rows, patience) and best.last in steps)
    metrics = store.lines("metrics.jsonl")
    spent = budget_spent(metrics, config.budget) and metrics[-1]["step"] in steps
    tested = [row["step"] for row in rows if row.get("split") == "test"]
    ended = (ended or spent) and (not tested or best.step in tested)
    final = config.checkpoint.average > 0 or config.lora.merge
    return keep, ended and (not final or (store.folder / "final").is_dir())
