"""No flipped bit in samples or numbers is read as another value."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from winnow.errors import UserError
from winnow.rollouts.select import select
from winnow.storage.lines import line_of, row_of
from winnow.storage.run_folder import RunStore
from winnow.storage.sample_table import read_samples
from winnow.types import Group, Outcome, Prompt, Sample, Score


def groups() -> list[Group]:
    return [
        Group(
            Prompt(f"p{number}", f"{number} + 1 =", str(number + 1)),
            (5, 6, number),
            tuple(
                Sample((7, k), (-0.25, -0.5 * k), f" {k}", "eos", 2, (0.5, 0.25)) for k in (1, 2)
            ),
            (Score(1.0), Score(0.0)),
            (Outcome(True, "survived"), Outcome(False, "wrong")),
            (0.5, -0.5),
        )
        for number in range(4)
    ]


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def test_a_bit_of_a_run_s_samples(tmp_path: Path) -> None:
    """Pages have checksums; the rest is told by names and types of columns, or by Arrow."""
    store = RunStore.create(tmp_path / "run", "", {})
    store.write_samples("train", 1, groups())
    path = store.folder / "rollouts/train-000001.parquet"
    data, read = path.read_bytes(), store.groups("train", 1)
    caught = 0
    for at in range(0, len(data), 3):
        path.write_bytes(flipped(data, at, at % 8))
        try:
            assert store.groups("train", 1) == read, at
        except UserError:
            caught += 1
    assert caught > len(data) / 3 / 3


def test_a_bit_of_a_page_in_every_reader(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", "", {})
    store.write_samples("train", 1, groups())
    kept = tmp_path / "kept.parquet"
    select([store.folder], ["everything"], out=[kept])
    for path in (store.folder / "rollouts/train-000001.parquet", kept):
        data, column = path.read_bytes(), pq.ParquetFile(path).schema.names.index("text")
        place = pq.ParquetFile(path).metadata.row_group(0).column(column)
        end = place.data_page_offset + place.total_compressed_size
        end -= place.data_page_offset - (place.dictionary_page_offset or place.data_page_offset)
        path.write_bytes(flipped(data, end - 1, 0))
        with pytest.raises(UserError, match="is half-written or not Parquet: "):
            read_samples([path], ["text"], why="this test")
        path.write_bytes(data)
        read_samples([path], ["text"], why="this test")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_bit_of_a_page_that_is_read_to_be_written(tmp_path: Path, kind: str) -> None:
    """It is the samples that are damaged, not the disk that is written to."""
    store = RunStore.create(tmp_path / "run", "", {})
    store.write_samples("train", 1, groups())
    path, out = store.folder / "rollouts/train-000001.parquet", tmp_path / f"x.{kind}"
    data, row_group = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0)
    said = {}
    for number in range(row_group.num_columns):
        place = row_group.column(number)
        begin = place.dictionary_page_offset or place.data_page_offset
        path.write_bytes(flipped(data, begin + place.total_compressed_size - 1, 0))
        try:
            select([store.folder], ["everything"], out=[out])
            out.unlink()
        except UserError as error:
            said[place.path_in_schema.split(".")[0]] = str(error)
        assert not out.exists()
    read = {"text", "prompt", "messages"} | (
        {"prompt_ids", "logprobs"} if kind == "parquet" else set()
    )
    assert read <= set(said)
    begins = f"samples: {path} is half-written or not Parquet: "
    assert [text for text in said.values() if not text.startswith(begins)] == []


def test_samples_of_earlier_versions_have_no_checksums(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", "", {})
    store.write_samples("train", 1, groups())
    path = store.folder / "rollouts/train-000001.parquet"
    read = store.groups("train", 1)
    pq.write_table(pq.read_table(path).drop_columns(["version_spans"]), path)
    assert store.groups("train", 1) == read
    written = pq.read_table(path)
    pq.write_table(written.rename_columns([n.upper() for n in written.column_names]), path)
    with pytest.raises(UserError, match="is damaged; remove it"):
        store.groups("train", 1)
    pq.write_table(written.set_column(0, "step", written["step"].cast(pa.int64())), path)
    with pytest.raises(UserError, match="is damaged; remove it"):
        store.groups("train", 1)


ROWS: tuple[dict[str, Any], ...] = (
    {"step": 3, "reward": 0.1 + 0.2, "by": {"a\u2028": None, "b": [1, -2.5e-300]}},
    {"step": 12, "text": 'half \ud83d, "crc32": "00000000"}', "logprobs": [-math.inf, -0.0]},
    {},
)


@pytest.mark.parametrize("row", ROWS)
def test_a_bit_of_a_line(row: dict[str, Any]) -> None:
    line = line_of(row).encode()
    assert row_of(line[:-1]) == row
    assert json.loads(line)["crc32"]
    renamed = 0
    for at in range(len(line) - 1):
        for bit in range(8):
            try:
                found = row_of(flipped(line, at, bit)[:-1])
            except ValueError:
                continue
            renamed += 1  # the checksum's own key
            assert len(found) == len(row) + 1
            assert all(found[key] == value for key, value in row.items())
    assert renamed <= 5 * 7


def test_a_line_of_earlier_versions(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path / "run", "", {})
    (store.folder / "metrics.jsonl").write_text('{"step": 1, "x": 0.5}\n')
    store.append("metrics.jsonl", {"step": 2, "x": 0.25})
    assert store.lines("metrics.jsonl") == [{"step": 1, "x": 0.5}, {"step": 2, "x": 0.25}]
    store.rewind(2)
    assert store.lines("metrics.jsonl") == [{"step": 1, "x": 0.5}, {"step": 2, "x": 0.25}]
    path = store.folder / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.25", "0.26"))
    with pytest.raises(UserError, match=r"metrics\.jsonl line 2 is damaged \(its crc32 differs\)"):
        store.lines("metrics.jsonl")


@pytest.mark.parametrize("line", ["[]", "{}", '{"step": "3"}', '{"step": null}', "3"])
def test_a_line_that_is_no_row(tmp_path: Path, line: str) -> None:
    store = RunStore.create(tmp_path / "run", "", {})
    (store.folder / "evals.jsonl").write_text(f'{line}\n{{"step": 1}}\n')
    with pytest.raises(UserError, match=r"evals\.jsonl line 1 is damaged \(.*; fix or remove it$"):
        store.rewind(1)
