"""A row of a file, one of its columns, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from winnow.errors import nearest

Row = Mapping[str, Any]


class RowError(Exception):
    """What is wrong with a row, and the setting that it is about; empty for the source."""

    def __init__(self, field: str, what: str, remedy: str = "") -> None:
        super().__init__(field, what, remedy)
        self.field, self.what, self.remedy = field, what, remedy


def column(row: Row, name: str, field: str) -> Any:
    """What a row has in a column.

    Raises:
        RowError: there is no such column.
    """
    if name not in row:
        raise RowError(field, f"has no column {name!r}", nearest(name, [str(key) for key in row]))
    return row[name]
