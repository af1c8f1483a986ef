"""Which samples filters leave, decided from the columns that are small. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from winnow.errors import number_of
from winnow.rollouts.select import kind_of_reason
from winnow.storage.sample_table import Part
from winnow.storage.schema import PROMPT_KEY

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

ALL = "all"
"""The split that stands for all."""


@dataclass(frozen=True)
class Filters:
    """Which samples are looked at.

    Attributes:
        split: Default: training samples where there are any, else all.
        steps: The first and the last step.
        prompt: The id of a prompt, or a part of its text.
        never_solved: Only prompts with scored samples, none of them right.
        errors: Only samples that the verifier failed on.
        reason: A part of the reason of a sample's outcome.
        best, worst: Of each group only the sample with the highest, the lowest reward; the best
            first, the worst first. With both, the two, and the widest apart first.
    """

    split: str | None = None
    steps: tuple[int, int] | None = None
    prompt: str | None = None
    never_solved: bool = False
    errors: bool = False
    reason: str | None = None
    best: bool = False
    worst: bool = False


@dataclass(frozen=True)
class Shown:
    """A group of which something is shown.

    Attributes:
        rows: Numbers of the samples that are shown, over all files.
        samples, right, survived, errors: Counts of the whole group.
    """

    rows: Index
    samples: int
    right: int
    survived: int
    errors: int


class Columns:
    """The columns that filters read, as arrays; of files that lack one, what that says."""

    def __init__(self, table: pa.Table, parts: Sequence[Part]) -> None:
        self._table, self.rows = table, int(table.num_rows)
        folders = {path: n for n, path in enumerate(dict.fromkeys(p.path.parent for p in parts))}
        self.folder = np.repeat(
            np.array([folders[part.path.parent] for part in parts], dtype=np.int64),
            [part.rows for part in parts],
        )
        self.reward = self._numbers("reward", np.nan)
        self.step = self._numbers("step", 0).astype(np.int64)
        self.sample = self._numbers("sample", 0).astype(np.int64)
        self.failed = self._codes("error") >= 0
        self.survived = self._numbers("survived", 0) > 0
        decides = np.where(np.isnan(by := self._numbers("right_by", np.nan)), self.reward, by)
        with np.errstate(invalid="ignore"):  # an error is not right
            self.right = ~np.isnan(self.reward) & (decides >= self._numbers("right_at", 1.0))

    def _numbers(self, name: str, usual: float) -> NDArray[np.float64]:
        if name not in self._table.column_names:
            return np.full(self.rows, usual)
        found = np.asarray(self._table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)
        return np.where(np.isnan(found), usual, found)

    def _codes(self, name: str) -> Index:
        """The number of each row's text among those of the column; -1 for none."""
        if name not in self._table.column_names:
            return np.full(self.rows, -1, dtype=np.int64)
        column = self._dictionary(name)
        codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in column.chunks]
        return np.concatenate(codes).astype(np.int64)

    def _dictionary(self, name: str) -> pa.ChunkedArray:
        column = self._table[name]
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        return column

    def texts(self, name: str) -> list[str]:
        """The texts of a column, by their numbers."""
        if name not in self._table.column_names:
            return []
        return list(self._dictionary(name).chunk(0).dictionary.to_pylist())

    def where(self, name: str, holds: Callable[[str], bool]) -> Mask:
        """Where a column has a text for which something holds."""
        true = np.array([holds(text or "") for text in self.texts(name)] + [False], dtype=bool)
        return np.asarray(true[self._codes(name)])

    @cached_property
    def split(self) -> Index:
        return self._codes("split")

    @cached_property
    def prompt(self) -> Index:
        """Numbers of the prompts, those of different folders apart."""
        return _joined([self.folder, *(self._codes(name) for name in PROMPT_KEY)])

    @cached_property
    def group(self) -> Index:
        """Numbers of the groups: a prompt at a step."""
        return _joined([self.split, self.step, self.prompt])

    def prompt_count(self, mask: Mask) -> int:
        return len(np.unique(self.prompt[mask]))

    def splits_told(self, mask: Mask) -> str:
        names = [*self.texts("split"), "no split"]
        found = Counter(names[code] for code in self.split[mask].tolist())
        return f"no samples of that split; there are: {counted(found)}"

    def steps_told(self, mask: Mask) -> str:
        return steps_told(self.step[mask].tolist())

    def prompts_told(self, mask: Mask) -> str:
        name = "prompt_id" if self.texts("prompt_id") else "prompt"
        example = self.texts(name)[self._codes(name)[np.flatnonzero(mask)[0]]]
        number = number_of(self.prompt_count(mask), "prompt")
        return f"no prompt with that id or text; there are {number}, such as {example!r:.60}"

    def reasons_told(self, mask: Mask, part: str) -> str:
        names = [*map(kind_of_reason, self.texts("reason")), "no reason yet"]
        found = Counter(names[code] for code in self._codes("reason")[mask].tolist())
        return f"no reason has {part!r} in it; there are: {counted(found)}"


