"""What a file of samples must be before its rows are used: Parquet, with columns and no holes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from winnow.errors import UserError
from winnow.storage.reading import reading
from winnow.storage.schema import SCHEMA

_NOT_NULL = ("prompt", "finish_reason", "tokens")
"""Columns whose nulls would be guessed away: where they are needed, they must be there."""


def check_kind(path: Path) -> None:
    """Raise a `UserError` for a file of JSON, which other trainers read."""
    with reading(path, "samples"), path.open("rb") as file:
        begin = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin[:1] in (b"{", b"["):
        remedy = (
            "give the .parquet file or folder it was written from: .jsonl is for other trainers"
        )
        raise UserError("samples", f"{path} is JSON, and samples are read from Parquet", remedy)


def check_columns(path: Path, there: Sequence[str], needed: Sequence[str], why: str) -> None:
    """Raise a `UserError` for a column that is missing or there twice.

    Args:
        there: All columns of the file.
        needed: Those that must be there, apart from `prompt_id` or `prompt`.
        why: What needs them.
    """
    missing = [name for name in needed if name not in there]
    if not {"prompt_id", "prompt"} & set(there):
        missing.insert(0, "prompt_id (or prompt)")
    if missing:
        problem = f"{path} has no column {', '.join(missing)}, which {why} needs"
        remedy = f"it has {', '.join(there) or 'none'}"
        if {"chosen", "rejected"} <= set(there):
            remedy += (
                ": write pairs to a .jsonl file, or a pair as two rows of one prompt, chosen as "
                "text with reward 1 and rejected with reward 0"
            )
        raise UserError("samples", problem, remedy)
    twice = [name for name in SCHEMA.names if there.count(name) > 1]
    if twice:
        raise UserError("samples", f"{path} has two columns {twice[0]!r}", "rename one")


def check_texts(path: Path, file: pq.ParquetFile) -> None:
    """Raise a `UserError` where a sample has no text, even if nobody asks for the texts.

    A null is a sample that failed, not an empty completion. Counts in the file's footer mostly
    spare reading the column.
    """
    if "text" not in file.schema_arrow.names or _text_nulls(file.metadata) == 0:
        return
    _check_no_null(path, "text", file.read(columns=["text"])["text"].is_null())


def check_nulls(path: Path, table: pa.Table, needed: Sequence[str]) -> None:
    """Raise a `UserError` where a needed column has a null that would be taken for a value."""
    for name in _NOT_NULL:
        if name in needed:
            nulls = table[name].is_null()
            if name == "prompt" and "messages" in table.column_names:
                nulls = pc.and_(nulls, table["messages"].is_null())
            _check_no_null(path, name, nulls)


def _check_no_null(path: Path, name: str, nulls: pa.ChunkedArray) -> None:
    number = pc.sum(nulls).as_py() or 0
    if number:
        row = pc.index(nulls, True).as_py() + 1
        where = f"row {row}" if number == 1 else f"row {row} and {number - 1} more"
        remedy = "leave out samples that failed" if name == "text" else "fill it in"
        hint = " (an empty completion is '')" if name == "text" else ""
        problem = f"{path}: {where} have a null" if number > 1 else f"{path}: {where} has a null"
        raise UserError("samples", f"{problem} in column {name}", f"{remedy}{hint}")


def _text_nulls(metadata: pq.FileMetaData) -> int | None:
    """Nulls of the column by the file's statistics; ``None`` where it has none."""
    total = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        for place in range(rows.num_columns):
            column = rows.column(place)
            if column.path_in_schema == "text":
                found = column.statistics
                if found is None or not found.has_null_count:
                    return None
                total += found.null_count
    return total
