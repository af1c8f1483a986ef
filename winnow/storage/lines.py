"""Lines of JSON that are told from damaged ones: each ends with a checksum of the rest."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from winnow.errors import UserError
from winnow.storage.atomic import disk, whole
from winnow.storage.reading import reading

CHECK = "crc32"
"""The key of the checksum: of the line as it is without it, in eight hexadecimal digits."""


def line_of(row: Mapping[str, Any], *, finite: bool = False) -> str:
    """A row as a line.

    Raises:
        ValueError: a number that is not finite, where all must be.
    """
    text = json.dumps(dict(row), allow_nan=not finite)
    comma = ", " if row else ""
    return f'{text[:-1]}{comma}"{CHECK}": "{zlib.crc32(text.encode()):08x}"}}\n'


def row_of(line: bytes) -> dict[str, Any]:
    """The row of a line, without its checksum; lines of earlier versions have none.

    Raises:
        ValueError: says how it is damaged.
    """
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError("is not JSON") from error
    if not isinstance(row, dict):
        raise ValueError("is damaged (it is not a JSON object)")
    check = row.pop(CHECK, None)
    rest = line.removesuffix(f'"{CHECK}": "{check}"}}'.encode()).removesuffix(b", ") + b"}"
    if check is not None and check != f"{zlib.crc32(rest):08x}":
        raise ValueError(f"is damaged (its {CHECK} differs)")
    return row


def whole_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`rows_of` a file that lines are appended to; one that a kill cut short is removed from it."""
    drop_cut(path)
    yield from rows_of(path)


def drop_cut(path: Path) -> None:
    """Remove a last line that a kill cut short: what is appended would be a part of it."""
    with disk(path), reading(path):
        lines, _, cut = path.read_bytes().rpartition(b"\n")
    if cut:
        whole(path, lambda partial: partial.write_bytes(lines + b"\n"))


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file with the numbers of their lines, without a last one that was cut short.

    Raises:
        UserError: another line is damaged, or the file cannot be read.
    """
    with reading(path):
        lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                yield number, row_of(line)
            except ValueError as error:
                raise UserError("", f"{path} line {number} {error}", "fix or remove it") from error
