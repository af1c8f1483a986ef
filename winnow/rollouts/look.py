"""Looks into samples on the disk: which groups there are, and the texts of those that are shown.

find the files -> read what says which samples these are -> filter -> read the texts of a few

Completions are read a batch at a time, and only where they are shown. A run may go on meanwhile.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from winnow.errors import UserError, choices, number_of
from winnow.rollouts.look_filters import (
    ALL,
    Columns,
    Filters,
    Index,
    Mask,
    Shown,
    counted,
    grouped,
    never_solved,
    of_groups,
    steps_told,
)
from winnow.storage.parquet import UNREADABLE, opened
from winnow.storage.paths import Paths, paths_of, shown
from winnow.storage.reading import CannotRead, has_file, has_folder, listed
from winnow.storage.sample_table import JOURNAL, Part, read_part
from winnow.types import Split

_SPLITS = (*get_args(Split), ALL)
_LIGHT = (
    *("step", "split", "sample", "prompt_id", "reward", "error"),
    *("right_by", "right_at", "survived", "reason"),
)
"""Columns that say which samples there are; with the prompts, each of which is held once."""
_NAMED = re.compile(r"^([a-z]+)-(\d{6,})\.parquet$")
"""Files of a run: their names say what is in them."""
_CHUNK = 256
"""Groups whose texts are in memory together."""
_BATCH = 1024


class Look:
    """What filters leave of the samples of files.

    Attributes:
        notes: What was left out, and why.
        nothing: Where no sample is left: what there is.
        groups: The groups that are left, in the order in which they are shown.
        split: That of the samples that were looked at.
    """

    def __init__(self, samples: Paths, filters: Filters) -> None:
        """Read what says which samples there are.

        Raises:
            UserError: no such file, no samples, an unknown split.
        """
        if filters.split is not None and filters.split not in _SPLITS:
            problem = f"unknown split {filters.split!r}"
            raise UserError("--split", problem, choices(_SPLITS))
        self.notes: list[str] = []
        self.nothing = ""
        self.groups: list[Shown] = []
        files = [path for given in paths_of(samples) for path in self._files(given)]
        chosen, self.split, self.nothing = _by_name(files, filters)
        self._read(chosen)
        if not self.nothing:
            self._filter(filters)

    @property
    def samples(self) -> int:
        """Number of samples that are left."""
        return sum(len(group.rows) for group in self.groups)

    def _files(self, path: Path) -> list[Path]:
        if has_file(path, "samples"):
            return [path]
        if not has_folder(path, "samples"):
            raise UserError("samples", f"no file or folder {path}")
        journal = path / JOURNAL
        waiting = has_file(journal, "samples") and journal.stat().st_size > 1
        for inside in ("samples", "rollouts", ""):
            if found := listed(path / inside, "*.parquet"):
                if waiting:
                    self.notes.append(
                        f"{shown(path)} is not complete: what is only in its {JOURNAL} is left out"
                    )
                return found
        where = f"folder {path} has no .parquet file"
        if waiting:
            problem = f"{where} yet: its samples are in {JOURNAL}"
            remedy = f"wait, or finish it with winnow sample --resume {shown(path)}"
            raise UserError("samples", problem, remedy)
        raise UserError("samples", f"{where}, so it holds no samples")

    def _read(self, files: Sequence[Path]) -> None:
        parts: list[Part] = []
        tables: list[pa.Table] = []
        failed: list[UserError] = []
        for path in files:
            try:
                table = read_part(path, _LIGHT, why="show")
            except UNREADABLE as error:
                failed.append(UserError("samples", _damage(path, error)))
                continue
            except CannotRead as error:
                failed.append(error)
                continue
            parts.append(Part(path, sum(part.rows for part in parts), table.num_rows))
            tables.append(table)
        if failed and not tables:
            raise failed[0]
        self.notes += [f"{error.problem}; it is left out" for error in failed]
        self._parts = parts
        if not tables and not self.nothing:
            raise UserError("samples", "there is no sample in the files")
        if tables:
            whole = pa.concat_tables(tables, promote_options="permissive")
            self._table = whole.unify_dictionaries()

    def _filter(self, filters: Filters) -> None:
        columns = Columns(self._table, self._parts)
        left = np.ones(columns.rows, dtype=bool)
        told: Callable[[Mask], str]
        for mask, told in of_groups(columns, filters):
            if not (left & mask).any():
                self.nothing = told(left)
                return
            left &= mask
        if filters.never_solved:
            mask = never_solved(columns, left)
            if not mask.any():
                prompts = number_of(columns.prompt_count(left), "prompt")
                self.nothing = f"no prompt without a right sample: {prompts}"
                return
            left &= mask
        whole = left.copy()
        if filters.errors:
            left &= columns.failed
            if not left.any():
                self.nothing = f"no error: {number_of(int(whole.sum()), 'sample')}"
                return
        if filters.reason is not None:
            before, part = left.copy(), filters.reason.casefold()
            left &= columns.where("reason", lambda text: part in text.casefold())
            if not left.any():
                self.nothing = columns.reasons_told(before, filters.reason)
                return
        self.groups = grouped(columns, whole, left, filters)

    def rows(self, groups: Sequence[Shown]) -> Iterator[tuple[Shown, list[dict[str, Any]]]]:
        """The samples of groups with all their columns, some groups at a time."""
        for begin in range(0, len(groups), _CHUNK):
            some = groups[begin : begin + _CHUNK]
            wanted = np.sort(np.concatenate([group.rows for group in some]))
            found = dict(self._rows(wanted))
            for group in some:
                yield group, [found[row] for row in group.rows.tolist() if row in found]

    def each_row(self, groups: Sequence[Shown]) -> Iterator[dict[str, Any]]:
        """The samples of groups in the order of the files, a batch of rows in memory."""
        if groups:
            for _, row in self._rows(np.sort(np.concatenate([group.rows for group in groups]))):
                yield row

    def _rows(self, wanted: Index) -> Iterator[tuple[int, dict[str, Any]]]:
        for part in self._parts:
            own = wanted[(wanted >= part.first) & (wanted < part.first + part.rows)] - part.first
            if not len(own):
                continue
            try:
                for number, row in _read_rows(part.path, own):
                    yield part.first + number, row
            except UNREADABLE as error:
                self.notes.append(f"{_damage(part.path, error)}; its texts are left out")
            except CannotRead as error:
                self.notes.append(f"{error.problem}; its texts are left out")


def _by_name(files: Sequence[Path], filters: Filters) -> tuple[list[Path], str, str]:
    """The files to read by what the names of a run's files say; the split; or what there is."""
    named = {path: found for path in files if (found := _named(path))}
    split = filters.split
    if split is None:
        split = "train" if any(kind == "train" for kind, _ in named.values()) else ALL
    chosen = [path for path in files if path not in named or split in (ALL, named[path][0])]
    if files and not chosen:
        kinds = Counter(kind for kind, _ in named.values())
        told = counted(kinds, "file")
        return [], split, f"no samples of split {split}; there are: {told}"
    if filters.steps is not None:
        first, last = filters.steps
        steps = [named[path][1] for path in chosen if path in named]
        chosen = [path for path in chosen if path not in named or first <= named[path][1] <= last]
        if not chosen:
            return [], split, steps_told(steps)
    return chosen, split, ""


def _named(path: Path) -> tuple[str, int] | None:
    """Split and step of a run's file."""
    match = _NAMED.match(path.name) if path.parent.name == "rollouts" else None
    if match is None or match.group(1) not in _SPLITS:
        return None
    return match.group(1), int(match.group(2))


def _read_rows(path: Path, wanted: Index) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a file with their numbers; row groups without one are not read."""
    with opened(path) as file:
        first = 0
        for number in range(file.metadata.num_row_groups):
            last = first + file.metadata.row_group(number).num_rows
            if ((wanted >= first) & (wanted < last)).any():
                at = first
                for batch in file.iter_batches(_BATCH, row_groups=[number]):
                    own = wanted[(wanted >= at) & (wanted < at + batch.num_rows)]
                    rows = batch.take(pa.array(own - at)).to_pylist() if len(own) else []
                    yield from zip(own.tolist(), rows, strict=True)
                    at += batch.num_rows
            first = last


def _damage(path: Path, error: BaseException) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{shown(path)} is half-written or not Parquet ({reason:.80})"
