"""Survivors on the disk: Parquet with all their columns, or the JSONL that other trainers read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from winnow.disk import refuse, whole
from winnow.draws.schema import SCHEMA, clean
from winnow.draws.table import DrawTable, Part
from winnow.errors import UserError
from winnow.sifting import Sifted

Form = Literal["messages", "prompt-completion"]
_ROWS = 16_384
_NEEDED = ("prompt", "text")


def check_output(path: Path) -> None:
    """See that survivors can be written there.

    Raises:
        UserError: a kind of file that is not known, or something is there already.
    """
    if path.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"out: {path} is neither .parquet nor .jsonl")
    refuse(path)


def export(
    table: DrawTable, sifted: Sifted, path: Path, *, form: Form = "messages", rejected: bool = False
) -> None:
    """Write the survivors of a file of draws, in the order of the file.

    Args:
        form: Of the lines of a .jsonl file. `messages`: a conversation that ends with the answer;
            `prompt-completion`: the two, as texts, or as messages where the prompt was a
            conversation. As TRL, axolotl and LLaMA-Factory read them.
        rejected: Whether a Parquet file is to hold the rejected draws too, with their reasons.

    Raises:
        UserError: a .jsonl file of draws whose prompt or text is not in the file.
    """
    if path.suffix == ".parquet":
        whole(path, lambda partial: _parquet(table, sifted, partial, rejected))
    else:
        whole(path, lambda partial: _jsonl(table, sifted, partial, form))


def _parquet(table: DrawTable, sifted: Sifted, path: Path, rejected: bool) -> None:
    schema = _unified(table)
    with pq.ParquetWriter(path, schema) as writer:
        for part in table.parts:
            for first, batch in _batches(part):
                judged = _judged(batch, sifted, first)
                if not rejected:
                    judged = judged.filter(judged["kept"])
                if judged.num_rows:
                    writer.write_table(_shaped(judged, schema))


def _unified(table: DrawTable) -> pa.Schema:
    """All columns that any of the files has, and those that selection fills."""
    fields: dict[str, pa.Field] = {}
    for part in table.parts:
        for own in pq.read_schema(part.path):
            known = own.name in SCHEMA.names
            fields.setdefault(own.name, SCHEMA.field(own.name) if known else own)
    for name in ("reward", "error", "right", "kept", "reason"):
        fields.setdefault(name, SCHEMA.field(name))
    return pa.schema(list(fields.values()))


def _shaped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [
        table[own.name].cast(own.type)
        if own.name in table.column_names
        else pa.nulls(table.num_rows, own.type)
        for own in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _batches(part: Part, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a file, some at a time, each with the number of the first among all files'."""
    first = part.first
    with pq.ParquetFile(part.path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
            yield first, pa.Table.from_batches([batch])
            first += batch.num_rows


def _judged(batch: pa.Table, sifted: Sifted, first: int) -> pa.Table:
    """A batch with its verdicts, and its new scores where there are any."""
    here = slice(first, first + batch.num_rows)
    words = pa.array([clean(word) for word in sifted.words])
    changed: dict[str, pa.Array] = {
        "kept": pa.array(sifted.kept[here]),
        "reason": words.take(pa.array(sifted.reasons[here])),
    }
    if sifted.scores is not None:
        rewards = sifted.scores.rewards[here]
        changed["reward"] = pa.array(rewards, mask=np.isnan(rewards))
        changed["right"] = pa.array(rewards >= sifted.scores.right_at, mask=np.isnan(rewards))
        changed["right_at"] = pa.array(np.full(len(rewards), sifted.scores.right_at))
        changed["error"] = pa.array(
            [clean(sifted.scores.errors.get(row)) for row in range(here.start, here.stop)],
            pa.string(),
        )
    for name, column in changed.items():
        if name in batch.column_names:
            batch = batch.set_column(batch.column_names.index(name), name, column)
        else:
            batch = batch.append_column(name, column)
    return batch


def _jsonl(table: DrawTable, sifted: Sifted, path: Path, form: Form) -> None:
    with path.open("w", encoding="utf-8") as file:
        for part in table.parts:
            there = pq.read_schema(part.path).names
            missing = [name for name in _NEEDED if name not in there]
            if missing:
                raise UserError(
                    f"draws: {part.path} has no column {', '.join(missing)}, which .jsonl needs"
                )
            columns = [name for name in (*_NEEDED, "messages") if name in there]
            for first, batch in _batches(part, columns):
                kept = sifted.kept[first : first + batch.num_rows]
                _write_lines(file, batch, kept, form)


def _write_lines(file: IO[str], batch: pa.Table, kept: NDArray[np.bool_], form: Form) -> None:
    for row in batch.filter(pa.array(kept)).to_pylist():
        file.write(json.dumps(line(row, form), ensure_ascii=False) + "\n")


def line(row: dict[str, Any], form: Form) -> dict[str, Any]:
    """A draw as another trainer reads it."""
    said = {"role": "assistant", "content": row["text"]}
    conversation = json.loads(row["messages"]) if row.get("messages") else None
    if form == "messages":
        asked = conversation or [{"role": "user", "content": row["prompt"]}]
        return {"messages": [*asked, said]}
    if conversation:
        return {"prompt": conversation, "completion": [said]}
    return {"prompt": row["prompt"], "completion": row["text"]}
