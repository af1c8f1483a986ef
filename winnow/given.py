"""What Python gives a command: settings, rows, a function that scores -> a config and a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from winnow.config.recipe import load
from winnow.config.schema import Config, from_dict
from winnow.errors import UserError
from winnow.storage.atomic import refuse

Rows = Sequence[Mapping[str, Any]]
Source = str | Rows | Mapping[str, Any]
"""A source as in a recipe; rows; or the whole table of settings, `source` (either) among them."""


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
