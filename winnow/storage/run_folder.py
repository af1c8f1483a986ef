"""The run folder: every sample, metric and checkpoint, written so that a kill loses nothing.

    config.toml         resolved; enough to repeat the run
    environment.json    versions and device
    inputs.json         settings and digests of data, to know them again (rollouts/inputs.py)
    rollouts/           train-000001.parquet, eval-000000.parquet, test-000000.parquet: every sample
                        ever made
    metrics.jsonl       one object a step
    evals.jsonl         one object an evaluation
    alarms.jsonl        one object an alarm that was raised or has cleared
    progress.json       what the run is doing (reporting/progress_file.py)
    report.html         the page of the run, written at its end
    trackers/           what experiment trackers write, and what is known of them
                        (reporting/trackers/base.py)
    judge.jsonl         what judges answered, by what they were asked (storage/answers.py)
    checkpoints/        step-10/: loads with AutoModelForCausalLM.from_pretrained; an evaluation's
                        folder has none
    final/              the final model, where it is an average, or merged
    base/               what adapters were trained over, where no hub has it
    skipped/            batches whose loss or gradient was not finite
    superseded/         samples of a policy that new scores or settings have changed
    .lock               while a process writes to it (storage/lock.py)

A file has its name only when it is complete: it is written beside it, flushed to the disk and
renamed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from winnow.errors import UserError
from winnow.storage.atomic import (
    append_line,
    discard,
    disk,
    drop_folder,
    exists,
    refuse,
    whole_folder,
    write_text,
)
from winnow.storage.begin import begin_folder
from winnow.storage.checkpoints import drop_set_aside, found_in, open_sealed, set_aside
from winnow.storage.counted import Counted, counted_of
from winnow.storage.digests import STATE, Damaged, seal
from winnow.storage.format import check_folder
from winnow.storage.lines import line_of, rows_of
from winnow.storage.lock import FolderLock
from winnow.storage.parquet import UNREADABLE
from winnow.storage.paths import located, shown
from winnow.storage.reading import has_file, has_folder, listed, reading
from winnow.storage.rollouts import holds_run, rollout_file, rollout_files
from winnow.storage.sample_table import JOURNAL
from winnow.storage.schema import PROMPT_KEY, clean, group_of, read_written, write_groups
from winnow.types import Group, Prompt, Split

FINAL = "final"
"""Folder of a final model that is no checkpoint."""


class RunStore:
    """One run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(
        cls,
        folder: Path,
        texts: str | Mapping[str, str],
        environment: Mapping[str, Any],
        *,
        checkpoints: bool = True,
        lock: FolderLock | None = None,
    ) -> RunStore:
        """A new folder, of a run or, without checkpoints, of an evaluation.

        Args:
            texts: Its files, config.toml among them; or the text of that one.
            lock: Locks it from its first file on, until it is released.

        Raises:
            UserError: it exists already; nothing in it is touched.
        """
        cls.refuse(folder)
        inside = ["rollouts", "checkpoints"][: 1 + checkpoints]
        files = {"config.toml": texts} if isinstance(texts, str) else texts
        begin_folder(folder, inside, environment, files, lock)
        return cls(folder)

    @staticmethod
    def refuse(folder: Path) -> None:
        """Raise a `UserError` if a folder exists or cannot be made."""

        def hint() -> str:
            resumable = has_file(folder / "config.toml", "out") and holds_run(folder)
            return f", or resume it: winnow train --resume {shown(folder)}" if resumable else ""

        refuse(folder, hint)

    @classmethod
    def open(cls, folder: Path) -> RunStore:
        """The folder of a run, to resume; a `UserError` if it is none."""
        if not has_file(folder / "config.toml", "resume"):
            raise UserError(
                "resume", f"{shown(folder)} is not a run folder (it has no config.toml)"
            )
        if (folder / JOURNAL).is_file():
            problem = f"{shown(folder)} is a folder of winnow sample"
            raise UserError("resume", problem, f"resume it: winnow sample --resume {shown(folder)}")
        if not holds_run(folder):
            raise UserError(
                "resume", f"{shown(folder)} holds an evaluation, which cannot be resumed"
            )
        inside = folder / "checkpoints"
        if exists(inside) and not has_folder(inside):  # a link, say, to a disk that is not there
            raise UserError("resume", f"{shown(inside)} is no folder", "restore it")
        check_folder("resume", folder)
        return cls(folder)

    def write_samples(self, split: Split, step: int, groups: Sequence[Group]) -> None:
        """Write all samples of a step, or of an evaluation, as one Parquet file."""
        write_groups(self._rollouts(split, step), split, step, groups)

    def groups_sampled(self, split: Split, step: int) -> int:
        """How many groups `write_samples` wrote; 0 if it never did or the file is damaged."""
        path = self._rollouts(split, step)
        if not has_file(path):
            return 0
        try:
            last = pc.max(read_written(path, ["group"])["group"]).as_py()
        except UNREADABLE:
            return 0  # `read_samples` reports it
        return 0 if last is None else int(last) + 1

    def read_samples(
        self, split: Split, step: int, prompts: Sequence[Prompt], right_at: float
    ) -> list[Group] | None:
        """What `write_samples` wrote for the same prompts; ``None`` if it never did.

        Raises:
            UserError: the prompts have changed since, or the file is damaged.
        """
        path = self._rollouts(split, step)
        if not has_file(path):
            return None
        by_group = self._by_group(path)
        same = len(by_group) == len(prompts) and all(
            rows[0]["prompt"] == clean(prompts[place].text) for place, rows in by_group.items()
        )
        if not same:
            problem = f"the prompts have changed since {path} was written"
            raise UserError("resume", problem, "restore them, or begin anew")
        return [group_of(by_group[place], prompt, right_at) for place, prompt in enumerate(prompts)]

    def groups(self, split: Split, step: int) -> list[Group]:
        """What `write_samples` wrote, as far as the file alone tells.

        Raises:
            UserError: it never did, or the file is damaged.
        """
        by_group = self._by_group(self._rollouts(split, step))
        return [group_of(by_group[place]) for place in sorted(by_group)]

    def counted(self, split: Split, step: int) -> list[Counted] | None:
        """Scores of the samples of each prompt, without reading these; ``None`` if not there.

        Raises:
            UserError: the file is damaged.
        """
        path = self._rollouts(split, step)
        if not has_file(path):
            return None
        columns = ["group", *PROMPT_KEY, "difficulty", "reward", "right_by", "right_at"]
        by_group = self._by_group(path, columns)
        return [counted_of(by_group[place]) for place in sorted(by_group)]

    @staticmethod
    def _by_group(
        path: Path, columns: Sequence[str] | None = None
    ) -> dict[int, list[dict[str, Any]]]:
        by_group: dict[int, list[dict[str, Any]]] = {}
        try:
            table = read_written(path, columns)
        except UNREADABLE as error:
            if not has_file(path):
                raise UserError("resume", f"{path} is not there") from error
            remedy = (
                "remove it to have its samples made anew, or restore it, before the last checkpoint"
            )
            raise UserError("resume", f"{path} is damaged", remedy) from error
        for row in table.to_pylist():
            by_group.setdefault(row["group"], []).append(row)
        return by_group

    @property
    def begun(self) -> bool:
        """Whether it holds samples or a checkpoint."""
        inside = (self.folder / "rollouts", self.folder / "checkpoints")
        return any(listed(path, "*") for path in inside)

    def kept(self, split: Split, after: int) -> dict[int, tuple[int, int]]:
        """For each step after one: how many samples are on the disk, and how many have a reward.

        Files that are damaged are left out; `read_samples` reports them.
        """
        found = {}
        for step, _, path in rollout_files(self.folder, split):
            if step > after:
                with suppress(*UNREADABLE):
                    rewards = read_written(path, ["reward"])["reward"]
                    found[step] = (len(rewards), len(rewards) - rewards.null_count)
        return found

    def set_aside(self, step: int, which: Callable[[int, Split], bool] | None = None) -> None:
        """Move samples to `superseded/`, as from a step on they would be others.

        Args:
            which: By step and split; default: those made after its update.
        """
        for number, split, path in rollout_files(self.folder):
            if number >= step + (split == "train") if which is None else which(number, split):
                to = self.folder / "superseded"
                names = (f"{path.stem}-before-{step}{(n and f'.{n}') or ''}" for n in count())
                with disk(to):
                    to.mkdir(exist_ok=True)
                    path.replace(next(p for n in names if not (p := to / f"{n}.parquet").exists()))

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """Append a line to a file of such lines; it is on the disk before this returns.

        Raises:
            ValueError: a number that is not finite; nothing is written.
        """
        try:
            line = line_of(row, finite=True)
        except ValueError as error:
            odd = [key for key, value in row.items() if not _finite(value)]
            raise ValueError(f"{name}: not finite: {', '.join(odd)}") from error
        append_line(self.folder / name, line)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file of lines, without a last line that a kill cut short.

        Raises:
            UserError: another line is damaged.
        """
        path = self.folder / name
        rows = []
        for number, row in rows_of(path) if has_file(path) else ():
            if type(row.get("step")) is not int:
                problem = f"{path} line {number} is damaged (it has no step)"
                raise UserError("", problem, "fix or remove it")
            rows.append(row)
        return rows

    def drop_final(self) -> None:
        """Remove a final model and its evaluation; its samples stay."""
        if exists(self.folder / FINAL):
            rows = [row for row in self.lines("evals.jsonl") if row.get("split") != "final"]
            write_text(self.folder / "evals.jsonl", "".join(map(line_of, rows)))
            with disk(self.folder / FINAL):
                drop_folder(self.folder / FINAL)

    def rewind(self, step: int) -> None:
        """Remove metrics after a checkpoint's step (0: all). Samples stay, to be used again."""
        for name in ("metrics.jsonl", "evals.jsonl", "alarms.jsonl"):
            if name == "alarms.jsonl" and not (self.folder / name).exists():
                continue  # it is there once one was raised
            rows = [row for row in self.lines(name) if 0 < step >= row["step"]]
            write_text(self.folder / name, "".join(map(line_of, rows)))

    def checkpoint(
        self,
        step: int,
        save: Callable[[Path], None],
        state: Mapping[str, Any],
        keep: int,
        protect: Collection[int] = (),
    ) -> Path:
        """Save a checkpoint, then drop all but the newest `keep` and those of some steps."""
        final = self.folder / "checkpoints" / f"step-{step}"

        def write(partial: Path) -> None:
            save(partial)
            write_text(partial / STATE, seal(partial, {"step": step, **state}))

        with disk(final):
            self._drop_partial()
            if exists(final):  # without a state, so no checkpoint
                drop_folder(final)
            whole_folder(final, write)
            drop_set_aside(final.parent, step)
            for number, old in list(self.checkpoints())[:-keep]:
                if number not in protect:
                    drop_folder(old)
        return final

    def checkpoint_of(self, step: int) -> Path:
        """The checkpoint of a step; a `UserError` if there is none."""
        found = dict(self.checkpoints())
        if step not in found:
            raise UserError("resume", f"{self.folder} has lost its checkpoint of step {step}")
        return found[step]

    def _drop_partial(self) -> None:
        """Remove what a run that was killed had not written whole."""
        for left in listed(self.folder / "checkpoints", ".step-*"):
            discard(left)

    def latest_checkpoint(
        self,
        needed: Callable[[int], Collection[int]] = lambda _: (),
        note: Callable[[str], None] = lambda _: None,
    ) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that a run can resume from, and its state; ``None``: the start.

        Later ones are damaged, or need one that is. They are set aside: the run makes them again.

        Args:
            needed: The steps of other checkpoints that a run needs to resume from one.
            note: Is told what is damaged, and what is not known.
        """
        lost = not has_folder(self.folder / "checkpoints")
        with disk(self.folder / "checkpoints"):
            self._drop_partial()
            for step, folder in reversed(list(found_in(self.folder / "checkpoints"))):
                try:
                    state, sealed = self._opened(step)
                    for other in needed(step):
                        self._opened(other)
                except Damaged as damage:
                    lost = True
                    note(f"{damage}: {folder.name} is set aside as {set_aside(folder).name}")
                    continue
                if not sealed:
                    note(f"{folder.name} has no digests (an earlier version wrote it)")
                return folder, state
        if lost:
            note("no checkpoint is left: the run begins anew, from the samples that it has")
        return None

    def _opened(self, step: int) -> tuple[dict[str, Any], bool]:
        try:
            return open_sealed(self.folder / "checkpoints" / f"step-{step}")
        except Damaged as damage:
            raise Damaged(f"checkpoint step-{step} is damaged ({damage})") from damage

    def state_of(self, step: int) -> dict[str, Any]:
        """What was saved of a run with the checkpoint of a step.

        Raises:
            UserError: it is damaged.
        """
        try:
            return self._opened(step)[0]
        except Damaged as damage:
            raise UserError("resume", str(damage), "restore it from a copy") from damage

    def keep_skipped(self, step: int, update: int, groups: Sequence[Group]) -> Path:
        """Write a batch whose loss or gradient was not finite, for inspection."""
        path = self.folder / "skipped" / f"step-{step:06d}-update-{update}.parquet"
        write_groups(path, "train", step, groups)
        return path

    def _rollouts(self, split: Split, step: int) -> Path:
        return rollout_file(self.folder, split, step)

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        """The step and the folder of each checkpoint, in order."""
        there = found_in(self.folder / "checkpoints")
        yield from ((step, path) for step, path in there if has_file(path / STATE))


def _finite(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


ROWS = {section: f".{section}.jsonl" for section in ("prompts", "eval")}
"""What ends the names of files beside a folder, with the rows that a program gave."""


def next_folder(name: str, parent: Path = Path("runs")) -> Path:
    """`runs/NAME-001`, or the first number that is free."""
    number, parent = 1, located(parent, "out")
    with reading(parent, "out"):
        while any(exists(parent / f"{name}-{number:03d}{rows}") for rows in ("", *ROWS.values())):
            number += 1
    return parent / f"{name}-{number:03d}"
