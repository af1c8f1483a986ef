"""The folder that `winnow sample` fills: a journal line for each set of samples, then files.

    config.toml, environment.json, inputs.json, .lock   as in a run folder
    samples/part-00001.parquet      closed files
    journal.jsonl                   what is in no closed file yet: lines of samples and of scores

A line is on the disk before the next set is waited for. When the journal holds enough, its samples
become a Parquet file, and it starts anew; a kill between the two leaves samples in both, which are
then read once. The journal of a complete folder is empty; else it begins with a newline.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.errors import UserError
from winnow.storage.atomic import append_line, refuse, write_text
from winnow.storage.begin import begin_folder
from winnow.storage.format import check_folder
from winnow.storage.lines import line_of, whole_rows
from winnow.storage.lock import FolderLock
from winnow.storage.parquet import UNREADABLE
from winnow.storage.paths import shown
from winnow.storage.reading import has_file, listed, reading
from winnow.storage.sample_table import JOURNAL
from winnow.storage.schema import (
    PROMPT_KEY,
    clean,
    prompt_columns,
    read_written,
    sample_columns,
    sample_of,
    write_groups,
)
from winnow.types import Group, Prompt, Score

PART_SAMPLES = 16_384
"""Samples that the journal gathers before they become a file."""
PART_TOKENS = 1_000_000
"""Tokens that it gathers at most, so that it fits in memory."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a set of samples belongs: the number of its prompt, and of its first sample."""

    prompt: int
    first: int


class Journal:
    """One such folder.

    Args:
        group: Makes the empty group of a prompt's number: its text, `right_at` and origin.
    """

    def __init__(self, folder: Path, group: Callable[[int], Group]) -> None:
        self.folder = folder
        self._group = group
        self._open: dict[Place, Group] = {}
        self._samples = self._tokens = 0

    @classmethod
    def create(
        cls,
        folder: Path,
        files: Mapping[str, str],
        environment: Mapping[str, Any],
        *,
        group: Callable[[int], Group],
        lock: FolderLock | None = None,
    ) -> Journal:
        """Make a folder.

        Args:
            files: What it holds from the start: config.toml, and what marks it.
            lock: Locks it from its first file on, until it is released.

        Raises:
            UserError: it exists already; nothing in it is touched.
        """
        cls.refuse(folder)
        begin_folder(folder, ["samples"], environment, {**files, JOURNAL: "\n"}, lock)
        return cls(folder, group)

    @staticmethod
    def refuse(folder: Path) -> None:
        """Raise a `UserError` if a folder exists or cannot be made."""
        refuse(folder, lambda: _hint(folder))

    @staticmethod
    def check(folder: Path) -> None:
        """Raise a `UserError` if a folder cannot be resumed."""
        if not has_file(folder / JOURNAL, "resume"):
            raise UserError("resume", f"{shown(folder)} is not a folder of winnow sample")
        if not (folder / "config.toml").is_file():
            if _begun(folder):
                problem = f"{shown(folder)} has samples and no config.toml"
                raise UserError("resume", problem, "restore that from a copy")
            problem = f"{folder} was stopped before anything was sampled (it has no config.toml)"
            raise UserError("resume", problem, "remove it and begin anew")
        check_folder("resume", folder)

    def restore(self, prompts: Sequence[Prompt]) -> dict[int, set[int]]:
        """Read the journal; return for each prompt the numbers of the samples that are there.

        Raises:
            UserError: the prompts have changed since, or a file is damaged.
        """
        there: dict[int, set[int]] = {}
        for path in _parts(self.folder):
            for prompt, number in _closed(path, prompts):
                there.setdefault(prompt, set()).add(number)
        for number, line in whole_rows(self.folder / JOURNAL):
            try:
                place, group = self._parsed(line, prompts, there)
            except (KeyError, TypeError, ValueError) as error:
                problem = f"{self.folder / JOURNAL} line {number} is damaged"
                raise UserError("", problem, "fix or remove it") from error
            if group is not None:
                self._open[place] = group
                numbers = range(place.first, place.first + len(group.samples))
                there.setdefault(place.prompt, set()).update(numbers)
        for group in self._open.values():
            self._count(group)
        return there

    def _parsed(
        self, line: Mapping[str, Any], prompts: Sequence[Prompt], there: Mapping[int, set[int]]
    ) -> tuple[Place, Group | None]:
        """The set of samples of a line; no group if a closed file holds it already."""
        place = Place(line["prompt"], line["first"])
        if "samples" not in line:
            group = self._open.get(place)
            scores = tuple(map(_score, line["scores"]))
            if group is not None and len(scores) != len(group.samples):
                raise ValueError(f"{len(scores)} scores of {len(group.samples)} samples")
            return place, None if group is None else group.with_(scores=scores)
        if place.prompt >= len(prompts) or line["of"] != _digest(prompts[place.prompt]):
            raise _changed(self.folder / JOURNAL)
        if place.first in there.get(place.prompt, ()):
            return place, None  # a kill came after its file was closed, before the journal's end
        return place, self._group(place.prompt).with_(
            prompt_ids=tuple(line["prompt_ids"]),
            samples=tuple(sample_of(row) for row in line["samples"]),
        )

    def _count(self, group: Group) -> None:
        self._samples += len(group.samples)
        self._tokens += sum(sample.length for sample in group.samples)

    def unscored(self) -> list[tuple[Place, Group]]:
        """Samples of the journal without a score, or whose score is an error."""
        return [
            (place, group)
            for place, group in self._open.items()
            if not group.scores or any(score.error is not None for score in group.scores)
        ]

    def add(self, place: Place, group: Group) -> None:
        """Add samples, on the disk before this returns. Earlier ones have their scores."""
        if self._samples >= PART_SAMPLES or self._tokens >= PART_TOKENS:
            self._close_part("\n")
        line = {
            "prompt": place.prompt,
            "first": place.first,
            "of": _digest(group.prompt),
            "prompt_ids": group.prompt_ids,
            "samples": [sample_columns(sample) for sample in group.samples],
        }
        append_line(self.folder / JOURNAL, line_of(line))
        self._open[place] = group
        self._count(group)

    def score(self, place: Place, scores: Sequence[Score]) -> None:
        """Add scores, on the disk before this returns."""
        line = {
            "prompt": place.prompt,
            "first": place.first,
            "scores": list(map(_listed, scores)),
        }
        append_line(self.folder / JOURNAL, line_of(line))
        self._open[place] = self._open[place].with_(scores=tuple(scores))

    def finish(self) -> None:
        """Close the last file, and leave the journal empty: the folder is complete."""
        self._close_part("")

    def _close_part(self, journal: str) -> None:
        """Write the journal's samples as a Parquet file, then begin the journal anew."""
        places = sorted(self._open)
        if places:
            parts = _parts(self.folder)
            number = 1 + int(parts[-1].stem.removeprefix("part-")) if parts else 1
            write_groups(
                self.folder / "samples" / f"part-{number:05d}.parquet",
                "sample",
                0,
                [self._open[place] for place in places],
                [(place.prompt, place.first) for place in places],
            )
        write_text(self.folder / JOURNAL, journal)
        self._open, self._samples, self._tokens = {}, 0, 0

    @property
    def complete(self) -> bool:
        return (self.folder / JOURNAL).stat().st_size == 0

    @property
    def begun(self) -> bool:
        """Whether it holds samples."""
        return _begun(self.folder)