def of_groups(columns: Columns, filters: Filters) -> Iterator[tuple[Mask, Callable[[Mask], str]]]:
    """The rows that each filter on whole groups leaves, and what to say if that is none."""
    if filters.split not in (None, ALL):
        yield columns.where("split", lambda text: text == filters.split), columns.splits_told
    if filters.steps is not None:
        first, last = filters.steps
        yield (columns.step >= first) & (columns.step <= last), columns.steps_told
    if filters.prompt is not None:
        yield _of_prompt(columns, filters.prompt), columns.prompts_told


def _of_prompt(columns: Columns, prompt: str) -> Mask:
    """The prompt of that id, if there is one; else those that have the text in them."""
    same = columns.where("prompt_id", lambda text: text == prompt)
    if same.any():
        return same
    part = prompt.casefold()
    found = [columns.where(name, lambda text: part in text.casefold()) for name in PROMPT_KEY]
    return np.asarray(np.any(found, axis=0))


def never_solved(columns: Columns, left: Mask) -> Mask:
    scored = np.unique(columns.prompt[left & ~np.isnan(columns.reward)])
    solved = np.unique(columns.prompt[left & columns.right])
    return np.isin(columns.prompt, np.setdiff1d(scored, solved))


def grouped(columns: Columns, whole: Mask, left: Mask, filters: Filters) -> list[Shown]:
    """The groups of which samples are left, each with counts over all of its own."""
    order = np.lexsort((columns.sample, columns.group))
    order = order[whole[order]]
    edges = np.flatnonzero(np.diff(columns.group[order])) + 1
    found: list[tuple[tuple[float, int], Shown]] = []
    for own in np.split(order, edges):
        rows, rank = _ranked(columns, own[left[own]], filters)
        if not len(rows):
            continue
        counts = (int(mask[own].sum()) for mask in (columns.right, columns.survived))
        right, survived = counts
        shown = Shown(rows, len(own), right, survived, int(columns.failed[own].sum()))
        found.append(((rank, int(own.min())), shown))
    return [shown for _, shown in sorted(found, key=lambda pair: pair[0])]


def _ranked(columns: Columns, rows: Index, filters: Filters) -> tuple[Index, float]:
    """The samples of a group that are shown, and what groups are sorted by."""
    if not (filters.best or filters.worst):
        return rows, 0.0
    rows = rows[~np.isnan(columns.reward[rows])]
    if not len(rows):
        return rows, 0.0
    rewards = columns.reward[rows]
    best, worst = int(rewards.argmax()), int(rewards.argmin())
    if filters.best and filters.worst:
        return rows[sorted({best, worst})], float(rewards[worst] - rewards[best])
    place = best if filters.best else worst
    return rows[[place]], float(-rewards[place] if filters.best else rewards[place])


def _joined(codes: Sequence[Index]) -> Index:
    """A number for each distinct row of several arrays, in the order of first appearance."""
    joined = np.zeros(len(codes[0]), dtype=np.int64)
    for own in codes:
        pairs = joined * (int(own.max(initial=0)) + 2) + own + 1
        joined = np.unique(pairs, return_inverse=True)[1].astype(np.int64)
    return joined


def steps_told(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    there = f"there is step {low}" if low == high else f"there are steps {low} to {high}"
    return f"no samples of these steps; {there}"


def counted(found: Counter[str], what: str = "") -> str:
    most = found.most_common(12)
    more = f" and {len(found) - len(most)} more" if len(found) > len(most) else ""
    told = [f"{name} ({number_of(count, what) if what else count})" for name, count in most]
    return f"{', '.join(told)}{more}"
