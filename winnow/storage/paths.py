"""Paths as a person gives them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from winnow.errors import UserError

Paths = str | Path | Sequence[str | Path]
"""One file or folder, or several."""


def located(path: str | Path, setting: str) -> Path:
    """A path that a person gave, `~` expanded, and absolute: the same from whatever folder.

    Args:
        setting: What gave it, for messages.

    Raises:
        UserError: it is no path, there is no such home, the working folder is gone, or it is not in
            UTF-8, in which the files of a run name it.
    """
    if not isinstance(path, str | Path):
        raise UserError(setting, f"{path!r:.60} is no path", "give it as text")
    try:
        found = Path(os.path.abspath(Path(path).expanduser()))
        str(found).encode()
        if "\0" in str(found):
            raise ValueError("a null byte is in it")
    except UnicodeEncodeError as error:
        shown = os.fsencode(path)
        raise UserError(setting, f"{shown!r} is not in UTF-8", "give it another name") from error
    except FileNotFoundError as error:
        problem = f"cannot find {path}: the working folder is gone"
        raise UserError(setting, problem, "change to a folder that is there") from error
    except (RuntimeError, ValueError) as error:  # the former: there is no such ~user
        raise UserError(setting, f"cannot find {str(path)!r}: {error}") from error
    return found


def shown(path: Path) -> str:
    """A path for a person to read: from the working folder, if it is in that."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def paths_of(given: Paths, setting: str = "samples") -> list[Path]:
    """One path or several as a list, `~` expanded."""
    some = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    for path in some:
        located(path, setting)
    return [Path(path).expanduser() for path in some]
