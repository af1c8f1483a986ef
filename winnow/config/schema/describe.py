"""Descriptions of all settings, for `winnow settings` and `docs/config.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config
from winnow.config.schema.bounds import Range


def describe(section: type[BaseModel] = Config) -> list[dict[str, Any]]:
    """Every setting of a config, or of a table: its key, type, default and one line of help."""
    return _describe(section, "")


def resolved(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, str]]:
    """Every setting as nested values have it: its key, value, default and line of help.

    A setting that they do not have has its default; what is no setting is left out. The default of
    a cell of the algorithm is that of its row.
    """
    cells = _cells(values.get("algorithm"))
    for row in describe():
        default = cells.get(row["key"], row["default"])
        found: Any = values
        for name in row["key"].split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        yield row["key"], default if found is None else found, default, row["help"]


def _cells(algorithm: Any) -> dict[str, Any]:
    name = algorithm.get("name") if isinstance(algorithm, Mapping) else algorithm
    row = ALGORITHMS.get(name) if isinstance(name, str) else None
    if row is None or len(row.terms) != 1:
        return {}
    return {f"algorithm.{cell}": value for cell, value in row.cells().items()}


def _describe(section: type[BaseModel], path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            rows += _describe(annotation, f"{path}{name}.")
            continue
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        rows.append(
            {
                "key": path + name,
                "type": _kind(annotation) + _range(field.metadata),
                "default": default,
                "help": field.description or "",
            }
        )
    return rows


_KINDS = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    dict: "table",
    NoneType: "",
}


def _kind(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0]) + _range(inner[1:])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (list, tuple):
        return f"list of {_kind(inner[0])}"
    if origin in (Union, UnionType):
        return " or ".join(filter(None, map(_kind, inner)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return _KINDS[origin or annotation]


def _range(metadata: Sequence[Any]) -> str:
    """A number's range in words."""
    return "".join(f"{',' * each.zero} {each}" for each in metadata if isinstance(each, Range))
