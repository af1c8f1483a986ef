"""Rows of a file or a hub data set -> prompts: columns, template, conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from winnow.cells import nearest
from winnow.config import PromptsConfig
from winnow.errors import UserError
from winnow.types import Prompt

Row = Mapping[str, Any]

_HOLE = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")


def read_jsonl(path: str, field: str = "prompts.source") -> list[Row]:
    """One JSON object a line; blank lines are passed over.

    Raises:
        UserError: no such file, or a line that is no JSON object (with its number).
    """
    rows: list[Row] = []
    with _existing(path, field).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{field}: {path} line {number}: {error}") from error
            if not isinstance(row, dict):
                raise UserError(f"{field}: {path} line {number} is no JSON object")
            rows.append(row)
    return rows


def read_parquet(path: str, field: str = "prompts.source") -> list[Row]:
    """All rows of a Parquet file.

    Raises:
        UserError: no such file, or not Parquet.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(_existing(path, field)).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{field}: {path} is no Parquet file: {error}") from error
    return rows


def read_hub(source: str, split: str, field: str = "prompts.source") -> list[Row]:
    """A data set of the Hugging Face hub: `hub:NAME` or `hub:NAME:CONFIG`.

    Raises:
        UserError: the `datasets` library is missing, or the hub has no such data set or split.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{field}: hub data sets need the datasets library: pip install 'winnow-rl[hub]'"
        ) from error
    name, _, config = source.removeprefix("hub:").partition(":")
    try:
        return list(datasets.load_dataset(name, config or None, split=split))
    except (OSError, ValueError) as error:  # what datasets raises for a name, split or connection
        reason = str(error).splitlines()[0]
        raise UserError(f"{field}: cannot load {source!r} ({split}): {reason}") from error


def from_rows(rows: Sequence[Row], config: PromptsConfig) -> list[Prompt]:
    """Prompts from rows.

    Raises:
        UserError: a column that is not there, an empty prompt.
    """
    return [_prompt(number, row, config) for number, row in enumerate(rows)]


def fill(template: str, row: Row) -> str:
    r"""The template with each `{column}` filled in. `{{` and `}}` are braces; `{}` is itself.

    Raises:
        UserError: a column that the row does not have.
    """

    def hole(match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)[0]
        return str(_column(row, match.group(1), "prompts.template"))

    return _HOLE.sub(hole, template)


def _prompt(number: int, row: Row, config: PromptsConfig) -> Prompt:
    messages: list[Mapping[str, str]] | None = None
    value = None
    if config.template is None:
        value = _column(row, config.prompt_column, "prompts.prompt_column")
        if isinstance(value, list):
            messages = [{"role": m["role"], "content": m["content"]} for m in value]
            text = messages[-1]["content"] if messages else ""
        else:
            text = str(value)
    else:
        text = fill(config.template, row)
    if not text.strip():
        raise UserError(
            f"prompts.source: row {number + 1} of {config.source!r} has an empty prompt"
        )
    if messages is None and config.chat:
        messages = [{"role": "user", "content": text}]
    if messages is not None and config.system is not None:
        messages.insert(0, {"role": "system", "content": config.system})
    answer = row.get(config.answer_column)
    if config.answer_column not in row and "answer_column" in config.model_fields_set:
        _column(row, config.answer_column, "prompts.answer_column")
    difficulty = None
    if config.difficulty_column is not None:
        difficulty = str(_column(row, config.difficulty_column, "prompts.difficulty_column"))
    return Prompt(
        id=str(row.get("id", number)),
        text=text,
        answer=None if answer is None else str(answer),
        difficulty=difficulty,
        data=row,
        messages=None if messages is None else tuple(messages),
    )


def _column(row: Row, name: str, field: str) -> Any:
    if name not in row:
        raise UserError(f"{field}: no column {name!r}; {nearest(name, [str(key) for key in row])}")
    return row[name]


def _existing(path: str, field: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise UserError(f"{field}: no file {path}")
    return found
