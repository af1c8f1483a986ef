"""Atomic writing, so that a kill loses nothing: a file has its name only when it is complete."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from winnow.errors import DiskError, UserError
from winnow.storage.paths import shown


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the final name, flush to the disk, rename.

    Raises:
        DiskError: the disk is full or cannot be written to.
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
    """Write a folder that has its name only when all in it is on the disk. It replaces nothing.

    Raises:
        DiskError: the disk is full or cannot be written to, or something is there by the end.
    """
    partial = path.with_name(f".{path.name}.partial")
    with disk(path):
        discard(partial)  # of a run that was killed meanwhile
        make_folder(path.parent)
        partial.mkdir()
        try:
            write(partial)
            for inner in [*partial.rglob("*"), partial]:
                sync(inner)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
            if (reason := _of_the_disk(error)) is None:
                raise
            raise OSError(reason) from error
        try:
            partial.rename(path)
        except OSError as error:
            reason = f"{error.strerror}; it is whole in {partial}"
            raise DiskError(f"cannot write {path}: {reason}") from error
        sync(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and missing ones above it, and flush their names to the disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def discard(path: Path) -> None:
    """Remove whatever has that name, if anything has; of a link, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def drop_folder(path: Path) -> None:
    """Remove a folder. Renamed first: half of one must never be taken for a whole one."""
    gone = path.with_name(f".{path.name}.gone")
    discard(gone)  # of a removal that was killed
    path.rename(gone)
    sync(path.parent)
    discard(gone)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def append_line(path: Path, line: str) -> None:
    """Append a line, which is on the disk before this returns."""
    with disk(path), path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def _of_the_disk(error: BaseException) -> str | None:
    """What the disk said, if an error comes from it, whatever library has raised what."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError):
            return found.strerror or str(found)
        for number in _FULL:  # torch, safetensors, tokenizers raise errors of their own
            if os.strerror(number) in str(found):
                return os.strerror(number)
        found = found.__cause__ or found.__context__
    return None


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """In the block, an `OSError` becomes a `DiskError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        remedy = "make room, or give permission to write"
        raise DiskError(f"cannot write {path}: {reason}; {remedy}") from error


@contextmanager
def and_then(folder: Path, what: str) -> Iterator[None]:
    """In the block, a `DiskError` has a note: what to do next, if a command's folder is there."""
    try:
        yield
    except DiskError as error:
        if folder.is_dir():
            error.add_note(f"then {what}")
        raise


def sync(path: Path) -> None:
    """Flush a file, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exists(path: Path) -> bool:
    """Whether anything has that name, a dangling link included."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def refuse(path: Path, hint: Callable[[], str] = str) -> None:
    """Raise a `UserError` if a path exists or cannot be made.

    Args:
        hint: What else to do if it exists.
    """
    above = path.absolute().parent
    try:
        there = exists(path)
        while not exists(above):
            above = above.parent
        writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError("out", f"cannot make {path}: {error.strerror}") from error
    if there:
        raise UserError("out", f"{shown(path)} exists already", f"choose another --out{hint()}")
    if not writable:
        what = "cannot be written to" if above.is_dir() else "is not a folder"
        raise UserError("out", f"cannot make {shown(path)}: {above} {what}", "choose another --out")
