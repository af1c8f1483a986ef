"""Rows of a file or a hub data set -> prompts: columns, template, conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from winnow.config.schema.prompts import PromptsConfig
from winnow.errors import UserError, install_extra, no_file
from winnow.prompts.answers import answer_of, shortest_floats
from winnow.prompts.columns import Row, RowError
from winnow.prompts.columns import column as _column
from winnow.storage.messages import Message, TurnError, is_missing, spoken, tools_of
from winnow.storage.messages import conversation as messages_of
from winnow.types import Prompt

_HOLE = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")


def read_jsonl(path: str, field: str = "prompts.source") -> list[Row]:
    """The JSON objects of a file, one a line; raises what `numbered_jsonl` raises."""
    return [row for _, row in numbered_jsonl(path, field)]


def numbered_jsonl(path: str, field: str) -> list[tuple[int, Row]]:
    """The JSON objects of a file with the number of their line; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, or a line (which is named) is no JSON object.
    """
    _check_file(path, field)
    rows: list[tuple[int, Row]] = []
    number = 0
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    rows.append((number, _json_object(line)))
    except OSError as error:
        raise UserError(field, f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        remedy = "name it .parquet" if _begins(path, b"PAR1") else ""
        raise UserError(field, f"{path} is not text in UTF-8", remedy) from error
    except RowError as error:
        raise UserError(field, f"{path} line {number} {error.what}", error.remedy) from error
    except (ValueError, RecursionError) as error:
        wrong = f"{error.msg}, column {error.colno}" if _is_json_error(error) else str(error)
        raise UserError(field, f"{path} line {number} is not a JSON object: {wrong}") from error
    return rows


def _json_object(line: str) -> Row:
    row = json.loads(line, object_pairs_hook=_once, parse_int=_integer)
    if not isinstance(row, dict):
        raise ValueError(f"{row!r:.60}")
    if "\\ud" in line.lower():  # only such an escape can make half a character
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"it has half a character, {half!r}") from error
    return row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a repeated key: JSON would silently drop the first."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has two keys {next(key for key in keys if keys.count(key) > 1)!r}")
    return made


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError as error:  # of Python's own, on thousands of digits
        problem = f"has a number of {len(digits.removeprefix('-'))} digits"
        raise RowError("", problem, "write it as text, in quotes") from error


def _is_json_error(error: Exception) -> TypeGuard[json.JSONDecodeError]:
    return isinstance(error, json.JSONDecodeError)


def read_parquet(path: str, field: str = "prompts.source") -> list[Row]:
    """All rows of a Parquet file.

    Raises:
        UserError: a file that cannot be read, is not Parquet, or has two columns of one name.
    """
    from winnow.storage.parquet import UNREADABLE, opened

    _check_file(path, field)
    try:
        with opened(Path(path).expanduser(), setting=field) as file:
            names = file.schema_arrow.names
            twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
            if twice:
                raise UserError(field, f"{path} has two columns {twice[0]!r}", "rename one")
            rows: list[Row] = shortest_floats(file.read())
    except UNREADABLE as error:
        remedy = "name it .jsonl if it is JSON, an object a line" if _begins(path, b"{") else ""
        raise UserError(
            field, f"cannot read {path} as Parquet: {_reason(error)}", remedy
        ) from error
    return rows


def _begins(path: str, mark: bytes) -> bool:
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False


def read_hub(source: str, split: str, field: str = "prompts.source") -> list[Row]:
    """A data set of the Hugging Face hub: `hub:NAME` or `hub:NAME:CONFIG`.

    Raises:
        UserError: the `datasets` library is missing, or the hub has no such data set or split.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(
            field, "hub data sets need the datasets library", install_extra("hub")
        ) from error
    name, _, config = source.removeprefix("hub:").partition(":")
    try:
        return list(load_dataset(name, config or None, split=split))
    except (OSError, ValueError) as error:  # what datasets raises for a name, split or connection
        raise UserError(field, f"cannot load {source!r} ({split}): {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def from_rows(
    rows: Sequence[Row],
    config: PromptsConfig,
    field: str = "prompts.source",
    *,
    padded: bool = False,
    completions: bool = False,
    called: str = "",
) -> list[Prompt]:
    """Prompts from rows.

    Args:
        called: What the rows are in messages; default: the source.
        padded: Whether nulls in a conversation stand for keys that other rows have.
        completions: Whether answers are completions, which may be messages: such a prompt has none.

    Raises:
        UserError: a column that is not there, an empty prompt, a turn that is no message; with the
            number of the row.
    """
    made = []
    for number, row in enumerate(rows):
        try:
            talk = completions and isinstance(row.get(config.answer_column), list)
            made.append(_prompt(number, row, config, padded, None if talk else answer_of))
        except RowError as error:
            place = f"row {number + 1} of {called or repr(config.source)}"
            raise UserError(error.field or field, f"{place} {error.what}", error.remedy) from error
    return made


