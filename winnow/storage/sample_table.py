"""Files of samples, read by group, and no more columns than are asked for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from winnow.errors import UserError
from winnow.storage.format import check_file
from winnow.storage.parquet import UNREADABLE, opened, read_schema
from winnow.storage.paths import Paths, paths_of
from winnow.storage.policies import described
from winnow.storage.reading import has_file, has_folder, listed
from winnow.storage.schema import PROMPT_KEY, SCHEMA, group_of
from winnow.storage.table_checks import check_columns, check_kind, check_nulls, check_texts
from winnow.theory.ties import all_equal
from winnow.types import Group

JOURNAL = "journal.jsonl"
"""File of a sample folder's samples that are in no Parquet file yet."""

_IDENTITY = ("prompt_id", "sample", "model", "policy_version", "temperature", "truncated")
_SCORES = ("reward", "error", "right", "right_by", "right_at", "survived", "reason")
_REPEATED = ("prompt_id", "prompt", "messages", "answer", "data", "model", "error", "reason")
"""Columns whose values many rows share: kept in memory once."""


@dataclass(frozen=True)
class Part:
    """One Parquet file, and where its rows begin among those of all."""

    path: Path
    first: int
    rows: int


class SampleTable:
    """Samples of one or several Parquet files, gathered by prompt.

    A row is a sample; a group is the rows of one prompt (of one `prompt_id`, `prompt` and
    conversation, as far as the files have these), in the order of their numbers.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        table: pa.Table,
        order: NDArray[np.int64],
        starts: NDArray[np.int64],
        right_at: float | None,
    ) -> None:
        self.parts, self.order, self.starts = parts, order, starts
        self._table = table
        self.right_at = right_at

    @classmethod
    def gathered(
        cls, parts: Sequence[Part], table: pa.Table, right_at: float | None, asked: Collection[str]
    ) -> SampleTable:
        """The rows of these files in the order of their groups, with the columns asked for."""
        order, starts = _gathered(table)
        asked = {*asked, *_naming(table)}
        table = table.select([name for name in table.column_names if name in asked])
        if not np.array_equal(order, np.arange(len(order))):
            table = table.take(pa.array(order))
        return cls(parts, table, order, starts, right_at)

    @classmethod
    def of_rows(cls, path: Path, table: pa.Table, right_at: float | None) -> SampleTable:
        """The samples of a file that is not Parquet, read elsewhere; columns as in `SCHEMA`."""
        part = Part(path, 0, table.num_rows)
        return cls.gathered([part], _as_written(path, table), right_at, table.column_names)

    def only(self, columns: Collection[str]) -> SampleTable:
        """The same samples with fewer columns; scores and what names a prompt stay."""
        left = {*_IDENTITY, *_SCORES, *columns, *_naming(self._table)}
        names = [name for name in self.columns if name in left]
        return SampleTable(
            self.parts, self._table.select(names), self.order, self.starts, self.right_at
        )

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        return int(self._table.num_rows)

    @property
    def columns(self) -> list[str]:
        return list(self._table.column_names)

    def rows_of(self, group: int) -> NDArray[np.int64]:
        """The numbers, over all files, of the rows of a group."""
        return self.order[self.starts[group] : self.starts[group + 1]]

    def group(self, number: int) -> Group:
        """One group, with scores and outcomes where there are any.

        Raises:
            UserError: rows that no samples can be made of.
        """
        first, last = int(self.starts[number]), int(self.starts[number + 1])
        rows = self._table.slice(first, last - first).to_pylist()
        try:
            return group_of(rows, right_at=self.right_at)
        except ValueError as error:
            row = int(self.order[first])
            part = next(part for part in self.parts if row < part.first + part.rows)
            raise UserError(
                "samples",
                f"{part.path} row {row - part.first + 1}: cannot use its prompt's samples: {error}",
                "fix the file",
            ) from error

    def __iter__(self) -> Iterator[Group]:
        for number in range(len(self)):
            yield self.group(number)

    def policies(self) -> list[str]:
        """Descriptions of the policies that sampled, in the order of their updates; empty where no
        model is named.
        """
        names = [c for c in ("model", "policy_version", "temperature", "truncated") if c in self]
        if "model" not in names:
            return []
        distinct = self._table.select(names).group_by(names).aggregate([]).to_pylist()
        return described(distinct)

    @property
    def run(self) -> Path | None:
        """The run folder, or folder of `winnow sample`, that all of its files are in."""
        (folder, *others) = {part.path.resolve().parent for part in self.parts}
        inside = folder.name in ("rollouts", "samples") and not others
        return folder.parent if inside and (folder.parent / "config.toml").is_file() else None

    def unscored(self) -> int:
        """Rows with neither a reward nor an error."""
        said = [pc.is_valid(self._table[name]) for name in ("reward", "error") if name in self]
        return self.rows - int(pc.sum(reduce(pc.or_, said)).as_py()) if said else self.rows

    def need_scores(self, samples: Paths = ()) -> None:
        """Raise a `UserError` if some sample has neither a score nor an error.

        Args:
            samples: Where they are, for the remedy of a command that cannot score them itself.
        """
        if missing := self.unscored():
            named = " ".join(map(str, paths_of(samples)))
            how = f"winnow select {named} --rule everything --out scored.parquet " if named else ""
            problem = f"{missing} of {self.rows} samples have no score"
            raise UserError("samples", problem, f"score them with {how}--rescore REWARD")

    def count(self, column: str, value: bool) -> int:
        """Rows where a boolean column has a value; 0 where there is no such column."""
        if column not in self:
            return 0
        return int(pc.sum(pc.equal(self._table[column], value)).as_py() or 0)

    def gaps(self) -> int:
        """Prompts some of whose samples are missing: their numbers have gaps."""
        numbers = pc.fill_null(self._table["sample"], 0).to_numpy() if "sample" in self else []
        skips = np.setdiff1d(np.flatnonzero(np.diff(numbers) > 1) + 1, self.starts)
        return len(np.unique(np.searchsorted(self.starts, skips, side="right")))

    def values(self, column: str) -> list[Any]:
        """The distinct values of a column, without nulls."""
        if column not in self:
            return []
        return [v for v in pc.unique(self._table[column]).to_pylist() if v is not None]

    def clashes(self) -> list[tuple[int, str]]:
        """Groups that have one text with different rewards, each with such a text."""
        keys = {"group": np.repeat(np.arange(len(self)), np.diff(self.starts))}
        names = [name for name in ("text", "finish_reason") if name in self]
        table = pa.table({**keys, **{name: self._table[name] for name in (*names, "reward")}})
        found = table.group_by(["group", *names]).aggregate([("reward", "min"), ("reward", "max")])
        found = found.filter(pc.greater(found["reward_max"], found["reward_min"]))
        texts = {
            row["group"]: row["text"]
            for row in found.to_pylist()
            if not all_equal(np.array([row["reward_min"], row["reward_max"]]), self.right_at or 1.0)
        }
        return sorted(texts.items())

    def empty_lists(self, column: str) -> int:
        """Rows that have nothing in a column of lists."""
        lengths = pc.fill_null(pc.list_value_length(self._table[column]), 0)
        return int(pc.sum(pc.equal(lengths, 0)).as_py() or 0)

    def not_finite(self, column: str) -> int:
        """How many numbers in a column of lists are null, NaN or infinite."""
        values = pc.fill_null(pc.is_finite(pc.list_flatten(self._table[column])), False)
        return len(values) - int(pc.sum(values).as_py() or 0)

    def __contains__(self, column: str) -> bool:
        return column in self._table.column_names


def read_samples(
    paths: Sequence[str | Path],
    needed: Sequence[str],
    *,
    why: str,
    optional: Sequence[str] = (),
    right_at: float | None = None,
) -> SampleTable:
    """The samples of files and folders.

    Args:
        paths: Parquet files; folders of a run (its training samples, else its evaluations), of
            `winnow sample`, or of Parquet files.
        needed: Columns that must be there, apart from `prompt_id` or `prompt`.
        why: What needs them, for the message.
        optional: Columns that are read if they are there, as scores and policies always are.
        right_at: A reward of at least this is right. Default: as each file says, else 1.

    Raises:
        UserError: no such file, one that is not Parquet or damaged, a missing column, a sample
            without a text, a null where a value is needed, a folder that is not complete, no
            samples at all.
    """
    if not paths:
        raise UserError("samples", "there is no file or folder", "name at least one")
    parts: list[Part] = []
    tables: list[pa.Table] = []
    asked = dict.fromkeys([*_IDENTITY, *_SCORES, *needed, *optional])
    for path in _files(paths):
        with readable(path):
            table = read_part(path, list(asked), needed, why=why)
        parts.append(Part(path, sum(part.rows for part in parts), table.num_rows))
        tables.append(table)
    try:
        whole = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    except pa.ArrowException as error:
        raise UserError("samples", f"the files' columns differ: {error}") from error
    if whole.num_rows == 0:
        raise UserError("samples", f"no samples in {', '.join(map(str, paths))}")
    return SampleTable.gathered(parts, whole, right_at, asked)


def read_part(
    path: Path, asked: Sequence[str], needed: Sequence[str] = (), *, why: str
) -> pa.Table:
    """The columns of one file that are asked for, and those that tell its prompts apart.

    Raises:
        UserError: see `read_samples`.
        parquet.UNREADABLE: it is damaged.
    """
    check_kind(path)
    schema = read_schema(path)
    there = schema.names
    check_file("samples", path, schema.metadata)
    check_columns(path, there, needed, why)
    texts = [name for name in there if _is_text(schema.field(name).type)]
    names = [name for name in asked if name in there]
    names += [name for name in PROMPT_KEY if name in texts and name not in names]
    if "prompt_id" not in there and "prompt" not in names:
        names.append("prompt")
    repeated = [name for name in _REPEATED if name in names and name in texts]
    with opened(path, repeated) as file:
        check_texts(path, file)
        table = _as_written(path, file.read(columns=names))
    check_nulls(path, table, needed)
    return table


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _files(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for name in paths:
        path = Path(name).expanduser()
        if has_folder(path, "samples"):
            found += _in_folder(path)
        elif has_file(path, "samples"):
            found.append(path)
        else:
            raise UserError("samples", f"no file or folder {path}")
    once: set[str] = set()
    for path in found:
        if (real := os.path.realpath(path)) in once:
            raise UserError("samples", f"{path} is given twice", "name each file or folder once")
        once.add(real)
    return found


def _in_folder(folder: Path) -> list[Path]:
    journal = folder / JOURNAL
    config = folder / "config.toml"
    if has_file(journal, "samples") and (journal.stat().st_size or not config.is_file()):
        remedy = f"finish it with winnow sample --resume {folder}"
        if listed(folder / "samples", "*.parquet"):
            remedy += f", or read {folder / 'samples'}"
        raise UserError("samples", f"{folder} is not complete", remedy)
    for inside, names in (("samples", "*"), ("rollouts", "train-*"), ("rollouts", "*"), ("", "*")):
        if files := listed(folder / inside, f"{names}.parquet"):
            return files
    raise UserError("samples", f"folder {folder} has no .parquet file, so it holds no samples")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """In the block, which reads a Parquet file, damage of it is a `UserError` that names it."""
    try:
        yield
    except UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        problem = f"{path} is half-written or not Parquet: {reason:.80}"
        raise UserError("samples", problem) from error


def _as_written(path: Path, table: pa.Table) -> pa.Table:
    """The columns with the types that Winnow writes, so that files of others mix with its own.

    Raises:
        UserError: a column that does not convert.
    """
    for place, name in enumerate(table.column_names):
        target = SCHEMA.field(name).type if name in SCHEMA.names else None
        have = table.schema.field(name).type
        try:
            if name in _REPEATED:
                table = table.set_column(place, name, _encoded(table[name]))
            elif target is not None and have != target:
                # texts of all files together may pass 2 GiB
                target = pa.large_string() if pa.types.is_string(target) else target
                table = table.set_column(place, name, table[name].cast(target))
        except pa.ArrowException as error:
            written = SCHEMA.field(name).type
            problem = f"column {name} of {path} is {have}, which does not convert to {written}"
            raise UserError("samples", problem, "convert it or leave it out") from error
    if "text" in table.column_names:
        place = table.column_names.index("text")
        table = table.set_column(place, "text", table["text"].cast(pa.large_string()))
    return table


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts with each distinct text held once."""
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.large_string()).dictionary_encode()
    chunks = [
        pa.DictionaryArray.from_arrays(
            chunk.indices.cast(pa.int32()), chunk.dictionary.cast(pa.large_string())
        )
        for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, type=pa.dictionary(pa.int32(), pa.large_string()))


def _naming(table: pa.Table) -> tuple[str, ...]:
    """Columns that a prompt's name is taken from."""
    if "prompt_id" in table.column_names and not table["prompt_id"].null_count:
        return ("prompt_id",)
    return ("prompt_id", "prompt")


def _gathered(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows in the order of their prompts' first appearance, and where those of each begin."""
    codes = np.zeros(table.num_rows, dtype=np.int64)
    for name in PROMPT_KEY:
        if name in table.column_names and pa.types.is_dictionary(table.schema.field(name).type):
            own = np.concatenate(
                [chunk.indices.fill_null(-1).to_numpy() for chunk in table[name].chunks]
            )
            pairs = codes * (own.max() + 2) + own + 1
            codes = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))
    codes = rank[codes]
    if "sample" in table.column_names:
        number = table["sample"].fill_null(0).to_numpy()
        order = np.lexsort((number, codes))
    else:
        order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(first) + 1))
    return order.astype(np.int64), starts.astype(np.int64)
