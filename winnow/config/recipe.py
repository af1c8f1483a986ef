"""A recipe in TOML, with `--set key=value` over it -> a config, and back."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.objective import Term
from winnow.algorithms.spec import Own
from winnow.config.former import renamed, without_test
from winnow.config.located import beside_recipe, found_nowhere
from winnow.config.messages import complaint
from winnow.config.schema import LISTED, SHORT, Config, from_dict, table_of
from winnow.config.schema.algorithm import OWN, AlgorithmConfig
from winnow.errors import UserError, from_here, nearest, no_file, number_of

CONFIG = "config.toml"
"""The recipe in a run folder or a folder of samples: all of its settings."""


def load(
    recipe: str | None = None, sets: Sequence[str] = (), over: Mapping[str, Any] | None = None
) -> Config:
    """A config from a recipe, with settings over it.

    What the recipe names by a relative path is looked for in the recipe's folder, then in the
    working folder; what `sets` and `over` name, in the working folder alone.

    Args:
        recipe: A TOML file, or the name of a recipe that ships with Winnow; ``None``: `arithmetic`.
        sets: ``key.path=value`` strings; the value is TOML where it parses, else a string. With
            nothing after the ``=`` the setting goes back to its default. ``phases.1.steps=3`` is
            of the first phase.
        over: Nested settings laid over all of it.

    Raises:
        UserError: no such recipe, no such key, a value of the wrong type.
    """
    given = [_split(item) for item in sets]  # first: a key after a space would be the recipe
    values = _read("arithmetic" if recipe is None else recipe)
    folder = Path(recipe).parent if recipe is not None and _is_path(recipe) else None
    if folder is not None:
        values = beside_recipe(values, folder)
        missing = found_nowhere(values)
    for number, (path, text) in enumerate(given):
        table, rest = _place(values, path)
        if text:
            merge(table, _nested(rest, _value(text)))
        else:
            _unset(table, rest)
        _check_order(sets[number], sets[:number])
    merge(values, dict(over or {}))
    config = from_dict(values)
    if folder is None or not missing:
        return config
    still = missing & found_nowhere(values)
    return config.looked_beside({setting: os.path.abspath(folder) for setting, _ in still})


def load_folder(folder: Path) -> Config:
    """The config in a run folder or a folder of samples, of this version or an earlier one.

    Raises:
        UserError: there is none, or it cannot be read; whatever is wrong, it names the file.
    """
    with naming_folder(folder):
        return from_dict(without_test(_read(str(folder / CONFIG))))


@contextmanager
def naming_folder(folder: Path) -> Iterator[None]:
    """In the block, a `UserError` about a setting gets a note of the folder's file it is in."""
    try:
        yield
    except UserError as error:
        path = str(folder / CONFIG)
        if path not in error.problem:
            error.add_note(f"it is a setting in {from_here(path)}")
        raise


def recipes() -> list[str]:
    """Names of the recipes that ship with Winnow."""
    folder = files("winnow.config") / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def _is_path(recipe: str) -> bool:
    """Whether it is a file, and no name of a recipe that ships with Winnow."""
    return Path(recipe).suffix == ".toml" or os.sep in recipe


