"""The run folder: every draw, every metric, every checkpoint, written so that a kill loses nothing.

    config.toml         resolved; enough to repeat the run
    environment.json    versions and device
    rollouts/           train-000001.parquet, eval-000000.parquet: every draw ever made
    metrics.jsonl       one object a step
    evals.jsonl         one object an evaluation
    checkpoints/        step-10/: loads with AutoModelForCausalLM.from_pretrained
    skipped/            batches whose loss or gradient was not finite

A file appears under its name only when it is whole: it is written beside it, flushed to the disk
and renamed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from winnow.errors import UserError
from winnow.types import Draw, Group, Prompt, Score, Split, Verdict

_STATE = "state.json"

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("split", pa.string()),
        ("group", pa.int32()),  # position of the prompt in the step
        ("draw", pa.int32()),  # position of the draw in its group
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("answer", pa.string()),
        ("difficulty", pa.string()),
        ("text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("entropies", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("reward", pa.float64()),
        ("error", pa.string()),
        ("right", pa.bool_()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("weight", pa.float64()),
    ]
)


class RunStore:
    """One run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, config_toml: str, environment: Mapping[str, Any]) -> RunStore:
        """A new folder.

        Raises:
            UserError: it exists already; nothing in it is touched.
        """
        cls.refuse_existing(folder)
        store = cls(folder)
        try:
            (folder / "rollouts").mkdir(parents=True)
        except OSError as error:
            raise UserError(f"out: cannot make {folder}: {error.strerror}") from error
        (folder / "checkpoints").mkdir()
        _write_text(folder / "environment.json", json.dumps(dict(environment), indent=2) + "\n")
        _write_text(folder / "config.toml", config_toml)
        return store

    @staticmethod
    def refuse_existing(folder: Path) -> None:
        """Raises UserError if there is such a folder."""
        if folder.exists():
            raise UserError(
                f"out: {folder} exists already; choose another --out, "
                f"or go on with it: winnow train --resume {folder}"
            )

    @classmethod
    def open(cls, folder: Path) -> RunStore:
        """An existing folder.

        Raises:
            UserError: it is no run folder.
        """
        if not (folder / "config.toml").is_file():
            raise UserError(f"resume: {folder} is no run folder (it has no config.toml)")
        return cls(folder)

    def write_draws(self, split: Split, step: int, groups: Sequence[Group]) -> None:
        """All draws of a step, or of an evaluation, as one closed Parquet file."""
        rows = [
            row for place, group in enumerate(groups) for row in _rows(split, step, place, group)
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        _whole(self._rollouts(split, step), lambda path: pq.write_table(table, path))

    def read_draws(
        self, split: Split, step: int, prompts: Sequence[Prompt], right_at: float
    ) -> list[Group] | None:
        """What `write_draws` wrote, behind the same prompts; ``None`` if it never did.

        Raises:
            UserError: the prompts have changed since.
        """
        path = self._rollouts(split, step)
        if not path.is_file():
            return None
        by_group: dict[int, list[dict[str, Any]]] = {}
        for row in pq.read_table(path, schema=SCHEMA).to_pylist():
            by_group.setdefault(row["group"], []).append(row)
        same = len(by_group) == len(prompts) and all(
            rows[0]["prompt"] == prompts[place].text for place, rows in by_group.items()
        )
        if not same:
            raise UserError(f"resume: the prompts have changed since {path} was written")
        return [
            _group(prompt, by_group[place], right_at, step) for place, prompt in enumerate(prompts)
        ]

    def append(self, name: str, row: Mapping[str, Any]) -> None:
        """One line more in metrics.jsonl or evals.jsonl, on the disk before this returns."""
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl or evals.jsonl; a line cut short by a kill is no row."""
        path = self.folder / name
        if not path.is_file():
            return []
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line) for line in whole.splitlines()]

    def rewind(self, step: int) -> None:
        """Forget metrics after a checkpoint's step (0: all): a resumed run writes them anew.

        Draws are kept, and used again instead of being made again.
        """
        for name in ("metrics.jsonl", "evals.jsonl"):
            rows = [row for row in self.lines(name) if 0 < step >= row["step"]]
            _write_text(self.folder / name, "".join(json.dumps(row) + "\n" for row in rows))

    def checkpoint(
        self, step: int, save: Callable[[Path], None], state: Mapping[str, Any], keep: int
    ) -> Path:
        """Save a checkpoint whole, then drop all but the newest `keep`."""
        final = self.folder / "checkpoints" / f"step-{step}"
        partial = final.with_name(f".{final.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save(partial)
        _write_text(partial / _STATE, json.dumps({"step": step, **state}, indent=2) + "\n")
        for path in partial.iterdir():
            _sync(path)
        if final.exists():  # written by a run that was killed and is now repeated
            shutil.rmtree(final)
        partial.rename(final)
        _sync(final.parent)
        for _, old in list(self._checkpoints())[:-keep]:
            shutil.rmtree(old)
        return final

    def latest_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its state."""
        found = list(self._checkpoints())
        if not found:
            return None
        folder = found[-1][1]
        return folder, json.loads((folder / _STATE).read_text(encoding="utf-8"))

    def keep_skipped(self, step: int, update: int, groups: Sequence[Group]) -> Path:
        """A batch whose loss or gradient was not finite, for inspection."""
        path = self.folder / "skipped" / f"step-{step:06d}-update-{update}.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = [row for place, g in enumerate(groups) for row in _rows("train", step, place, g)]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        _whole(path, lambda partial: pq.write_table(table, partial))
        return path

    def _rollouts(self, split: Split, step: int) -> Path:
        return self.folder / "rollouts" / f"{split}-{step:06d}.parquet"

    def _checkpoints(self) -> Iterator[tuple[int, Path]]:
        found = []
        for path in (self.folder / "checkpoints").glob("step-*"):
            match = re.fullmatch(r"step-(\d+)", path.name)
            if match and (path / _STATE).is_file():
                found.append((int(match.group(1)), path))
        yield from sorted(found)


def _rows(split: Split, step: int, place: int, group: Group) -> Iterator[dict[str, Any]]:
    for number, draw in enumerate(group.draws):
        score = group.scores[number] if group.scores else None
        verdict = group.verdicts[number] if group.verdicts else None
        yield {
            "step": step,
            "split": split,
            "group": place,
            "draw": number,
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text,
            "prompt_ids": group.prompt_ids,
            "answer": group.prompt.answer,
            "difficulty": group.prompt.difficulty,
            "text": draw.text,
            "token_ids": draw.token_ids,
            "logprobs": draw.logprobs,
            "entropies": draw.entropies,
            "finish_reason": draw.finish_reason,
            "policy_version": draw.policy_version,
            "reward": score.value if score else None,
            "error": score.error if score else None,
            "right": group.right[number] if score and score.value is not None else None,
            "kept": verdict.kept if verdict else None,
            "reason": verdict.reason if verdict else None,
            "weight": group.weights[number] if group.weights else None,
        }


def _group(prompt: Prompt, rows: list[dict[str, Any]], right_at: float, step: int) -> Group:
    rows = sorted(rows, key=lambda row: row["draw"])
    draws = tuple(
        Draw(
            token_ids=tuple(row["token_ids"]),
            logprobs=tuple(row["logprobs"]),
            text=row["text"],
            finish_reason=row["finish_reason"],
            policy_version=row["policy_version"],
            entropies=tuple(row["entropies"]),
        )
        for row in rows
    )
    return Group(
        prompt=prompt,
        prompt_ids=tuple(rows[0]["prompt_ids"]),
        draws=draws,
        scores=tuple(Score(row["reward"], row["error"]) for row in rows),
        verdicts=tuple(
            Verdict(row["kept"], row["reason"]) for row in rows if row["kept"] is not None
        ),
        weights=tuple(row["weight"] for row in rows if row["weight"] is not None),
        right_at=right_at,
        step=step,
    )


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the final name, flush to the disk, rename."""
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    _sync(partial)
    partial.rename(path)
    _sync(path.parent)


def _write_text(path: Path, text: str) -> None:
    _whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
