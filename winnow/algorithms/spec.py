"""The grammar of a table cell: `name`, `name(2)`, `name(low=0.2, high=0.28)`.

Every cell of the table of algorithms is a small frozen dataclass that can be called. Its text form
is what a recipe says, what `winnow algorithms` prints and what a run folder records; `parse` and
`show` are inverses. Each kind of cell has a base class with attributes and their defaults; a
user's function is wrapped where it comes in, and has the defaults.
"""

from __future__ import annotations

import ast
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from inspect import signature
from typing import Any, ClassVar, Generic, TypeVar, cast, get_type_hints

from winnow import user_code
from winnow.errors import UserError, choices, nearest

_CELL = re.compile(r"^\s*([a-z][a-z0-9+-]*)\s*(\((.*)\))?\s*$", re.DOTALL)
_FUNCTION = re.compile(r"^(?:[\w.]+|.+\.py):[\w.<>]+$", re.DOTALL)


class Cell:
    """Base of all cells, frozen dataclasses; `cell` is their name in a recipe.

    Class attributes without an annotation are no arguments of the cell.
    """

    cell: ClassVar[str]
    seldom: ClassVar[frozenset[str]] = frozenset()
    """Arguments that are shown only where they differ from their default."""
    declares: ClassVar[Mapping[str, Sequence[str]]] = {}
    """What a subclass may say of itself, and in which words."""
    one_policy: ClassVar[bool] = False
    """Whether the samples of a prompt must all be of one distribution."""

    @property
    def formula(self) -> str:
        """Its part of the formula of an algorithm."""
        return str(self)

    def __str__(self) -> str:
        named = "cell" in vars(type(self)) and is_dataclass(self)
        if not named:  # a user's: no recipe has another name for it
            return show(type(self))
        every: Sequence[Field[Any]] = fields(self)  # type: ignore[arg-type]
        usual = [f for f in every if f.name in self.seldom and getattr(self, f.name) == f.default]
        own = [f for f in every if f not in usual]
        if not own:
            return self.cell
        if len(every) == 1:
            return f"{self.cell}({_plain(getattr(self, own[0].name))})"
        return f"{self.cell}({', '.join(f'{f.name}={_plain(getattr(self, f.name))}' for f in own)})"


Function = Callable[..., Any]


@dataclass(frozen=True)
class Own(Cell):
    """A user's function, with the defaults of its kind of cell."""

    function: Function

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.function(*given, **named)

    def __str__(self) -> str:
        return show(self.function)

    def __reduce__(self) -> Any:
        return _own, (type(self).__mro__[2], self.function)


@cache
def _own_class(base: Any) -> Any:
    """The cells that a user's functions become, of one kind."""
    return type(f"Own{base.__name__}", (Own, base), {})


def _own(base: Any, function: Function) -> Any:
    return _own_class(base)(function)


C = TypeVar("C", bound=Cell)
Given = TypeVar("Given")
Held = TypeVar("Held")


class Vocabulary(dict[str, type[C]], Generic[C]):
    """The cells of one kind by name; with a base, a user's functions and subclasses too.

    Attributes:
        kind: What a cell is called in a message.

    Args:
        given: What a user's function is called with.
        other: What a function of other arguments becomes, by their names.
    """

    def __init__(
        self,
        kind: str,
        cells: Iterable[type[C]],
        base: type[C] | None = None,
        given: Sequence[str] = (),
        other: Mapping[tuple[str, ...], Callable[[Function], C]] | None = None,
    ) -> None:
        super().__init__((cls.cell, cls) for cls in cells)
        self.kind, self._base, self._given, self._other = kind, base, given, other or {}

    def adopt(self, field: str, given: C | Function, text: str = "") -> C:
        """The cell that is given; a function is wrapped as one.

        Raises:
            UserError: neither; a function with an attribute that only a subclass may set; a
                subclass that declares what is not known.
        """
        cell: Any = given
        text = text or (show(cell) if callable(cell) else str(cell))
        if isinstance(cell, type) or (self._base and not callable(cell)):
            what = "a class" if isinstance(cell, type) else f"of type {type(cell).__name__}"
            remedy = "call it" if isinstance(cell, type) else "name a function"
            raise UserError(field, f"{text!r} is {what}, not a function", remedy)
        if not isinstance(cell, self._base or tuple(self.values())):
            if self._base is None or (isinstance(cell, Cell) and "cell" in vars(type(cell))):
                raise UserError(field, f"unknown {self.kind} {text!r}", nearest(text, self))
            if isinstance(cell, Cell):
                problem = f"{text!r} is a cell of another kind, not {_a(self.kind)}"
                raise UserError(field, problem, f"subclass {_named(self._base)}")
            for name in dir(self._base):
                if not name.startswith("_") and hasattr(cell, name):  # it would be ignored
                    remedy = f"subclass {_named(self._base)}"
                    raise UserError(field, f"{text!r} has {name!r}, which is not read", remedy)
            cell = self._wrapped(field, cell, text)
        for name, known in cell.declares.items():
            said = getattr(cell, name)
            for word in (said,) if isinstance(said, str) else said:
                if word not in known:
                    problem = f"{text!r} declares {name} = {word!r}"
                    raise UserError(field, problem, choices(known))
        return cast(C, cell)

    def _wrapped(self, field: str, function: Function, text: str) -> Any:
        """A user's function as a cell."""
        if (make := self._other.get(_asked(function))) is not None:
            return make(function)
        if not _takes_them(function, self._given):
            problem = f"{text!r} does not take what {_a(self.kind)} is given"
            forms = " or ".join(f"f({', '.join(form)})" for form in (self._given, *self._other))
            raise UserError(field, problem, f"define it as {forms}")
        return _own(self._base, function)


