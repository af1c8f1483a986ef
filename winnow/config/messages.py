"""Errors of pydantic about settings, in plain English."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from winnow.config.foreign import hint
from winnow.config.former import FORMER, moved
from winnow.errors import UserError, nearest

_SECRET = ("engine", "engine.key_env", "engine.url", "engine.urls")
"""Settings whose values are not shown: they may hold a key or a password by mistake."""
_OF_TABLES = ("value_error", "missing", "unreadable", "not_of_templates", "no_amount")
"""Kinds of errors about a table as a whole; else a table stands where a value should."""
_KEYS = ("key_env", "url")
"""Ends of settings likewise, of a judge."""

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
    """All unknown names, else the first error: the field, what is wrong with it, the value."""
    errors = error.errors(include_url=False)
    extra = {
        tuple(_named(one["loc"], model)): one["input"]
        for one in errors
        if one["type"] == "extra_forbidden"
    }
    if (FORMER,) in extra:
        return moved(extra[FORMER,])
    if extra:
        paths = [path for where, given in extra.items() for path in leaves(list(where), given)]
        within = [key for where in extra for key in _keys_beside(where, model)]
        return unknown({".".join(path): path for path in paths}, [*keys_of(model), *within])
    first = errors[0]
    kind, given = first["type"], first["input"]
    where = _named(first["loc"], model)
    field = ".".join(where)
    if kind == "model_type":
        inner = next(keys_of(_section(model, where), field))
        got = "" if field in _SECRET else f" (got {shown(given)})"
        return UserError(field, f"must be a table of settings, such as {inner}{got}")
    if isinstance(given, dict) and kind not in _OF_TABLES:
        name = next(iter(given), "")
        return UserError(field, f"it is a single value and has no setting {shown(name)} of its own")
    if kind == "literal_error" and isinstance(given, str):
        what = where[-1] if not where[-1].isdecimal() else where[-2].removesuffix("s")
        what = what.replace("_", " ")
        expected = first["ctx"]["expected"]
        return UserError(field, f"unknown {what} {shown(given)}", f"use {expected}")
    said = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    remedy = str(first.get("ctx", {}).get("remedy", "")) or _example(model, where, given)
    # a setting that is not read may hold a key or a password
    hidden = given is None or isinstance(given, dict) or kind in ("not_read", "same_label")
    hidden = hidden or field in _SECRET or field.endswith(_KEYS)
    got = "" if hidden else f" (got {shown(given)})"
    return UserError(field, f"{_WORDS.get(kind, said)}{got}", remedy)


def shown(value: object) -> str:
    """The beginning of how Python writes a value, on one line."""
    try:
        return f"{value!r:.60}".replace("\n", " ")
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"


_TOLD = 5
"""Most unknown names that one message has an answer for."""
_NEAR = 0.75
"""How alike a key is that is meant in whatever table."""


def unknown(found: Mapping[str, Sequence[str]], known: Collection[str]) -> UserError:
    """One error for all unknown keys, each with what it is here or the nearest key.

    Args:
        found: Their parts, by how a message names them.
        known: The keys that there are.
    """
    told = {shown(name): _meant(path, known) for name, path in list(found.items())[:_TOLD]}
    if len(found) == 1:
        ((name, remedy),) = told.items()
        return UserError("", f"unknown setting {name}", remedy)
    more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
    brief = {
        name: "see winnow settings" if remedy.startswith("available") else remedy
        for name, remedy in told.items()
    }
    each = "; ".join(f"{name}: {remedy}" for name, remedy in brief.items())
    return UserError("", f"{len(found)} unknown settings", each + more)


def leaves(path: list[str], value: object) -> Iterator[list[str]]:
    """The parts of every key in nested settings, behind those of the table that they are in."""
    if not isinstance(value, Mapping) or not value:
        yield path
        return
    for key, inner in value.items():
        yield from leaves([*path, str(key)], inner)


def unknown_in(values: Mapping[str, Any], known: Collection[str]) -> list[list[str]]:
    """The parts of every key in nested settings that is not known."""
    tables = {key.partition(".")[0] for key in known if "." in key}
    return [
        path
        for path in leaves([], values)
        if path
        and ".".join(path) not in tables
        and not any(".".join(path[: i + 1]) in known for i in range(len(path)))
    ]


def _meant(path: Sequence[str], known: Collection[str]) -> str:
    """What another trainer's key is here; else a key of that name elsewhere, or the nearest."""
    if remedy := hint(path):
        return remedy
    if len(path) == 1 and path[0] in known:  # as one word, such as in Python or between quotes
        table, _, key = path[0].partition(".")
        return f"give it as {key!r} of the table {table!r}"
    plain = {key.replace(".", "_"): key for key in known}
    joined = "_".join(path)
    tables = {key.partition(".")[0] for key in known if "." in key}
    if joined in plain:  # checkpoint_every
        return f"did you mean {plain[joined]!r}?"
    if len(path) > 1 and path[0] not in tables:
        for near in difflib.get_close_matches(joined, plain, n=1, cutoff=_NEAR):
            return f"did you mean {plain[near]!r}?"
    elsewhere = [key for key in known if key.endswith(f".{path[-1]}")]
    if elsewhere:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    within = ".".join(path[:-1])
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == within}
    if beside and any(part.isdecimal() for part in path):  # a table of a list
        for near in difflib.get_close_matches(path[-1], beside, n=1):
            return f"did you mean {beside[near]!r}?"
        return nearest("", beside.values())
    if len(path) > 1 and path[0] in tables:
        own = {key.partition(".")[2]: key for key in known if key.startswith(f"{path[0]}.")}
        for near in difflib.get_close_matches(".".join(path[1:]), own, n=1):
            return f"did you mean {own[near]!r}?"
        return nearest("", own.values())
    if len(path) == 1:
        for near in difflib.get_close_matches(joined, plain, n=1, cutoff=_NEAR):
            return f"did you mean {plain[near]!r}?"
    return nearest(path[0], dict.fromkeys(key.partition(".")[0] for key in known))


