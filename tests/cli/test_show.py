"""`winnow show`: what is printed of samples, in 80 columns and as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len

from winnow.cli import main
from winnow.storage.schema import write_groups
from winnow.types import Group, Outcome, Prompt, Sample, Score

LONG = "".join(f"word{i} " for i in range(300))


def group(number: int) -> Group:
    texts = ["five\x1b[2J\x07\n\n six", LONG, "", "長い文章です。" * 40]
    ends = ["eos", "length", "stop", "eos"]
    return Group(
        Prompt(f"p{number}", f"Question {number}?", "5", "hard"),
        (1, 2, 3),
        tuple(
            Sample((7, 8), (-1.0, -2.0), text, end)  # type: ignore[arg-type]
            for text, end in zip(texts, ends, strict=True)
        ),
        (Score(1.0), Score(0.25), Score.failed("it\x1b broke"), Score(1.0)),
        (
            Outcome(True, "survived"),
            Outcome(False, "wrong"),
            Outcome(False, "verifier error: it\x1b broke"),
            Outcome(True, "all rewards equal"),
        ),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "rollouts").mkdir()
    path = tmp_path / "rollouts/train-000003.parquet"
    write_groups(path, "train", 3, [group(number) for number in range(7)])
    return tmp_path


@pytest.fixture
def command(monkeypatch, capsys):
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["winnow", "show", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as end:
            main.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return command


def test_a_group(run, command) -> None:
    code, out, err = command(run, "--limit", 1)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:7] == [
        "train, step 3, prompt p0, difficulty hard: 4 samples, 2 right, 2 kept, 1 error",
        "prompt (3 tokens):",
        "  | Question 0?",
        "answer: 5",
        "sample 0: reward 1, kept, ended by eos, 2 tokens",
        "  | five\\x1b[2J\\x07",
        "  |",
    ]
    assert "sample 1: reward 0.25, not kept: wrong, cut off, 2 tokens" in lines
    at = lines.index("sample 2: error, not kept: verifier error: it\\x1b broke, ended by stop, 2")
    assert lines[at + 1 : at + 3] == ["  tokens", "  (empty)"]
    assert "sample 3: reward 1, kept: all rewards equal, ended by eos, 2 tokens" in lines
    assert lines[-1] == "1 group of 7 shown, split train; 6 more with a larger --limit"
    assert max(map(cell_len, lines)) <= 80
    assert "\x1b" not in out


def test_long_texts(run, command) -> None:
    """What is left out is counted, and nothing with --full."""
    _, out, _ = command(run, "--limit", 1, "--reason", "wrong")
    left = len(LONG) - 480
    assert f"... {left} characters left out (--full shows them) ..." in out
    assert "word0 word1" in out
    assert "word299" in out
    assert "word150" not in out
    assert "(1 of its 4 samples shown)" in out
    _, out, _ = command(run, "--limit", 1, "--reason", "wrong", "--full")
    shown = " ".join(out.split("sample 1")[1].replace("|", "").split())
    assert " ".join(LONG.split()) in shown
    assert max(map(cell_len, out.splitlines())) <= 80


def test_how_many_are_shown(run, command) -> None:
    _, out, _ = command(run)
    assert out.count("answer: 5") == 5
    assert out.endswith("5 groups of 7 shown, split train; 2 more with a larger --limit\n")
    _, out, _ = command(run, "--limit", 7)
    assert out.endswith("\n7 groups shown, split train\n")


def test_as_json_every_column_of_every_sample(run, command) -> None:
    code, out, err = command(run, "--json")
    assert (code, err) == (0, "")
    rows = pq.read_table(run / "rollouts").to_pylist()
    assert [json.loads(line) for line in out.splitlines()] == rows
    assert len(rows) == 28
    _, out, _ = command(run, "--json", "--limit", 2, "--errors")
    assert [json.loads(line)["prompt_id"] for line in out.splitlines()] == ["p0", "p1"]


def test_nothing_is_left(run, command) -> None:
    said = "no samples of these steps; there is step 3\n"
    assert command(run, "--step", "4-6") == (0, said, "")
    assert command(run, "--step", "4-6", "--json") == (0, "", said)


@pytest.mark.parametrize("step", ["x", "3-", "5-3", "-1"])
def test_a_step_that_is_none(run, command, step) -> None:
    code, out, err = command(run, f"--step={step}")
    assert (code, out) == (2, "")
    assert err == f"winnow: --step: {step!r} is no step; write 3, or 3-5 for several\n"


def test_numbers_that_json_has_not(tmp_path, command) -> None:
    made = Group(Prompt("a", "a"), (1,), (Sample((1,), (float("-inf"),), "x", "eos"),))
    write_groups(tmp_path / "a.parquet", "sample", 0, [made])
    _, out, _ = command(tmp_path, "--json")
    assert json.loads(out)["logprobs"] == [None]