def _read(recipe: str) -> dict[str, Any]:
    path = Path(recipe)
    key, given, _ = recipe.partition("=")
    if given and path.suffix != ".toml" and os.sep not in key:  # its value may be a key to a server
        raise UserError("recipe", f"{key}=... is a setting", f"give it as --set {key}=...")
    if _is_path(recipe):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise UserError("recipe", no_file(recipe)) from error
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise UserError("recipe", f"cannot read {recipe}: {reason}") from error
    else:
        known = recipes()
        if recipe not in known:
            file = f"{recipe}.toml"
            remedy = f"did you mean {file}?" if os.path.isfile(file) else nearest(recipe, known)
            raise UserError("recipe", f"unknown recipe {recipe!r}", remedy)
        text = (files("winnow.config") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    try:
        return renamed(tomllib.loads(text))
    except RecursionError as error:
        raise UserError("recipe", f"{recipe} is nested too deep to be read") from error
    except ValueError as error:  # tomllib's own, and Python's on an integer of thousands of digits
        hint = _one_or_several(text) if _TWICE.search(str(error)) else ""
        if not hint and _TWICE.search(str(error)):
            hint = _value_and_table(text)
        raise UserError("recipe", f"{recipe} is not valid TOML: {error}", hint) from error


_TWICE = re.compile("overwrite|twice")
"""What `tomllib` says of a table that is given in two ways."""


def _value_and_table(text: str) -> str:
    """What to write where one key is both a name and a table with settings."""
    for key, inner in SHORT.items():
        if re.search(rf"^\s*{key}\s*=", text, flags=re.MULTILINE):
            if re.search(rf"^\s*\[\s*{key}\s*\]", text, flags=re.MULTILINE):
                return f'write {inner} = "x" in [{key}], not {key} = "x"'
            if re.search(rf"^\s*{key}\s*\.", text, flags=re.MULTILINE):
                return f'beside other keys of it, write {key}.{inner} = "x", not {key} = "x"'
    return ""


def _one_or_several(text: str) -> str:
    """What to write where a recipe that does not parse has one reward and a list of them."""
    listed = re.sub(r"^(\s*\[\[\s*)reward(\s*\]\])", r"\1reward.parts\2", text, flags=re.MULTILINE)
    if listed == text:
        return ""
    if re.search(r"^\s*reward\s*=", text, flags=re.MULTILINE):
        return "give the one of 'reward = ...' a [[reward]] of its own"
    with suppress(ValueError):
        tomllib.loads(listed)
        return "beside other settings of reward, write each [[reward]] as [[reward.parts]]"
    return ""


def _split(item: str) -> tuple[list[str], str]:
    """The parts of the key and the value of a `--set`.

    Raises:
        UserError: it is none. What it is is not repeated: it may hold a key to a server.
    """
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        problem = "its value is not of the form key=value"
        raise UserError("--set", problem, "write it like --set optimizer.lr=1e-5")
    if any("\ud800" <= character <= "\udfff" for character in item):
        raise UserError("--set", "its value is not in UTF-8", "write it in UTF-8")
    path = key.strip().split(".")
    if len(path) > _LONGEST_KEY:
        raise UserError("--set", f"a key has {len(path)} parts", f"{_LONGEST_KEY} are the most")
    return path, text


_LONGEST_KEY = 32
"""Parts of a key; each is a table within the one before."""


def _check_order(item: str, before: Sequence[str]) -> None:
    """Raise a `UserError` if naming a row would undo cells that were set before it."""
    section, _, value = item.partition("=")
    name = section.strip().split(".", 2)[-1] if section.startswith("phases.") else section.strip()
    lost = [other for other in before if other.strip().startswith(f"{section.strip()}.")]
    if name in SHORT and value and lost:
        other = lost[-1].partition("=")[0].strip()
        problem = f"{section.strip()}=... would undo --set {other}=..."
        raise UserError("--set", problem, "give it before that one")


def _value(text: str) -> Any:
    """What TOML reads, or else the bare text: `--set algorithm=grpo`."""
    try:
        parsed = tomllib.loads(f"x = {text}")
    except (ValueError, RecursionError):  # as in `_read`
        return text
    return parsed["x"] if parsed.keys() == {"x"} else text


def _place(values: dict[str, Any], path: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The table that a key is in, the recipe or one of its phases, and the key in that.

    Raises:
        UserError: there is no such phase.
    """
    if path[0] != "phases" or len(path) == 1:
        return values, path
    phases, key = values.get("phases"), ".".join(path)
    if not isinstance(phases, list) or not phases:
        problem = "the recipe has no phases"
        raise UserError(key, problem, f"set {'.'.join(path[2:]) or 'the setting'} without a phase")
    number = int(path[1]) if path[1].isdecimal() and len(path[1]) <= _DIGITS else 0
    if not 1 <= number <= len(phases):
        last = f" to phases.{len(phases)}" if len(phases) > 1 else ""
        problem = f"the recipe has {number_of(len(phases), 'phase')}, counted from 1"
        raise UserError(key, problem, f"use phases.1{last}")
    phase = phases[number - 1]
    if len(path) == 2 or not isinstance(phase, dict):
        raise UserError(key, "it is a table of settings", f"set one of them: {key}.steps=10")
    return phase, path[2:]


_DIGITS = 6
"""Of a phase's number."""


def _nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _unset(values: dict[str, Any], path: Sequence[str]) -> None:
    """Take a setting out, so that its default holds.

    Raises:
        UserError: there is no such setting.
    """
    try:
        Config.model_validate(_nested(path, "") if path != ["start_from"] else {})
    except ValidationError as error:
        kind, given = error.errors()[0]["type"], error.errors()[0]["input"]
        if kind == "extra_forbidden" or (isinstance(given, dict) and kind != "value_error"):
            raise complaint(error, Config) from error
    section, *rest = path
    for short, form in ((SHORT, str), (LISTED, list)):
        if isinstance(values.get(section), form) and rest == [short.get(section)]:
            rest = []
    table: Any = values
    for part in [section, *rest][:-1]:
        table = table.get(part, {}) if isinstance(table, dict) else {}
    if isinstance(table, dict):
        table.pop([section, *rest][-1], None)


def merge(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay settings over others, tables key by key; `algorithm = "x"` starts the table anew."""
    for key, new in over.items():
        old = values.get(key)
        if isinstance(new, Mapping) and old is not None:
            old = values[key] = table_of(key, old)
        if isinstance(old, dict) and isinstance(new, Mapping):
            merge(old, new)
        else:
            values[key] = new


def dumps(config: Config, algorithm: Algorithm | None = None) -> str:
    """The config as TOML: `values_of`."""
    return tomli_w.dumps(values_of(config, algorithm))


def values_of(config: Config, algorithm: Algorithm | None = None) -> dict[str, Any]:
    """The config as plain values; with an algorithm, every cell of it written out.

    An algorithm made in Python that its cells do not restore is marked, so that `build` asks for
    it.
    """
    values = config.model_dump(exclude_none=True)
    if algorithm is not None:
        values["algorithm"] = cells_of(algorithm)
    return values


def cells_of(algorithm: Algorithm) -> dict[str, Any]:
    """An algorithm as a config writes it, every cell of it."""
    marked = {"name": OWN + algorithm.name}
    try:
        cells = {"name": algorithm.name, **algorithm.cells()}
        restored = AlgorithmConfig.model_validate(cells).build()
    except (UserError, ValidationError):
        return marked
    return cells if _alike(restored, algorithm) else {**cells, **marked}


def _alike(one: Algorithm, other: Algorithm) -> bool:
    """Whether two algorithms do the same, their names and papers aside."""
    cells = [f.name for f in fields(Algorithm) if f.name not in ("name", "paper", "note")]
    return all(_same(getattr(one, cell), getattr(other, cell)) for cell in cells)


def _same(one: Any, other: Any) -> bool:
    """Equal; or objects of one class that hold nothing; or tuples, terms, wrappers of such."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Term | Own) and type(one) is type(other):
        return all(_same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    stateless = type(one) is type(other) and not getattr(one, "__dict__", True)
    return bool(one == other) or (stateless and not hasattr(one, "__qualname__"))
