"""Folders from before there was `[engine]`: what reads a folder's settings still does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import winnow
from tests import tiny
from tests.fake_server import FakeServer
from winnow.cli import main
from winnow.evaluation.overoptimisation import run_overoptimisation
from winnow.storage.sample_table import read_samples
from winnow.storage.schema import SCHEMA, read_written
from winnow.training.run import result_of

BEFORE = """\
[server]
{address}api = "completions"
concurrency = 16
requests_per_minute = 0.0
timeout = 120.0
retries = 6

"""
"""What stood in a folder for `[engine]`."""
PART = Path("a/samples/part-00001.parquet")
HOW: dict[str, Any] = {
    "reward": "exact",
    "out": "a",
    "quiet": True,
    "sampling": {"max_tokens": 3, "stop": []},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def as_before(address: str = "") -> None:
    """Make the settings in the folder those of an earlier version."""
    config, former = Path("a/config.toml"), BEFORE.format(address=address)
    text, tables = re.subn(r"\[engine\]\n.*?\n\n", former, config.read_text(), flags=re.DOTALL)
    assert tables == 1
    config.write_text(text)
    Path("a/inputs.json").unlink()


def resume_sampling(monkeypatch, capsys) -> int:
    """Resume a folder of samples; the number that was made."""
    monkeypatch.setattr("sys.argv", ["winnow", "sample", "--resume", "a", "--json"])
    with pytest.raises(SystemExit) as left:
        main.main()
    said = capsys.readouterr()
    assert (left.value.code or 0, said.err) == (0, "")
    made: int = json.loads(said.out)["made"]
    return made


def test_samples_of_a_server(monkeypatch, capsys) -> None:
    pytest.importorskip("openai")
    with FakeServer() as server:
        engine = {"sampler": "openai", "url": server.url, "served_model": "theirs"}
        winnow.sample(prompts=tiny.problems()[:3], n=4, model="mine", engine=engine, **HOW)
        as_before(f'url = "{server.url}"\nmodel = "theirs"\n')
        PART.unlink()
        server.asked.clear()
        assert resume_sampling(monkeypatch, capsys) == 12
        assert {body["model"] for body in server.asked} == {"theirs"}
    assert set(pq.read_table(PART)["model"].to_pylist()) == {"theirs"}


def test_samples_of_the_model_in_this_process(tiny_model, monkeypatch, capsys) -> None:
    winnow.sample(prompts=tiny.problems()[:3], n=4, model=str(tiny_model), **HOW)
    whole = pq.read_table(PART)
    as_before()
    PART.unlink()
    assert resume_sampling(monkeypatch, capsys) == 12
    assert pq.read_table(PART).equals(whole)


def test_samples_that_do_not_say_where_tokens_end(tiny_model) -> None:
    winnow.sample(prompts=tiny.problems()[:3], n=4, model=str(tiny_model), **HOW)
    there = pq.read_table(PART)
    assert there["token_ends"].null_count == 0
    pq.write_table(there.drop_columns(["token_ends"]), PART)
    for table in (["token_ids"], ["token_ids", "token_ends"]):
        groups = read_samples(["a"], ["text"], why="the test", optional=table)
        assert [s.token_ends for group in groups for s in group.samples] == [()] * 12
    assert read_written(PART, ["token_ends"])["token_ends"].null_count == 12
    edited = there.set_column(there.column_names.index("text"), "text", pa.array([""] * 12))
    for other in (edited, there.drop_columns(["tokens", "token_ids", "logprobs"])):
        pq.write_table(other, "edited.parquet")
        read = read_samples(["edited.parquet"], ["text"], why="the test", optional=SCHEMA.names)
        assert {s.token_ends for group in read for s in group.samples if s.length > 1} <= {()}
        assert {len(s.token_ends) for group in read for s in group.samples} <= {0, 1}


def test_files_without_parts_of_a_reward(tiny_model, monkeypatch, capsys) -> None:
    """As they were before there were several rewards: read, selected from, and finished."""
    winnow.sample(prompts=tiny.problems()[:3], n=4, model=str(tiny_model), **HOW)
    table = pq.read_table(PART).drop_columns(["reward_parts", "right_by"])
    pq.write_table(table, PART)
    assert resume_sampling(monkeypatch, capsys) == 0
    winnow.select("a", ["everything"], out="kept.parquet")
    kept = pq.read_table("kept.parquet")
    assert kept.column_names == table.column_names
    assert kept["right"].equals(table["right"])


def test_a_run(tiny_model) -> None:
    winnow.train(
        prompts=tiny.problems(),
        model=str(tiny_model),
        steps=2,
        eval={"size": 20, "every": 1, "samples": 4},
        checkpoint={"every": 1, "keep": 3},
        **HOW,
    )
    as_before()
    rows = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    for row in rows:
        for name in ("ess_last", "ess_samples", "weight_mean", "grad_clip_fraction", "crc32"):
            del row[name]  # what there was not
    Path("a/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert result_of(Path("a")).metrics == rows
    shutil.rmtree("a/checkpoints/step-2")
    resumed = winnow.train(resume="a", quiet=True)
    assert resumed.metrics[0] == rows[0]
    assert resumed.checkpoint == result_of(Path("a").absolute()).checkpoint
    assert resumed.checkpoint == Path("a/checkpoints/step-2").absolute()
    points = run_overoptimisation("a", "exact").points
    assert [point.at for point in points] == [0, 1, 2]
