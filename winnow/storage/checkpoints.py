"""Checkpoints by their names, and their state.json: what a run resumes with."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from winnow.storage.atomic import disk, drop_folder, exists, sync, write_text
from winnow.storage.digests import STATE, Damaged, check_files, read_seal, resealed
from winnow.storage.reading import has_file, listed, reading

OPTIMIZER = "optimizer.pt"
"""What of a checkpoint no more than resuming needs."""
OPTIMIZER_PARTS = "optimizer"
"""The folder that holds the same where several processes wrote it."""
DROPPED = "optimizer_dropped"
"""In the state of a checkpoint that has lost it on purpose."""
_ASIDE = ".set-aside"
"""Ends the name of a checkpoint that is not resumed from, and not looked at again."""


def open_sealed(folder: Path) -> tuple[dict[str, Any], bool]:
    """The state of a checkpoint whose files are as they were written.

    Returns:
        It, and whether there are digests: earlier versions wrote none. Then files are only looked
        at for being whole.

    Raises:
        Damaged: a file is not as it was written.
    """
    told, files = read_seal(folder / STATE)
    _check_shape(folder, told)
    if files is None:
        for path in sorted(folder.rglob("*")):
            if has_file(path):
                _check_whole(path)
        return told, False
    check_files(folder, files)
    return told, True


def found_in(parent: Path, end: str = "") -> Iterator[tuple[int, Path]]:
    """Step and folder of everything that is called a checkpoint, in order.

    Args:
        end: Of the names, after the step.
    """
    pattern = re.compile(rf"step-(\d+){re.escape(end)}")
    named = [(pattern.fullmatch(path.name), path) for path in listed(parent, "step-*")]
    yield from sorted((int(match.group(1)), path) for match, path in named if match)


def set_aside(folder: Path) -> Path:
    """Give a checkpoint a name that no run resumes from, in the place of one that has it."""
    away = folder.with_name(folder.name + _ASIDE)
    if exists(away):
        drop_folder(away)
    folder.rename(away)
    sync(folder.parent)
    return away


def drop_set_aside(parent: Path, step: int) -> None:
    """Remove what was set aside, up to a step whose checkpoint is there again."""
    for number, folder in found_in(parent, _ASIDE):
        if number <= step:
            drop_folder(folder)


def drop_optimizer(folder: Path) -> None:
    """Remove the optimizer's state from a checkpoint: the model stays, no run resumes from it.

    The digests are written without it first, so that a kill leaves a whole checkpoint: at worst
    with a file that nobody reads.

    Raises:
        Damaged: what is kept of its files is damaged.
    """
    told, files = read_seal(folder / STATE)
    if not told.get(DROPPED):
        told |= {DROPPED: True}
        if files is not None:
            gone = (OPTIMIZER, OPTIMIZER_PARTS)
            left = {name: one for name, one in files.items() if Path(name).parts[0] not in gone}
            write_text(folder / STATE, resealed(told, left))
        else:  # of an earlier version, which wrote none
            write_text(folder / STATE, json.dumps(told, indent=2) + "\n")
    with disk(folder):
        (folder / OPTIMIZER).unlink(missing_ok=True)
        if (folder / OPTIMIZER_PARTS).is_dir():
            drop_folder(folder / OPTIMIZER_PARTS)
        sync(folder)


def _check_shape(folder: Path, state: Mapping[str, Any]) -> None:
    step, version = state.get("step"), state.get("policy_version", 0)
    if type(step) is not int or folder.name != f"step-{step}":
        raise Damaged(f"{STATE}: its step is {step!r:.40}")
    if type(version) is not int or not isinstance(state.get("source", {}), dict):
        raise Damaged(f"{STATE}: its policy_version or source has another type")


def _check_whole(path: Path) -> None:
    """Raise if a file is visibly cut short: what can be known without a digest."""
    try:
        with reading(path):
            if path.stat().st_size == 0:
                raise Damaged(f"{path.name} is empty")
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".pt":
                with zipfile.ZipFile(path) as parts:
                    if (bad := parts.testzip()) is not None:
                        raise Damaged(f"{path.name}: {bad} in it is not what was written")
            elif path.suffix == ".safetensors":
                _check_safetensors(path)
    except (ValueError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise Damaged(f"{path.name} is not whole") from error


def _check_safetensors(path: Path) -> None:
    """Eight bytes give the length of a JSON header, which tells where each tensor ends."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("header")
        header = json.loads(file.read(length))
    ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
    if path.stat().st_size != 8 + length + max(ends, default=0):
        raise ValueError("tensors")
