"""Samples as compressed blocks of columns, which a browser unpacks when it needs them.

A block has three parts: `rows`, numbers and labels of every sample, which the page reads as it
opens; `texts`, which it reads when a sample is shown or searched for; `marks`, where each token
ends, its log-prob and entropy, which it reads when tokens are shaded.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from winnow.storage.parquet import UNREADABLE, opened
from winnow.storage.reading import CannotRead
from winnow.storage.schema import read_written

PROMPT = ("prompt_id", "prompt", "messages", "answer", "difficulty")
_LABELS = ("split", "finish_reason", "reason", "error")
_NUMBERS = ("reward", "advantage")
_FLAGS = ("right", "survived")
_COUNTS = ("step", "group", "sample", "tokens", "policy_version")
ROWS = (*PROMPT, *_LABELS, *_NUMBERS, *_FLAGS, *_COUNTS, "reward_parts")
TEXTS = ("text",)
MARKS = ("tokens", "logprobs", "entropies", "token_ends")

LOGPROB_TOP, ENTROPY_TOP = 25.0, 12.0
"""Nats; what is further from 0 is drawn as these."""
_FIRST, _LEVELS = 35, 90
"""Levels are the characters from # to }: a byte each, of which JSON escapes but one."""
_MOST_STEP = 0xD000
"""Most characters of one token: as a character, a step must not become half of a surrogate pair."""


@dataclass(frozen=True)
class Block:
    """Files of samples that are packed together.

    Attributes:
        name: Changes when one of the files does.
        files: Their names, in the order of the rows.
        counts: The rows of each.
    """

    name: str
    files: tuple[Path, ...]
    counts: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.counts)


def blocks_of(files: Sequence[Path], least: int = 4096) -> tuple[list[Block], list[Path]]:
    """Files as blocks of at least so many rows, but for the last; and those that cannot be read.

    Args:
        files: In the order in which their samples were made.
        least: 0: a block for each file.
    """
    blocks: list[Block] = []
    damaged: list[Path] = []
    waiting: list[tuple[Path, int]] = []
    for path in files:
        try:
            with opened(path) as file:
                waiting.append((path, file.metadata.num_rows))
        except (*UNREADABLE, CannotRead):
            damaged.append(path)
            continue
        if sum(count for _, count in waiting) >= least:
            blocks.append(_block(len(blocks), waiting))
            waiting = []
    if waiting:
        blocks.append(_block(len(blocks), waiting))
    return blocks, damaged


def _block(number: int, waiting: Sequence[tuple[Path, int]]) -> Block:
    files, counts = zip(*waiting, strict=True)
    changed = max(path.stat().st_mtime_ns for path in files)
    return Block(f"{number}-{changed:x}", files, counts)


def pack(value: object) -> bytes:
    """A value as JSON, compressed; the same value gives the same bytes."""
    text = json.dumps(
        value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str
    )
    return gzip.compress(text.encode(), 6, mtime=0)


def part_of(block: Block, part: str) -> bytes:
    """A part of a block, compressed.

    Raises:
        UNREADABLE: a file has become damaged.
    """
    columns, made = PARTS[part]
    return pack(made(pa.concat_tables([read_written(path, columns) for path in block.files])))


def rows_of(table: pa.Table) -> dict[str, Any]:
    """Numbers and labels of samples, a list for each column.

    Labels and prompts are numbers of a list beside them, -1 for none; flags are 1, 0 and -1.
    """
    prompts, places = _numbered(
        list(zip(*(table[name].to_pylist() for name in PROMPT), strict=True))
    )
    made: dict[str, Any] = {
        "prompts": [dict(zip(PROMPT, prompt, strict=True)) for prompt in prompts],
        "prompt": places,
    }
    for name in _LABELS:
        values, places = _numbered(table[name].to_pylist())
        made[name] = {"values": values, "of": places}
    for name in _COUNTS:
        made[name] = table[name].fill_null(0).to_pylist()
    for name in _FLAGS:
        made[name] = [-1 if flag is None else int(flag) for flag in table[name].to_pylist()]
    parts = [dict(one) if one else None for one in table["reward_parts"].to_pylist()]
    if any(parts):  # of several rewards, what each gave
        made["reward_parts"] = parts
    for name in _NUMBERS:
        made[name] = [None if x is None else _short(x) for x in table[name].to_pylist()]
    return made


def _numbered(values: Sequence[Hashable]) -> tuple[list[Any], list[int]]:
    found: dict[Hashable, int] = {}
    places = [-1 if one is None else found.setdefault(one, len(found)) for one in values]
    return list(found), places


def _short(value: float) -> float | int | None:
    """Six significant digits; ``None`` for what JSON has no number for."""
    if not np.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.6g}")


def texts_of(table: pa.Table) -> dict[str, Any]:
    """The completions."""
    return {"text": [text or "" for text in table["text"].to_pylist()]}


def marks_of(table: pa.Table) -> dict[str, Any]:
    """Of each sample, strings with a character a token; empty where something is not known.

    `logprobs` and `entropies` are levels: sqrt(|x| / top) from 0 to 1 in 90 steps, from # on.
    `ends` are the characters (code points) of the text that each token adds, from # on.
    """
    return {
        "logprobs": _levels(table["logprobs"], LOGPROB_TOP),
        "entropies": _levels(table["entropies"], ENTROPY_TOP),
        "ends": _steps(table["token_ends"]),
    }


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The values of a column of lists one after another, and where each row begins."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64), begins


def _levels(column: pa.ChunkedArray, top: float) -> list[str]:
    values, begins = _flat(column)
    share = np.clip(np.abs(np.nan_to_num(values, nan=top)), 0, top) / top
    levels = np.rint(np.sqrt(share) * _LEVELS).astype(np.uint8) + _FIRST
    text = levels.tobytes().decode("ascii")
    return [text[a:b] for a, b in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)]


def _steps(column: pa.ChunkedArray) -> list[str]:
    values, begins = _flat(column)
    made = []
    for first, last in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        steps = np.diff(values[first:last], prepend=0)
        known = first < last and steps.min() >= 0 and steps.max() < _MOST_STEP
        codes = (steps + _FIRST).astype("<u2") if known else np.zeros(0, "<u2")
        made.append(codes.tobytes().decode("utf-16-le"))
    return made


PARTS: dict[str, tuple[Sequence[str], Callable[[pa.Table], dict[str, Any]]]] = {
    "rows": (ROWS, rows_of),
    "texts": (TEXTS, texts_of),
    "marks": (MARKS, marks_of),
}
