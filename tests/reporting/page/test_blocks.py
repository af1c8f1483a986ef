"""Samples come out of a packed block as they went in."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.reporting.page.blocks import (
    ENTROPY_TOP,
    LOGPROB_TOP,
    blocks_of,
    marks_of,
    part_of,
    rows_of,
)
from winnow.storage.schema import SCHEMA, write_groups
from winnow.types import Group, Outcome, Prompt, Sample, Score

HOSTILE = "</script><img src=x onerror=alert(1)>\u202edrow\x00\x1b[31m & \"quoted\" \\ 'x' 👩‍🔬"


def group(number: int, texts: list[str], step: int = 1) -> Group:
    samples = tuple(
        Sample((7,) * 3, (-0.1, -2.0, 0.0), text, "eos", entropies=(0.0, 1.5, 0.2))
        for text in texts
    )
    parts = (("style", 0.5), (HOSTILE, 0.5))
    scores = [Score.failed("no <b>answer</b>"), Score(1.0, parts=parts), Score(1 / 3)] * len(texts)
    return Group(
        Prompt(f"p/{number}", f"{number} + 1 =", str(number + 1), "easy"),
        (1, 2),
        samples,
        tuple(scores[: len(texts)]),
        tuple(Outcome(place > 0, "kept" if place else HOSTILE) for place in range(len(texts))),
        advantages=tuple(float(place) for place in range(len(texts))),
        right_at=1.0,
        step=step,
    )


def unpacked(packed: bytes) -> Any:
    return json.loads(gzip.decompress(packed))


def told(rows: dict[str, Any], column: str, row: int) -> Any:
    place = rows[column]["of"][row]
    return None if place < 0 else rows[column]["values"][place]


def test_rows_and_texts_are_those_of_the_file(tmp_path: Path) -> None:
    texts = ["a", HOSTILE, "日本語\n\n"]
    groups = [group(number, texts) for number in (4, 5)]
    write_groups(tmp_path / "train-000001.parquet", "train", 1, groups)
    (block,), damaged = blocks_of([tmp_path / "train-000001.parquet"])
    assert not damaged
    rows = unpacked(part_of(block, "rows"))
    assert unpacked(part_of(block, "texts")) == {"text": texts * 2}
    assert [rows["prompts"][place]["prompt_id"] for place in rows["prompt"]] == ["p/4"] * 3 + [
        "p/5"
    ] * 3
    assert rows["prompts"][1]["prompt"] == "5 + 1 ="
    assert rows["reward"] == [None, 1, 0.333333] * 2
    assert rows["reward_parts"] == [None, {"style": 0.5, HOSTILE: 0.5}, None] * 2
    assert rows["right"] == [-1, 1, 0] * 2
    assert rows["survived"] == [0, 1, 1] * 2
    assert rows["advantage"] == [0, 1, 2] * 2
    assert rows["sample"] == [0, 1, 2] * 2
    assert rows["group"] == [0, 0, 0, 1, 1, 1]
    assert [told(rows, "error", row) for row in range(3)] == ["no <b>answer</b>", None, None]
    assert told(rows, "reason", 0) == HOSTILE
    assert told(rows, "finish_reason", 5) == "eos"


def test_files_are_gathered_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    files = []
    for step in range(1, 6):
        files.append(tmp_path / f"train-{step:06d}.parquet")
        write_groups(files[-1], "train", step, [group(step, ["a", "b", "c"], step)])
    files[2].write_bytes(files[2].read_bytes()[:-40])
    blocks, damaged = blocks_of(files, least=6)
    assert damaged == [files[2]]
    assert [block.files for block in blocks] == [(files[0], files[1]), (files[3], files[4])]
    assert unpacked(part_of(blocks[1], "rows"))["step"] == [4] * 3 + [5] * 3
    assert [block.rows for block in blocks_of(files, least=0)[0]] == [3] * 4
    before = blocks[0].name
    write_groups(files[0], "train", 1, [group(9, ["z"], 1)])
    assert blocks_of(files, least=6)[0][0].name != before


def column(name: str, values: list[Any]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, SCHEMA.field(name).type)])


def of_marks(logprobs: list[Any], entropies: list[Any], ends: list[Any]) -> dict[str, Any]:
    table = {"logprobs": logprobs, "entropies": entropies, "token_ends": ends}
    return marks_of(pa.table({name: column(name, values) for name, values in table.items()}))


def nats(level: str, top: float) -> float:
    """As web/data.js reads it."""
    return top * ((ord(level) - 35) / 90) ** 2


@given(st.lists(st.lists(st.floats(-40, 0), max_size=6), min_size=1, max_size=5))
def test_a_level_is_near_the_nats(rows: list[list[float]]) -> None:
    made = of_marks(rows, [[-x / 4 for x in row] for row in rows], [None] * len(rows))
    for row, levels, entropies in zip(rows, made["logprobs"], made["entropies"], strict=True):
        assert len(levels) == len(row) == len(entropies)
        for x, level, entropy in zip(row, levels, entropies, strict=True):
            true = min(-x, LOGPROB_TOP)
            # half a step of the square root, squared: |x - x'| <= sqrt(x top) / 90 + top / 180^2
            near = math.sqrt(true * LOGPROB_TOP) / 90 + LOGPROB_TOP / 180**2 + 1e-5
            assert abs(nats(level, LOGPROB_TOP) - true) <= near
            assert nats(entropy, ENTROPY_TOP) <= ENTROPY_TOP


@given(st.lists(st.lists(st.integers(0, 60_000), max_size=5), min_size=1, max_size=4))
def test_ends_come_back_from_their_steps(steps: list[list[int]]) -> None:
    ends = [[sum(row[: i + 1]) for i in range(len(row))] for row in steps]
    made = of_marks([None] * len(steps), [None] * len(steps), ends)["ends"]
    for row, packed in zip(steps, made, strict=True):
        packed.encode()  # no half of a surrogate pair
        known = not any(step >= 0xD000 for step in row)
        assert [ord(one) - 35 for one in packed] == (row if known else [])


@pytest.mark.parametrize("odd", [[3, 2], [-1]])
def test_ends_that_fall_are_not_known(odd: list[int]) -> None:
    assert of_marks([None], [None], [odd])["ends"] == [""]


def test_what_json_has_no_number_for_is_none() -> None:
    row = dict.fromkeys(SCHEMA.names) | {"reward": math.inf, "advantage": math.nan}
    rows = rows_of(pa.Table.from_pylist([row], SCHEMA))
    assert "reward_parts" not in rows
    assert rows["reward"] == rows["advantage"] == [None]