_LARGE = 1e9
"""No coefficient; a larger integer may have more digits than Python prints."""


def _example(model: type[BaseModel], where: Sequence[str], given: object) -> str:
    """How a cell of an algorithm is written, where a number was given for it."""
    if len(where) != 2 or where[0] != "algorithm" or isinstance(given, bool):
        return ""
    if not isinstance(given, int | float) or abs(given) > _LARGE:
        return ""
    if where[1] == "kl":
        return f"write it like 'in-loss({given})' or 'in-reward({given})'"
    field = _section(model, [where[0]]).model_fields[where[1]]
    examples = re.findall(r"'[^']+\)'|'[^']+'", field.description or "")
    with_numbers = [text for text in examples if "(" in text]
    return f"write it like {[*with_numbers, *examples][0]}" if examples else ""


def _named(place: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """A place in the settings, tables of a list counted from 1 as the user counts them."""
    found: list[str] = []
    for part in place:
        of_tables = isinstance(part, int) and _tables(model, found)
        found.append(str(part + 1 if of_tables and isinstance(part, int) else part))
    return found


def _keys_beside(where: Sequence[str], model: type[BaseModel]) -> list[str]:
    """The keys of the table that a key is in, if that is one of a list of tables."""
    *table, number = where[:-1] or [""]
    if not number.isdecimal() or not _tables(model, table):
        return []
    return [".".join([*where[:-1], key]) for key in keys_of(_section(model, table))]


def _tables(model: type[BaseModel], path: list[str]) -> bool:
    """Whether a setting is a list of tables, of whatever settings (phases) or its own."""
    above = _section(model, path[:-1]).model_fields if path else {}
    field = above.get(path[-1]) if path else None
    if field is None or get_origin(field.annotation) is not list:
        return False
    (item,) = get_args(field.annotation)
    return _table(item) is not None or get_origin(item) is dict


def _section(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for part in path:
        field = model.model_fields.get(part)  # none of the number of a table in a list
        if field is not None:
            model = _table(field.annotation) or _item(field.annotation) or model
    return model


def keys_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every key of a model and of its tables."""
    for name, field in model.model_fields.items():
        key = f"{path}.{name}" if path else name
        table = _table(field.annotation)
        if table is None:
            yield key
        else:
            yield from keys_of(table, key)


def _item(annotation: Any) -> type[BaseModel] | None:
    """What a list of tables is a list of."""
    return _table(get_args(annotation)[0]) if get_origin(annotation) is list else None


def _table(annotation: Any) -> type[BaseModel] | None:
    is_table = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_table else None
