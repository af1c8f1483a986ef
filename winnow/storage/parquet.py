"""Parquet files whose pages carry checksums, which are looked at wherever one is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from winnow.storage.reading import reading

UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError)
"""What pyarrow raises for a damaged file: a name in it may not even be text."""


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table."""
    pq.write_table(table, path, write_page_checksum=True)


def writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """What writes a file a table at a time."""
    return pq.ParquetWriter(path, schema, write_page_checksum=True)


@contextmanager
def opened(
    path: Path, read_dictionary: Sequence[str] = (), setting: str = ""
) -> Iterator[pq.ParquetFile]:
    """A file to read; one without checksums is read as well.

    Args:
        read_dictionary: Columns whose distinct values are held once.
        setting: What gave the file, for messages.

    Raises:
        CannotRead: it may be whole, and cannot be read.
        UNREADABLE: it is damaged, which is known when a page is read, or not there.
    """
    with (
        reading(path, setting),
        pq.ParquetFile(
            path, read_dictionary=list(read_dictionary), page_checksum_verification=True
        ) as file,
    ):
        yield file


def read_schema(path: Path) -> pa.Schema:
    """The columns of a file."""
    with opened(path) as file:
        return file.schema_arrow


def read_table(
    path: Path, columns: Sequence[str] | None = None, read_dictionary: Sequence[str] = ()
) -> pa.Table:
    """A file, or some of its columns; a column that is not there is left out.

    Raises:
        UNREADABLE: it is damaged.
    """
    with opened(path, read_dictionary) as file:
        return file.read(columns=None if columns is None else list(columns))