def fill(template: str, row: Row) -> str:
    r"""The template with each `{column}` filled in. `{{` and `}}` are braces; `{}` is itself.

    Raises:
        RowError: a column that the row does not have, or that holds nothing.
    """

    def hole(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return match.group(0)[0]
        value = _there(_column(row, name, "prompts.template"))
        if value is None:
            raise RowError("prompts.template", f"has nothing in column {name!r}")
        return str(value)

    return _HOLE.sub(hole, template)


def check_template(template: str | None) -> None:
    """Raise a `UserError` for a template without a {column}: all its prompts would be one text."""
    if template is None or any(hole.group(1) for hole in _HOLE.finditer(template)):
        return
    doubled = _HOLE.search(template.replace("{{", "{").replace("}}", "}"))
    hint = f"write {doubled.group(0)}: doubled braces are braces" if doubled else ""
    problem = f"it fills in no column, so that all prompts would be {template[-60:]!r}"
    remedy = hint or "write {column} where the text of a column goes"
    raise UserError("prompts.template", problem, remedy)


def conversation(text: str, config: PromptsConfig) -> tuple[Message, ...] | None:
    """With `prompts.chat`, the messages for the chat template: the prompt is the user's turn."""
    if not config.chat:
        return None
    turn = {"role": "user", "content": text}
    return (turn,) if config.system is None else (_system(config.system), turn)


def _prompt(
    number: int,
    row: Row,
    config: PromptsConfig,
    padded: bool,
    answer: Callable[[Row, PromptsConfig], str | None] | None,
) -> Prompt:
    value = None
    if config.template is None:
        value = _there(_column(row, config.prompt_column, "prompts.prompt_column"))
    family = ""
    if isinstance(value, list | tuple):
        messages: tuple[Message, ...] | None = _messages(value, config, padded)
        assert messages is not None
        text = messages[-1]["content"]
        _check_tools(row)
        family = "\n".join(spoken(m) for m in messages if m["role"] != "system")
    else:
        text = fill(config.template, row) if config.template is not None else _text(value, config)
        messages = conversation(text, config)
    if not text.strip():
        raise RowError("", "has an empty prompt")
    difficulty = None
    if config.difficulty_column is not None:
        label = _there(_column(row, config.difficulty_column, "prompts.difficulty_column"))
        difficulty = None if label is None else str(label)
    name = _there(row.get("id"))
    return Prompt(
        id=str(number if name is None else name),
        text=text,
        answer=answer and answer(row, config),
        difficulty=difficulty,
        data=row,
        messages=messages,
        family=" ".join(family.split()),
    )


def _there(value: Any) -> Any:
    """What a column holds; `None` where that is missing."""
    return None if is_missing(value) else value


def _text(value: object, config: PromptsConfig) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise RowError(
            "prompts.prompt_column",
            f"has {value!r:.60} in column {config.prompt_column!r}",
            "it must be a string or a list of messages",
        )
    if isinstance(value, str) and value.lstrip().startswith("[{") and _is_conversation(value):
        raise RowError(
            "prompts.prompt_column",
            f"has a conversation in column {config.prompt_column!r} that is written as a string",
            "write it as a list of messages",
        )
    return str(value)


def _is_conversation(text: str) -> bool:
    """Whether a text is the JSON of messages."""
    try:
        turns = json.loads(text)
        return bool(messages_of(turns))
    except (ValueError, RecursionError):
        return False


def _messages(turns: Sequence[object], config: PromptsConfig, padded: bool) -> tuple[Message, ...]:
    """A conversation whose last turn is not the assistant's."""
    try:
        messages = list(messages_of(turns, padded=padded))
    except TurnError as error:
        raise RowError("prompts.prompt_column", error.problem, error.remedy) from error
    if not messages:
        raise RowError("prompts.prompt_column", "has an empty conversation")
    if messages[-1]["role"] in ("assistant", "system"):
        raise RowError(
            "prompts.prompt_column",
            f"ends with the {messages[-1]['role']}'s turn ({len(messages)})",
            "a prompt must end with the user's or a tool's",
        )
    if config.system is not None:
        if messages[0]["role"] == "system":
            raise RowError(
                "prompts.system", "has a system message of its own (turn 1)", "leave this one out"
            )
        messages.insert(0, _system(config.system))
    return tuple(messages)


def _check_tools(row: Row) -> None:
    try:
        tools_of(row)
    except TurnError as error:
        raise RowError("", error.problem, error.remedy) from error


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _check_file(path: str, field: str) -> None:
    try:
        found = Path(path).expanduser()
        is_folder, is_file = found.is_dir(), found.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, a folder closed to us, no such ~
        raise UserError(field, f"cannot read {path:.200}: {error}") from error
    if is_folder:
        raise UserError(field, f"{path} is a folder", "name one file in it")
    if not is_file:
        raise UserError(field, no_file(path))
