"""One algorithm, some settings, and what a shell completes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_main import in_process, no_torch  # noqa: F401 (a fixture)
from winnow.algorithms.table import ALGORITHMS
from winnow.cli import completion
from winnow.config.phases import phases_of
from winnow.config.recipe import recipes
from winnow.config.schema import from_dict
from winnow.config.schema.describe import describe
from winnow.errors import UserError

VALUES = {
    "reference": {"reference": "phase"},
    "critic": {"critic": {"warmup": 1}},
    "samples_from": {"samples_from": "gpt"},
    "rounds.restart": {"rounds": {"restart": True}},
    "rounds.merge": {"rounds": {"merge": 2}},
    "sampling.top_k, sampling.top_p": {"sampling": {"top_p": 0.5}},
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_algorithm_in_full(name: str, monkeypatch, capsys) -> None:
    """All that the table has of it; what it reads is what a run takes, and refuses the rest."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = in_process(monkeypatch, capsys, "algorithms", name)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    row = ALGORITHMS[name]
    packed = re.sub(r"\s+", "", out)
    for said in (row.formula, row.note, row.paper, *map(str, row.cells().values())):
        if not said.startswith("["):
            assert re.sub(r"\s+", "", said) in packed
    _, out, _ = in_process(monkeypatch, capsys, "algorithms", name, "--json")
    made = json.loads(out)
    assert made["name"] == name
    assert {*made["reads"], *made["refuses"]} == VALUES.keys()
    for key, given in VALUES.items():
        try:
            phases_of(from_dict({"algorithm": name, **given}))
        except UserError:
            assert key in made["refuses"]
        else:
            assert key in made["reads"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("algorithms", "grop"), "unknown algorithm 'grop'; did you mean 'grpo'?"),
        (("algorithms", "zzz"), "unknown algorithm 'zzz'; available: rft, raft, raft++, reinforce"),
        (("settings", "optimiser"), "unknown setting 'optimiser'; did you mean 'optimizer'?"),
        (("settings", "learning_rate"), "unknown setting 'learning_rate'; here it is optimizer.lr"),
        (
            ("settings", "sampling.tpo_k"),
            "unknown setting 'sampling.tpo_k'; did you mean 'sampling",
        ),
        (("settings", "lora_r"), "unknown setting 'lora_r'; here it is lora.rank"),
    ],
)
def test_what_there_is_not(args: tuple[str, ...], says: str, monkeypatch, capsys) -> None:
    code, out, err = in_process(monkeypatch, capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith(f"winnow: {says}")


def test_settings_of_one_table(monkeypatch, capsys) -> None:
    code, out, _ = in_process(monkeypatch, capsys, "settings", "optimizer", "--json")
    assert code == 0
    rows = [row for row in describe() if row["key"].startswith("optimizer.")]
    assert json.loads(out) == rows
    _, out, _ = in_process(monkeypatch, capsys, "settings", "optimizer")
    assert [line.split(" = ")[0] for line in out.splitlines()] == [row["key"] for row in rows]
    _, out, _ = in_process(monkeypatch, capsys, "settings", "steps", "--json")
    assert [row["key"] for row in json.loads(out)] == ["steps"]  # not prompts_per_step
    _, out, _ = in_process(monkeypatch, capsys, "settings", "sampling.top", "--json")
    assert [row["key"] for row in json.loads(out)] == ["sampling.top_k", "sampling.top_p"]


def test_completions(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert completion.recipe_names("") == recipes()
    (tmp_path / "gently.toml").touch()
    (tmp_path / "g.txt").touch()
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "chess.toml").touch()
    assert completion.recipe_names("g") == ["gsm8k", "games/", "gently.toml"]
    assert completion.recipe_names("games/") == ["games/chess.toml"]
    assert completion.recipe_names("nowhere/x") == []
    keys = {f"{row['key']}=" for row in describe()}
    assert set(completion.set_keys("")) == keys
    assert completion.set_keys("sampling.top_") == ["sampling.top_k=", "sampling.top_p="]
    assert completion.settings("eng")[0] == "engine"
    assert completion.algorithm_names("r") == [n for n in ALGORITHMS if n.startswith("r")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("winnow al", ["algorithms"]),
        ("winnow train --dry", ["--dry-run"]),
        ("winnow train --set lora.r", ["lora.rank="]),
        ("winnow train arith", ["arithmetic"]),
    ],
)
def test_a_shell_is_answered_without_a_model_library(
    words: str,
    expected: list[str],
    no_torch: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    path = os.pathsep.join(filter(None, (str(no_torch), os.environ.get("PYTHONPATH"))))
    given = {**os.environ, **asked, "_WINNOW_COMPLETE": "complete_bash", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "winnow"], cwd=tmp_path, env=given, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == expected
