"""What of a run folder can go: found by name, told with its size, and deleted one after another.

Never samples, metrics, settings or the model that a run ends with. A deletion that is killed leaves
what the next one finds: a folder is renamed before it is emptied, and the digests of a checkpoint
are written without a file before that file goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from winnow.storage.atomic import discard, disk, drop_folder, sync
from winnow.storage.checkpoints import (
    OPTIMIZER,
    OPTIMIZER_PARTS,
    drop_optimizer,
    found_in,
    open_sealed,
)
from winnow.storage.digests import STATE, Damaged
from winnow.storage.reading import has_file, listed
from winnow.storage.sizes import measured

Kind = Literal["leftover", "checkpoint", "optimizer"]
_HALVES = (".*.partial", ".*.gone")
"""What a kill leaves: a file or folder that was being written, a folder that was being deleted."""
_WITHIN = ("", "checkpoints", "rollouts", "superseded", "skipped", "samples")


@dataclass(frozen=True)
class Removable:
    """Something that can be deleted.

    Attributes:
        path: A file or folder.
        size: In bytes.
        kind: `leftover`: nothing reads it; `checkpoint`: a whole one, and not the newest;
            `optimizer`: the optimizer's state in a checkpoint of a run that is done.
        why: Why it can go.
    """

    path: Path
    size: int
    kind: Kind
    why: str


def removable(folder: Path, keep: Collection[int] | None, *, done: bool) -> Iterator[Removable]:
    """What of a run folder can go.

    Args:
        keep: Steps of the checkpoints to keep, beside the newest that is whole, and whatever is
            newer; ``None``: all.
        done: Whether the run is, so that no optimizer's state is needed but to make it longer.
    """
    for path in _leftovers(folder):
        yield Removable(path, measured(path), "leftover", "left by a kill")
    parent = folder / "checkpoints"
    for _, path in found_in(parent, ".set-aside"):
        yield Removable(path, measured(path), "leftover", "damaged and set aside")
    steps = [(step, path) for step, path in found_in(parent) if has_file(path / STATE)]
    newest = next((step for step, path in reversed(steps) if _whole(path)), None)
    for step, path in steps:
        old = newest is not None and step < newest
        if keep is not None and old and step not in keep:
            why = f"an old checkpoint; step-{newest} is newer and whole"
            yield Removable(path, measured(path), "checkpoint", why)
        elif done and newest is not None:
            why = "the run is done; without it, it cannot be made longer"
            for state in (path / OPTIMIZER, path / OPTIMIZER_PARTS):
                if state.exists():
                    yield Removable(state, measured(state), "optimizer", why)


def remove(one: Removable) -> None:
    """Delete it.

    Raises:
        Damaged: the digests beside it are damaged.
        DiskError: it cannot be deleted.
    """
    with disk(one.path):
        if one.kind == "optimizer":
            drop_optimizer(one.path.parent)
        elif one.kind == "checkpoint":
            drop_folder(one.path)
        else:
            discard(one.path)
        sync(one.path.parent)


def _leftovers(folder: Path) -> Iterator[Path]:
    for name in _WITHIN:
        for pattern in _HALVES:
            yield from listed(folder / name, pattern)


def _whole(folder: Path) -> bool:
    try:
        open_sealed(folder)
    except Damaged:
        return False
    return True
