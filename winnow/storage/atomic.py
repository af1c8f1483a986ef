"""Writing so that a kill loses nothing: a file stands under its name only when it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from winnow.errors import UserError, WinnowError


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the final name, flush to the disk, rename.

    Raises:
        WinnowError: the disk is full or cannot be written to.
    """
    partial = path.with_name(f".{path.name}.partial")
    with disk(path):
        try:
            write(partial)
            sync(partial)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        sync(path.parent)


def whole_folder(path: Path, write: Callable[[Path], object]) -> None:
    """A folder that stands under its name only when all in it is written; one there is replaced.

    Raises:
        WinnowError: the disk is full or cannot be written to.
    """
    partial = path.with_name(f".{path.name}.partial")
    with disk(path):
        if partial.exists():  # of a run that was killed meanwhile
            shutil.rmtree(partial)
        partial.mkdir()
        write(partial)
        for inner in [*partial.rglob("*"), partial]:
            sync(inner)
        if path.exists():
            drop_folder(path)
        partial.rename(path)
        sync(path.parent)


def drop_folder(path: Path) -> None:
    """Remove a folder. Renamed first: half of one must never be taken for a whole one."""
    shutil.rmtree(path.rename(path.with_name(f".{path.name}.gone")))


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def append_line(path: Path, line: str) -> None:
    """One line more, on the disk before this returns."""
    with disk(path), path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """A full or read-only disk is the user's to mend, and no run is lost by it."""
    try:
        yield
    except OSError as error:
        raise WinnowError(
            f"cannot write {path}: {error.strerror or error}; make room (or leave to write), then "
            "try again; what has a --resume goes on where it stopped"
        ) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else fills this folder meanwhile. The lock ends with the process, however it ends.

    Raises:
        UserError: somebody else does.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"resume: another winnow is writing to {folder}; wait until it ends, or stop it"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exists(path: Path) -> bool:
    """Whether there is anything of that name, a dangling link included."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def refuse(path: Path, hint: Callable[[], str] = str) -> None:
    """See that something new can be made there, without making it.

    Args:
        hint: What else to do where something is there already.

    Raises:
        UserError: it exists already, or cannot be made where it would lie.
    """
    above = path.absolute().parent
    try:
        there = exists(path)
        while not exists(above):
            above = above.parent
        writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"out: cannot make {path}: {error.strerror}") from error
    if there:
        raise UserError(f"out: {path} exists already; choose another --out{hint()}")
    if not writable:
        what = "cannot be written to" if above.is_dir() else "is no folder"
        raise UserError(f"out: cannot make {path}: {above} {what}; choose another --out")
