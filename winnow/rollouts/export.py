"""Writes survivors: Parquet with all columns, or the JSONL that other trainers read.

Every line carries `prompt_id`, `answer` and the reward beside what the trainers ask for: they leave
alone what they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from winnow.errors import UserError, choices
from winnow.rollouts.scoring import Scores
from winnow.rollouts.selected import Selected
from winnow.storage.atomic import disk, refuse, whole
from winnow.storage.format import METADATA
from winnow.storage.messages import tools_of
from winnow.storage.parquet import opened, read_schema, read_table, writer
from winnow.storage.paths import shown
from winnow.storage.sample_table import Part, SampleTable, readable
from winnow.storage.schema import SCHEMA, clean, prompt_of
from winnow.types import Prompt

Form = Literal["auto", "messages", "prompt-completion", "preference"]
_ROWS = 16_384
_NEEDED = ("prompt", "text")
OF_PROMPT = ("prompt", "prompt_id", "messages", "answer", "data")
"""Columns of a prompt that lines are made of."""


def check_form(form: str, field: str = "form") -> None:
    """Raise a `UserError` for an unknown form of lines."""
    if form not in get_args(Form):
        raise UserError(field, f"unknown form {form!r}", choices(get_args(Form)))


def check_lines(form: str, files: Sequence[Path]) -> None:
    """Raise a `UserError` for an unknown form of lines, and for one that no file would have."""
    check_form(form)
    if form != "auto" and not any(path.suffix == ".jsonl" for path in files):
        problem = "only a .jsonl file has one, and none is to be written"
        raise UserError("form", problem, "name one as output, or leave it out")


def check_output(path: Path) -> None:
    """Raise a `UserError` for an unknown kind of file, a path that exists, or among own samples."""
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError("out", f"unknown kind of file {path.name!r}", "use .parquet or .jsonl")
    inside = path.absolute().parent
    if inside.name in ("rollouts", "samples") and (inside.parent / "config.toml").is_file():
        problem = f"{shown(inside)} holds what was sampled, and what it holds counts as that"
        raise UserError("out", problem, "write to another folder")
    refuse(path)


def check_columns(table: SampleTable, path: Path) -> None:
    """Check that samples have the columns that a file of that kind needs, before any is written.

    Raises:
        UserError: no prompt or text for a .jsonl file; columns of one name that do not unify.
    """
    if path.suffix == ".parquet":
        _unified(table)
        return
    for part in table.parts:
        there = read_schema(part.path).names
        missing = [name for name in _NEEDED if name not in there]
        if missing:
            raise UserError(
                "samples", f"{part.path} has no column {', '.join(missing)}, which {path} needs"
            )


def export(
    table: SampleTable,
    selected: Selected,
    path: Path,
    *,
    form: Form = "auto",
    rejected: bool = False,
) -> None:
    """Write the survivors of a file of samples, in the order of the file.

    Args:
        form: Of the lines of a .jsonl file, as TRL, axolotl and LLaMA-Factory read them.
            `messages`: a conversation that ends with the completion; `prompt-completion`: the two,
            as texts, or as messages where some prompt was a conversation; `auto`: the former where
            some prompt was a conversation, else the latter. (`pairs.export_pairs` writes pairs.)
        rejected: Whether a Parquet file is to hold the rejected samples too, with their reasons.

    Raises:
        UserError: what `check_columns` raises.
    """
    check_columns(table, path)
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        whole(path, lambda partial: _parquet(table, selected, partial, rejected))
    else:
        whole(path, lambda partial: _jsonl(table, selected, partial, form))


def _parquet(table: SampleTable, selected: Selected, path: Path, rejected: bool) -> None:
    schema = _unified(table, several=selected.scores is not None and bool(selected.scores.parts))
    with writer(path, schema) as file:
        for part in table.parts:
            for first, batch in _batches(part):
                chosen = _with_outcomes(batch, selected, first, table.right_at)
                if not rejected:
                    chosen = chosen.filter(chosen["survived"])
                if chosen.num_rows:
                    file.write_table(_shaped(chosen, schema, part.path))


def _unified(table: SampleTable, *, several: bool = False) -> pa.Schema:
    """All columns that any of the files has, and those that selection fills.

    Args:
        several: Whether there are new scores that have parts.

    Raises:
        UserError: a column whose types in two files do not unify.
    """
    fields: dict[str, pa.Field] = {}
    for part in table.parts:
        for own in read_schema(part.path):
            seen = fields.get(own.name, own)
            if own.name in SCHEMA.names:
                fields[own.name] = SCHEMA.field(own.name)
                continue
            try:
                one = pa.unify_schemas(
                    [pa.schema([seen]), pa.schema([own])], promote_options="permissive"
                )
            except pa.ArrowException as error:
                raise UserError(
                    "samples",
                    f"column {own.name} is {own.type} in {part.path} and {seen.type} elsewhere",
                    "rename one, or leave one of the files out",
                ) from error
            fields[own.name] = one.field(0).with_nullable(True)
    parts = ("reward_parts", "right_by") if several else ()
    for name in ("reward", "error", *parts, "right_at", "right", "survived", "reason"):
        fields.setdefault(name, SCHEMA.field(name))
    return pa.schema(list(fields.values()), metadata=dict(METADATA))


def _shaped(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    columns = []
    for own in schema:
        if own.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, own.type))
            continue
        try:
            columns.append(table[own.name].cast(own.type))
        except pa.ArrowException as error:
            have = table.schema.field(own.name).type
            problem = f"column {own.name} of {path} is {have}, which does not convert to {own.type}"
            raise UserError("samples", problem, "convert it or leave it out") from error
    return pa.Table.from_arrays(columns, schema=schema)


def _batches(part: Part, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a file in batches, each with the number of its first row among all files'."""
    first = part.first
    with readable(part.path), opened(part.path) as file:  # else damage is the output's disk's
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            yield first, pa.Table.from_batches([batch])
            first += batch.num_rows


