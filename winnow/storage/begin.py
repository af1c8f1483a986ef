"""Makes the folder of a command: all of it or nothing, and locked from the first byte on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winnow.errors import UserError
from winnow.storage.atomic import discard, exists, make_folder, sync, write_text
from winnow.storage.format import ENVIRONMENT, FORMAT
from winnow.storage.lock import LOCK, FolderLock


def begin_folder(
    folder: Path,
    inside: Sequence[str],
    environment: Mapping[str, Any],
    texts: Mapping[str, str],
    lock: FolderLock | None = None,
) -> None:
    """Make a command's folder: folders in it, environment.json, and texts.

    It is made under another name and renamed, so a kill leaves no half of one; what a kill leaves
    beside it is used up by the next that makes it.

    Args:
        lock: Locks the folder until it is released; default: until it is made.

    Raises:
        UserError: it cannot be made, or exists, or another process is making it.
        DiskError: the disk is full or cannot be written to.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    with FolderLock("out") as own:
        held = own if lock is None else lock
        made = False
        try:
            make_folder(folder.parent)
            partial.mkdir(exist_ok=True)
            held.take(partial)
            _empty(partial)
            for name in inside:
                (partial / name).mkdir()
            for name, text in {ENVIRONMENT: _told(environment), **texts}.items():
                write_text(partial / name, text)
            if exists(folder):  # another process has made it meanwhile
                raise UserError("out", f"{folder} exists already", "choose another --out")
            partial.rename(folder)
            held.moved(folder)
            made = True
            sync(folder.parent)
        except OSError as error:
            raise UserError("out", f"cannot make {folder}: {error.strerror}") from error
        finally:
            if held.held and not made:
                shutil.rmtree(partial, ignore_errors=True)


def _told(environment: Mapping[str, Any]) -> str:
    return json.dumps({"format": FORMAT, **environment}, indent=2) + "\n"


def _empty(partial: Path) -> None:
    """Remove what a kill has left, but not the lock."""
    for path in partial.iterdir():
        if path.name != LOCK:
            discard(path)