def _asked(function: Function) -> tuple[str, ...]:
    """The names of the arguments that a function must be given, as far as it tells."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    asked = (p for p in parameters if p.default is p.empty)
    return tuple(p.name for p in asked if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))


def _takes_them(function: Function, given: Sequence[str]) -> bool:
    """Whether a function can be called with so many arguments, as far as it tells."""
    try:
        signature(function).bind(*given)
    except TypeError:
        return False
    except ValueError:  # one in C that does not tell
        pass
    return True


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _named(base: type) -> str:
    return f"{base.__module__}.{base.__name__}"


class Takes(Generic[Given, Held]):
    """A field of an algorithm that converts what it is given to cells."""

    def __init__(self, make: Callable[[str, Given], Held], default: Held | None = None) -> None:
        self._make, self._default = make, default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, holder: object | None, owner: type) -> Held:
        if holder is not None:
            return cast(Held, vars(holder)[self._name])
        if self._default is None:
            raise AttributeError(self._name)  # so that a dataclass sees no default
        return self._default

    def __set__(self, holder: object, given: Given) -> None:
        vars(holder)[self._name] = self._make(f"algorithm.{self._name}", given)


def parse(field: str, text: str, vocabulary: Vocabulary[C]) -> C:
    """The cell that `text` names.

    Args:
        field: The setting that holds it, for the message.
        text: For example ``clipped(low=0.2, high=0.28)``, ``module:attribute`` or
            ``folder/file.py:attribute``.

    Raises:
        UserError: unknown cell, unknown or missing argument, a value that the cell refuses.
    """
    if _FUNCTION.match(text.strip()):
        return vocabulary.adopt(field, _imported(field, text.strip()), text.strip())
    if len(text) > _LONGEST:
        problem = f"{text[:40]!r}... has {len(text):,} characters"
        raise UserError(field, problem, f"a cell has {_LONGEST:,} at most")
    match = _CELL.match(text)
    name = match.group(1) if match else text
    if not match or name not in vocabulary:
        problem = f"unknown {vocabulary.kind} {name!r}"
        raise UserError(field, problem, nearest(name, vocabulary))
    cls = vocabulary[name]
    positional, named = _arguments(field, text, match.group(3) or "")
    types = get_type_hints(cls)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in named:
        if key not in names:
            raise UserError(field, f"{name} has no argument {key!r}", f"it takes {_takes(cls)}")
    if len(positional) > len(names):
        raise UserError(field, f"too many arguments in {text!r}", f"{name} takes {_takes(cls)}")
    for key, value in [*zip(names, positional, strict=False), *named.items()]:
        accepted = _NUMBERS.get(types[key])
        if accepted is not None and type(value) not in accepted:
            problem = f"{text!r}: {key} must be {_KINDS[types[key]]}"
            raise UserError(field, problem, f"{name} takes {_takes(cls)}")
        if not _usable(value):
            problem = f"{text!r:.80}: {key} is out of range"
            remedy = f"a number is 0, inf or from {_LEAST:g} to {_MOST:,} in size"
            raise UserError(field, problem, remedy)
    try:
        return cls(*positional, **named)
    except TypeError as error:
        remedy = f"{name} takes {_takes(cls)}"
        raise UserError(field, f"{text!r} has the wrong arguments", remedy) from error
    except ValueError as error:
        raise UserError(field, f"wrong value in {text!r}: {error}") from error


def show(cell: object) -> str:
    """The text that `parse` reads back. A user's function is named by where it is defined."""
    if isinstance(cell, Cell):
        return str(cell)
    owner: Any = cell if hasattr(cell, "__qualname__") else type(cell)
    return user_code.named(owner.__module__, owner.__qualname__)


_NUMBERS: Mapping[object, tuple[type, ...]] = {int: (int,), float: (int, float)}
_LEAST, _MOST = 1e-12, 10**12
"""The size of a number in a cell; beyond it float32 rounds what it is used for to 0 or infinity."""
_LONGEST = 1000
"""Characters of a cell; Python's parser fails on deep nesting only beyond it."""


def _usable(value: object) -> bool:
    """Whether a number is of a size that something can come of; nothing else is refused here."""
    if isinstance(value, bool):
        return False
    if not isinstance(value, int | float):
        return True
    if value == 0:
        return math.copysign(1, value) > 0
    return _LEAST <= abs(value) <= _MOST or (isinstance(value, float) and math.isinf(value))


_KINDS: Mapping[object, str] = {int: "an int", float: "a float"}


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
        if len(named) < len(call.keywords):
            raise ValueError("an argument is given twice")
        return [literal(node) for node in call.args], named
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        problem = f"cannot read the arguments in {text!r}"
        raise UserError(field, problem, "write them like low=0.2, high=0.28") from error


def _imported(field: str, path: str) -> Any:
    from importlib import import_module

    module, _, attribute = path.rpartition(":")
    if "<" in attribute:
        problem = f"cannot import {path!r} from inside a function"
        raise UserError(field, problem, "define it at the top of a module")
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:  # as for rewards: last, so as to hide nothing
        sys.path.append(here)
    try:
        by_file = user_code.names_file(path)
        found: Any = user_code.import_file(module) if by_file else import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found() if isinstance(found, type) else found
    except _IMPORT_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(field, f"cannot import {path!r}: {reason}") from error


_IMPORT_ERRORS = (ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError)
"""What a user's module is likely to raise where it is wrong."""
