"""The answer of a row, as text: a number as it would be written, nothing that is no answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from winnow.config.schema.prompts import PromptsConfig
from winnow.prompts.columns import Row, RowError, column

if TYPE_CHECKING:
    import pyarrow

_FIELD = "prompts.answer_column"


def answer_of(row: Row, config: PromptsConfig) -> str | None:
    """The answer; a column that is set must be there, the default one need not.

    ``reward_model.ground_truth`` is the field of a struct, unless a column has that name.

    Raises:
        RowError: no such column or field, or something in it that is no answer.
    """
    name = config.answer_column
    if name not in row and name == PromptsConfig.model_fields["answer_column"].default:
        return None
    return answer_text(_at(row, name), name)


def answer_text(value: object, name: str) -> str | None:
    """A value as text: ``18.0`` is ``18``, ``1e-05`` is ``0.00001``; ``None`` for a missing one.

    NaN is missing: that is how pandas writes it in a column of numbers.

    Raises:
        RowError: it is no text, number or truth value.
    """
    if isinstance(value, np.floating):
        value = None if np.isnan(value) else float(str(value))
    elif isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float | Decimal) and (value != value or math.isfinite(value)):
        return None if value != value else _number(Decimal(str(value)))
    problem = f"has {_kind(value)} in column {name!r}: {value!r:.60}"
    raise RowError(_FIELD, problem, _remedy(value, name))


def shortest_floats(table: pyarrow.Table) -> list[Row]:
    """The rows of a table, with numbers of half and single precision as they were written.

    The ``0.1`` of such a column would else be ``0.10000000149011612``.
    """
    rows: list[Row] = table.to_pylist()
    for field in table.schema:
        if _is_short(field.type):
            rows = [{**row, field.name: _shortest(row[field.name], field.type)} for row in rows]
    return rows


def _is_short(kind: pyarrow.DataType) -> bool:
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        return any(_is_short(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pyarrow.types.is_float32(kind) or pyarrow.types.is_float16(kind))


def _shortest(value: Any, kind: pyarrow.DataType) -> Any:
    import pyarrow.types

    if value is None:
        return None
    if pyarrow.types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return {f.name: _shortest(value[f.name], f.type) for f in fields}
    if pyarrow.types.is_float32(kind):
        return float(str(np.float32(value)))
    return float(str(np.float16(value))) if pyarrow.types.is_float16(kind) else value


def _at(row: Row, name: str) -> Any:
    """What a row has in a column, or in a field of a struct (``column.field``)."""
    if name in row or "." not in name:
        return column(row, name, _FIELD)
    first, *fields = name.split(".")
    value = column(row, first, _FIELD)
    for place, field in enumerate(fields, 1):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            path = ".".join([first, *fields][:place])
            raise RowError(_FIELD, f"has {_kind(value)} in {path!r}, which has no field {field!r}")
        value = column(value, field, _FIELD)
    return value


def _number(value: Decimal) -> str:
    """In positional notation, without zeros at the end, unless that were very long."""
    if value == 0:
        return "0"
    value = value.normalize()
    exponent = value.as_tuple().exponent
    return f"{value:f}" if isinstance(exponent, int) and abs(exponent) <= 30 else str(value)


def _kind(value: object) -> str:
    kinds = {list: "a list", tuple: "a list", dict: "a struct", bytes: "bytes", float: "no number"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _remedy(value: object, name: str) -> str:
    if isinstance(value, Mapping) and value:
        return f"name one of its fields, such as {name}.{next(iter(value))}"
    return "an answer is text or a number; convert the column"
