"""What Python gives a command: settings, rows, a function that scores -> a config and a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from winnow.config.recipe import load
from winnow.config.schema import Config, from_dict
from winnow.errors import UserError
from winnow.reporting.console import ConsoleReporter
from winnow.reporting.observer import Reporter, Silent
from winnow.storage.atomic import refuse
from winnow.types import Prompt

RewardFunction = Callable[[Prompt, str], Any]
Rows = Sequence[Mapping[str, Any]]
Paths = str | Path | Sequence[str | Path]
"""One file or folder, or several."""
Source = str | Rows | Mapping[str, Any]
"""A source as in a recipe; rows; or the whole table of settings, `source` (either) among them."""


def paths_of(given: Paths) -> list[Path]:
    """One path or several as a list."""
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]


def next_folder(name: str, parent: Path = Path("runs")) -> Path:
    """`runs/NAME-001`, or the first number that is free."""
    number = 1
    while (parent / f"{name}-{number:03d}").exists():
        number += 1
    return parent / f"{name}-{number:03d}"


def reward_name(reward: str | RewardFunction | None) -> str | None:
    """How a config names a reward; a function by where it was defined."""
    if reward is None or isinstance(reward, str):
        return reward
    owner = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{owner.__module__}:{owner.__qualname__}"


@contextmanager
def config_of(recipe: str | None, over: Mapping[str, Any], folder: Path) -> Iterator[Config]:
    """A config; rows given in Python are written beside the run, so that it can be repeated.

    If there is no run in the end, because something was wrong, the rows are removed again.
    """
    values = dict(over)
    written: dict[Path, str] = {}
    for section in ("prompts", "eval"):
        table = values.get(section)
        table = dict(table) if isinstance(table, Mapping) else {"source": table}
        rows = table.get("source")
        if isinstance(rows, Sequence) and not isinstance(rows, str):
            path = folder.with_name(f"{folder.name}.{section}.jsonl")
            written[path] = "".join(_json_line(section, row) for row in rows)
            values[section] = {**table, "source": str(path)}
    config = load(recipe, over=values) if recipe is not None else from_dict(values)
    for path in (folder, *written):
        refuse(path)
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    try:
        yield config
    finally:
        if not folder.exists():
            for path in written:
                path.unlink()


def _json_line(section: str, row: object) -> str:
    if not isinstance(row, Mapping):
        raise UserError(f"{section}: each row is a dict, e.g. {{'prompt': ..., 'answer': ...}}")
    try:
        return json.dumps(dict(row)) + "\n"
    except TypeError as error:
        raise UserError(f"{section}: a row cannot be written as JSON: {error}") from error


def merge_section(over: dict[str, Any], section: str, values: Mapping[str, Any]) -> None:
    over[section] = {**over.get(section, {}), **values}


@contextmanager
def reporter(quiet: bool) -> Iterator[Reporter]:
    """A terminal's reporter, or one that says nothing."""
    if quiet:
        yield Silent()
    else:
        with ConsoleReporter() as console:
            yield console
