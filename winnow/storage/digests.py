"""SHA-256 of every file of a folder, in a file beside them that has a digest of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from winnow.errors import UserError
from winnow.storage.atomic import whole_folder, write_text
from winnow.storage.reading import has_file, reading

STATE = "state.json"
"""What a checkpoint has: its digests, and what the run resumes with."""
DIGESTS = "winnow-sha256.json"
"""What another model that Winnow writes has: its digests."""
_FILES, _OWN = "sha256", "sha256_of_this"
_PIECE = 2**24
"""Bytes read at a time: a thread among others may wait 5 ms for its turn after each."""


class Damaged(Exception):
    """A folder cannot be used; says which file, and what is wrong with it."""


def seal(folder: Path, told: Mapping[str, Any]) -> str:
    """The text of a file of digests for a folder whose other files are all there.

    Args:
        told: What else it holds.
    """
    files = {
        str(path.relative_to(folder)): digest_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return resealed(told, files)


def resealed(told: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The text of a file of digests, of digests that are known."""
    return signed({**told, _FILES: dict(files)})


def signed(told: Mapping[str, Any]) -> str:
    """An object as the text of a JSON file with a digest of all in it."""
    whole = json.loads(json.dumps(told))  # as it will be read
    return json.dumps({**whole, _OWN: _of_values(whole)}, indent=2) + "\n"


def read_signed(path: Path) -> dict[str, Any]:
    """What `signed` made; a file without a digest, of an earlier version, is read as well.

    Raises:
        Damaged: it is not as it was written.
    """
    told = _parsed(path)
    own = told.pop(_OWN, None)
    if own is not None and own != _of_values(told):
        raise Damaged(f"{path.name}: not what was written, by its {_OWN}")
    return told


def read_seal(path: Path) -> tuple[dict[str, Any], dict[str, str] | None]:
    """What a file of digests holds beside them, and the digests by the names of their files.

    Returns:
        ``None`` as digests if it has none: earlier versions wrote none.

    Raises:
        Damaged: it is not as it was written.
    """
    told = _parsed(path)
    files, own = told.pop(_FILES, None), told.pop(_OWN, None)
    if files is None and own is None:
        return told, None
    if own != _of_values({**told, _FILES: files}) or not isinstance(files, dict):
        raise Damaged(f"{path.name}: not what was written, by its {_OWN}")
    return told, files


def check_files(
    folder: Path, files: Mapping[str, str], into: Mapping[str, memoryview] | None = None
) -> None:
    """Raise `Damaged` if a file is not what its digest says, or is missing.

    Args:
        into: Takes files by their names, as they are read: see `digest_of`.
    """
    for name, digest in files.items():
        path = folder / name
        if not has_file(path):
            raise Damaged(f"{name} is missing")
        if digest_of(path, (into or {}).get(name)) != digest:
            raise Damaged(f"{name}: not what was written, by its SHA-256")


def whole_model(path: Path, save: Callable[[Path], None]) -> None:
    """Write the folder of a model with digests of its files, as `atomic.whole_folder` does."""

    def write(folder: Path) -> None:
        save(folder)
        write_text(folder / DIGESTS, seal(folder, {}))

    whole_folder(path, write)


def damage_of(folder: Path) -> str | None:
    """What is damaged in a folder of `whole_model`; ``None`` if nothing is known to be."""
    try:
        if has_file(folder / DIGESTS):
            check_files(folder, read_seal(folder / DIGESTS)[1] or {})
    except Damaged as damage:
        return str(damage)
    return None


def check_model(folder: Path, field: str, but: Collection[str]) -> None:
    """Raise a `UserError` if files of a model's folder are not what its digests say.

    A folder without digests passes: it comes from elsewhere, or from an earlier version.

    Args:
        field: The setting that names the model.
        but: Ends of names of files that are not going to be read.
    """
    for name, remedy in (
        (DIGESTS, f"or, if the change is your own, remove its {DIGESTS}"),
        (STATE, f"or, if the change is your own, use a copy without its {STATE}"),
    ):
        try:
            files = _digests_in(folder / name)
            read = {file: files[file] for file in files if not file.endswith(tuple(but))}
            check_files(folder, read)
        except Damaged as damage:
            problem = f"{str(folder)!r} is damaged ({damage})"
            raise UserError(field, problem, f"restore it from a copy, {remedy}") from damage


def _digests_in(path: Path) -> Mapping[str, str]:
    if not has_file(path):
        return {}
    try:
        return read_seal(path)[1] or {}
    except Damaged:
        if path.name == DIGESTS:
            raise
        return {}  # of a checkpoint, whose state no model needs; or another program's file


def digest_of(path: Path, into: memoryview | None = None) -> str:
    """The SHA-256 of a file.

    Args:
        into: Takes what is read, as long as the file; of a longer one the digest is another's.

    Raises:
        Damaged: there is none.
        CannotRead: nobody can know.
    """
    digest = hashlib.sha256()
    done = 0
    try:
        with reading(path), path.open("rb", buffering=0) as file:
            own = memoryview(bytearray(min(_PIECE, path.stat().st_size) or 1))
            while size := file.readinto(
                piece := own if into is None else into[done : done + _PIECE]
            ):
                digest.update(piece[:size])
                done += size
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _of_values(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _parsed(path: Path) -> dict[str, Any]:
    try:
        with reading(path):
            told = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Damaged(f"{path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise Damaged(f"{path.name} is not JSON") from error
    if not isinstance(told, dict):
        raise Damaged(f"{path.name} is not a JSON object")
    return told
