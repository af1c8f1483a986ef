"""Errors of pydantic about settings, in plain English."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from winnow.config.foreign import hint
from winnow.config.former import FORMER, moved
from winnow.errors import UserError, nearest

_SECRET = ("engine", "engine.key_env", "engine.url")
"""Settings whose values are not shown: they may hold a key or a password by mistake."""

_WORDS = {
    "int_type": "must be an int",
    "float_type": "must be a float",
    "finite_number": "must be a finite float",
    "string_type": "must be a str",
    "string_unicode": "must be text in UTF-8",
    "invalid_key": "a key must be a str",
    "too_long": "has too many entries",
    "bool_type": "must be a bool, true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "too_short": "must not be empty",
    "missing": "is missing",
}


def complaint(error: ValidationError, model: type[BaseModel]) -> UserError:
    """The first error of pydantic: the field, what is wrong with it, the value."""
    first = error.errors(include_url=False)[0]
    kind, given = first["type"], first["input"]
    where = [str(part) for part in first["loc"]]
    field = ".".join(where)
    if kind == "extra_forbidden" and where == [FORMER]:
        return moved(given)
    if kind == "extra_forbidden":
        return _unknown(where, given, model)
    if kind == "model_type":
        inner = next(_keys(_section(model, where), field))
        got = "" if field in _SECRET else f" (got {shown(given)})"
        return UserError(field, f"must be a table of settings, such as {inner}{got}")
    if isinstance(given, dict) and kind != "value_error":
        name = next(iter(given), "")
        return UserError(field, f"it is a single value and has no setting {shown(name)} of its own")
    if kind == "literal_error" and isinstance(given, str):
        what = where[-1] if not where[-1].isdecimal() else where[-2].removesuffix("s")
        what = what.replace("_", " ")
        expected = first["ctx"]["expected"]
        return UserError(field, f"unknown {what} {shown(given)}", f"use {expected}")
    said = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    remedy = str(first.get("ctx", {}).get("remedy", ""))
    # a setting that is not read may hold a key or a password
    hidden = given is None or isinstance(given, dict) or kind == "not_read" or field in _SECRET
    got = "" if hidden else f" (got {shown(given)})"
    return UserError(field, f"{_WORDS.get(kind, said)}{got}", remedy)


def shown(value: object) -> str:
    """The beginning of how Python writes a value."""
    try:
        return f"{value!r:.60}"
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"


def _unknown(where: list[str], given: object, model: type[BaseModel]) -> UserError:
    """An unknown key, or the first in an unknown table that another trainer has."""
    for path in _leaves(where, given):
        if remedy := hint(path):
            return UserError("", f"unknown setting {shown('.'.join(path))}", remedy)
    return UserError("", f"unknown setting {shown('.'.join(where))}", _meant(where, model))


def _leaves(path: list[str], value: object) -> Iterator[list[str]]:
    if not isinstance(value, dict) or not value:
        yield path
        return
    for key, inner in value.items():
        yield from _leaves([*path, str(key)], inner)


def _meant(where: list[str], model: type[BaseModel]) -> str:
    """A key of the same name in another table, else the nearest in the same one."""
    elsewhere = [key for key in _keys(model) if key.endswith(f".{where[-1]}")]
    if elsewhere:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return nearest(where[-1], _section(model, where[:-1]).model_fields)


def _section(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for part in path:
        model = _table(model.model_fields[part].annotation) or model
    return model


def _keys(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every key of a model and of its tables."""
    for name, field in model.model_fields.items():
        key = f"{path}.{name}" if path else name
        table = _table(field.annotation)
        if table is None:
            yield key
        else:
            yield from _keys(table, key)


def _table(annotation: Any) -> type[BaseModel] | None:
    is_table = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_table else None
