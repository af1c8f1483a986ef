"""The grammar of a table cell: `name`, `name(2)`, `name(low=0.2, high=0.28)`.

Every cell of the table of algorithms is a small frozen dataclass that can be called. Its text form
is what a recipe says, what `winnow algorithms` prints and what a run folder records; `parse` and
`show` are each other's inverse.
"""

from __future__ import annotations

import ast
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, get_type_hints

from winnow.errors import UserError, nearest

_CELL = re.compile(r"^\s*([a-z][a-z0-9+-]*)\s*(\((.*)\))?\s*$", re.DOTALL)
_FUNCTION = re.compile(r"^[\w.]+:[\w.<>]+$")


class Cell:
    """Base of all cells. Subclasses are frozen dataclasses; `cell` is their name in a recipe."""

    cell: ClassVar[str]
    seldom: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are shown only where they are not as they mostly are."""

    def __str__(self) -> str:
        every: Sequence[Field[Any]] = fields(self)  # type: ignore[arg-type]
        usual = [f for f in every if f.name in self.seldom and getattr(self, f.name) == f.default]
        own = [f for f in every if f not in usual]
        if not own:
            return self.cell
        if len(every) == 1:
            return f"{self.cell}({_plain(getattr(self, own[0].name))})"
        return f"{self.cell}({', '.join(f'{f.name}={_plain(getattr(self, f.name))}' for f in own)})"


def by_name(classes: Iterable[type[Cell]]) -> Mapping[str, type[Cell]]:
    """The vocabulary of one kind of cell."""
    return {cls.cell: cls for cls in classes}


def parse(field: str, text: str, vocabulary: Mapping[str, type[Cell]]) -> Any:
    """The cell that `text` names.

    Args:
        field: The setting that holds it, for the message.
        text: For example ``clipped(low=0.2, high=0.28)`` or ``module:attribute`` for one's own.

    Raises:
        UserError: unknown name, unknown or missing argument, a value that the cell refuses.
    """
    if _FUNCTION.match(text.strip()):
        return _imported(field, text.strip())
    match = _CELL.match(text)
    name = match.group(1) if match else text
    if not match or name not in vocabulary:
        raise UserError(f"{field}: no cell {name!r}; {nearest(name, vocabulary)}")
    cls = vocabulary[name]
    positional, named = _arguments(field, text, match.group(3) or "")
    types = get_type_hints(cls)
    wanted = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in named:
        if key not in wanted:
            raise UserError(f"{field}: {name} has no argument {key!r}; it takes {_takes(cls)}")
    if len(positional) > len(wanted):
        raise UserError(f"{field}: too many arguments in {text!r}; {name} takes {_takes(cls)}")
    for key, value in [*zip(wanted, positional, strict=False), *named.items()]:
        accepted = _NUMBERS.get(types[key])
        if accepted is not None and type(value) not in accepted:
            raise UserError(
                f"{field}: {text!r}: {key} is a {_KINDS[types[key]]}; {name} takes {_takes(cls)}"
            )
    try:
        return cls(*positional, **named)
    except (TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{name} takes {_takes(cls)}"
        raise UserError(f"{field}: {text!r}: {reason}") from error


def show(cell: object) -> str:
    """The text that `parse` reads back. A function of one's own is named by where it lives."""
    if isinstance(cell, Cell):
        return str(cell)
    owner: Any = cell if hasattr(cell, "__qualname__") else type(cell)
    return f"{owner.__module__}:{owner.__qualname__}"


_NUMBERS: Mapping[object, tuple[type, ...]] = {int: (int,), float: (int, float)}
_KINDS: Mapping[object, str] = {int: "whole number", float: "number"}


def _plain(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _takes(cls: type[Cell]) -> str:
    own: Sequence[Field[Any]] = fields(cls)  # type: ignore[arg-type]
    shown = [f.name if f.default is MISSING else f"{f.name}={_plain(f.default)}" for f in own]
    return f"({', '.join(shown)})" if shown else "no arguments"


def _arguments(field: str, text: str, inside: str) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named literals; a bare word is a string: `standardised(sample)`."""

    def literal(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return math.inf if node.id == "inf" else node.id
        return ast.literal_eval(node)

    try:
        call = ast.parse(f"f({inside})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("more than one pair of brackets")
        named = {str(k.arg): literal(k.value) for k in call.keywords}
        return [literal(node) for node in call.args], named
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{field}: cannot read the arguments in {text!r}") from error


def _imported(field: str, path: str) -> Any:
    from importlib import import_module

    module, _, attribute = path.partition(":")
    if "<" in attribute:
        raise UserError(
            f"{field}: {path!r} lives inside a function and cannot be imported; "
            "define it at the top of a module"
        )
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:  # as for rewards: last, so as to hide nothing
        sys.path.append(here)
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        made = found() if isinstance(found, type) else found
    except _IMPORT_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{field}: cannot import {path!r}: {reason}") from error
    if not callable(made):
        raise UserError(f"{field}: {path!r} is no function: it is a {type(made).__name__}")
    return made


_IMPORT_ERRORS = (ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError)
"""What a module of someone's own is likely to raise where it is wrong."""
