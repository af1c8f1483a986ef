"""What is missing, what is damaged and what cannot be read are three things.

What cannot be read, for lack of permission or because the disk fails, may be whole: that is no
reason to make it anew, to set it aside or to pass over it.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from winnow.errors import UserError


class CannotRead(UserError):
    """Something may be there and whole, and cannot be read."""


@contextmanager
def reading(path: Path, setting: str = "") -> Iterator[None]:
    """In the block, an `OSError` that keeps a path from being read is a `CannotRead`.

    Others pass: that there is no such file, or a folder in its place, and what libraries raise of
    the bytes in a file, which has no number, or that of a place that a damaged one names.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        if error.errno in (None, errno.EINVAL):
            raise
        raise CannotRead(setting, f"cannot read {path}: {os.strerror(error.errno)}") from error


def has_file(path: Path, setting: str = "") -> bool:
    """Whether there is such a file.

    Raises:
        CannotRead: nobody can know.
    """
    return stat.S_ISREG(_mode(path, setting))


def has_folder(path: Path, setting: str = "") -> bool:
    """Whether there is such a folder.

    Raises:
        CannotRead: nobody can know.
    """
    return stat.S_ISDIR(_mode(path, setting))


def listed(folder: Path, pattern: str) -> list[Path]:
    """What in a folder has a name like that, sorted; nothing where there is no folder.

    Raises:
        CannotRead: its names cannot be read, which `Path.glob` takes for no names.
    """
    try:
        with reading(folder):
            return sorted(folder / name for name in fnmatch.filter(os.listdir(folder), pattern))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _mode(path: Path, setting: str) -> int:
    try:
        with reading(path, setting):
            return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