def _with_outcomes(
    batch: pa.Table, selected: Selected, first: int, right_at: float | None
) -> pa.Table:
    """A batch with its outcomes, and its new scores or its new bound where there are any."""
    here = slice(first, first + batch.num_rows)
    words = pa.array([clean(word) for word in selected.words])
    changed: dict[str, pa.Array] = {
        "survived": pa.array(selected.survived[here]),
        "reason": words.take(pa.array(selected.reasons[here])),
    }
    rewards = None
    if selected.scores is not None:
        rewards, right_at = selected.scores.rewards[here], selected.scores.right_at
        changed["reward"] = pa.array(rewards, mask=np.isnan(rewards))
        changed["error"] = pa.array(
            [clean(selected.scores.errors.get(row)) for row in range(here.start, here.stop)],
            pa.string(),
        )
        changed |= _parts(selected.scores, here, there=batch.column_names)
        decides = selected.scores.decides[here]
    elif right_at is not None and "reward" in batch.column_names:
        rewards = decides = batch["reward"].cast(pa.float64()).to_numpy()
        if "right_by" in batch.column_names:
            by = batch["right_by"].cast(pa.float64()).to_numpy()
            decides = np.where(np.isnan(by), rewards, by)
    if rewards is not None and right_at is not None:
        changed["right"] = pa.array(decides >= right_at, mask=np.isnan(rewards))
        changed["right_at"] = pa.array(np.full(len(rewards), right_at))
    for name, column in changed.items():
        if name in batch.column_names:
            batch = batch.drop_columns([name])
        batch = batch.append_column(name, column)
    return batch


def _parts(scores: Scores, here: slice, there: Collection[str]) -> dict[str, pa.Array]:
    """The columns of new scores' parts; of none where neither they nor the file's have any."""
    names = ("reward_parts", "right_by")
    if not scores.parts and not set(names) & set(there):
        return {}
    rows = range(here.start, here.stop)
    columns = (
        [[*scores.of_row(row).parts] or None for row in rows],
        [scores.of_row(row).right_by for row in rows],
    )
    return {
        name: pa.array(values, SCHEMA.field(name).type)
        for name, values in zip(names, columns, strict=True)
    }


def _jsonl(table: SampleTable, selected: Selected, path: Path, form: Form) -> None:
    talk = has_conversations(table)
    unread = set() if talk else {"data"}  # tools go with conversations; others' may be anything
    if form == "auto":
        form = "messages" if talk else "prompt-completion"
    with path.open("w", encoding="utf-8") as file:
        for part in table.parts:
            there = read_schema(part.path).names
            wanted = ("text", *OF_PROMPT, "reward")
            columns = [name for name in wanted if name in there and name not in unread]
            for first, batch in _batches(part, columns):
                survived = selected.survived[first : first + batch.num_rows]
                chosen = _with_outcomes(batch, selected, first, None).filter(pa.array(survived))
                for row in chosen.to_pylist():
                    try:
                        written = line(row, form, talk)
                    except ValueError as error:
                        problem = f"{part.path}, prompt {row['prompt']!r:.60}: {error}"
                        raise UserError("samples", problem, "fix the file") from error
                    file.write(json.dumps(written, ensure_ascii=False) + "\n")


def has_conversations(table: SampleTable) -> bool:
    """Whether some prompt of a file of samples was a conversation."""
    return any(map(_has_conversations, table.parts))


def _has_conversations(part: Part) -> bool:
    name = "messages"
    with readable(part.path):
        if name not in read_schema(part.path).names:
            return False
        column = read_table(part.path, [name], [name])[name]
    return bool(column.null_count < len(column))


def line(row: dict[str, Any], form: Form, talk: bool) -> dict[str, Any]:
    """A sample as another trainer reads it.

    Args:
        talk: Whether prompt and completion are messages, which is the same for a whole file.

    Raises:
        ValueError: the prompt is null, `messages` no conversation, or its tools are none.
    """
    prompt = prompt_of(row)
    if row["prompt"] is None and prompt.messages is None:
        raise ValueError("the prompt is null")
    asked, said = asked_as(prompt, talk), said_as(row["text"], talk)
    more = {"prompt_id": prompt.id, "answer": prompt.answer, "reward": row.get("reward")}
    more = {**tools_beside(prompt), **more}
    if form == "messages":
        return {"messages": [*asked_as(prompt, True), *said_as(row["text"], True)], **more}
    return {"prompt": asked, "completion": said, **more}


def asked_as(prompt: Prompt, talk: bool) -> Any:
    """A prompt as a text, or as messages."""
    if not talk:
        return prompt.text
    return [*(prompt.messages or ({"role": "user", "content": prompt.text},))]


def tools_beside(prompt: Prompt) -> dict[str, Any]:
    """The tools that a conversation may call, as its source has them: the template reads them.

    Raises:
        ValueError: they are none.
    """
    if prompt.messages is None or tools_of(prompt.data) is None:
        return {}
    return {"tools": prompt.data["tools"]}


def said_as(text: str, talk: bool) -> Any:
    """A completion as a text, or as a list of one message."""
    return [{"role": "assistant", "content": text}] if talk else text