def _begun(folder: Path) -> bool:
    with reading(folder / JOURNAL):
        return bool(_parts(folder)) or bool((folder / JOURNAL).read_bytes().strip())


def _parts(folder: Path) -> list[Path]:
    return listed(folder / "samples", "part-*.parquet")


def _closed(path: Path, prompts: Sequence[Prompt]) -> Iterator[tuple[int, int]]:
    """The numbers of the prompt and the sample in each row of a closed file."""
    columns = ["group", "sample", *PROMPT_KEY]
    try:
        table = read_written(path, columns, PROMPT_KEY)
        table = table.select(columns).unify_dictionaries()
    except UNREADABLE as error:
        raise UserError(
            "resume", f"{path} is damaged", "remove it to have its samples made anew"
        ) from error
    for row in table.group_by(["group", *PROMPT_KEY]).aggregate([]).to_pylist():
        place = row["group"]
        if place >= len(prompts):
            raise _changed(path)
        now = prompt_columns(prompts[place])
        if any(row[name] != now[name] for name in PROMPT_KEY):
            raise _changed(path)
    yield from zip(table["group"].to_pylist(), table["sample"].to_pylist(), strict=True)


def _listed(score: Score) -> list[Any]:
    """A score in the journal: value, error and, of several rewards, parts and `right_by`."""
    plain = [score.value, clean(score.error)]
    return [*plain, score.parts, score.right_by] if score.parts else plain


def _score(listed: Sequence[Any]) -> Score:
    value, error, *several = listed
    parts, right_by = several or ((), None)
    return Score(value, error, tuple((name, part) for name, part in parts), right_by)


def _digest(prompt: Prompt) -> str:
    """The hash of a prompt in the journal."""
    columns = prompt_columns(prompt)
    told = json.dumps([columns[name] for name in PROMPT_KEY])
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def _changed(path: Path) -> UserError:
    return UserError(
        "resume", f"the prompts have changed since {path} was written", "restore them or begin anew"
    )


def _hint(folder: Path) -> str:
    if not has_file(folder / JOURNAL, "out"):
        return ""
    resume = f"resume it: winnow sample --resume {shown(folder)}"
    if (folder / "config.toml").is_file():
        return f", or {resume}"
    if _begun(folder):
        return f", or restore its config.toml and {resume}"
    return ", or remove it: it was stopped before anything was sampled"
