"""What is under examples/, with a small budget that runs all of it: `.ci/nightly examples`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

pytestmark = pytest.mark.examples

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *words: str, **environment: str) -> str:
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": os.pathsep.join(paths), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_is_tried_here() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    for script in EXAMPLES.rglob("*.sh"):
        assert f'"{script.relative_to(EXAMPLES)}"' in tried


def test_addition(tmp_path) -> None:
    out = run("rft/addition.sh", WORK=str(tmp_path))
    before, after = out.split("held-out accuracy: ")[1].split("% before, ")
    assert float(after.split("%")[0]) > 3 * float(before) > 0


def test_gsm8k(tmp_path) -> None:
    """On sums in its format: a budget that a model of this size learns nothing from."""
    rows = [
        {"question": f"{a} + {b} =", "answer": f"{a} + {b} = {a + b}\n#### {a + b}"}
        for a in range(1, 4)
        for b in range(1, 4)
    ]
    for name, some in (("train", rows[:6]), ("test", rows[6:])):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(text)
    files = [str(tmp_path / f"{name}.jsonl") for name in ("train", "test")]
    run("rft/run.sh", *files, WORK=str(tmp_path), QUESTIONS="6", SAMPLES="32", EVAL="3")
    kept = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    assert kept
    assert all(row["right"] for row in kept)
    assert (tmp_path / "run/checkpoints").is_dir()


def test_overoptimisation(tmp_path) -> None:
    out = run("overoptimisation/run.sh", WORK=str(tmp_path), EPOCHS="2", EVAL="64")
    assert out.count("measured gold is highest at n = ") == 2  # by closeness, and right or wrong
    assert out.count("drop of gold from its highest to n = 256: ") == 2
    assert (tmp_path / "curve.svg").read_text().lstrip().startswith("<?xml")


def test_difficulty(tmp_path) -> None:
    small = {"QUESTIONS": "60", "EVAL": "8", "STEPS": "1", "SEEDS": "0"}
    out = run("difficulty/run.sh", WORK=str(tmp_path), **small)
    assert out.splitlines()[-1].startswith("all seeds: filtered ")
    hard, control = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("hard", "hard.control")
    )
    assert len(hard) == len(control) > 0
    assert all(0.2 <= row["pass_rate"] <= 0.8 and row["n"] == 8 for row in hard)
    for name, rows in (("hard", hard), ("hard.control", control)):
        trained = pq.read_table(tmp_path / f"{name}-0/rollouts/train-000001.parquet").to_pylist()
        assert {row["prompt_id"] for row in trained} <= {row["id"] for row in rows}


def test_study(tmp_path) -> None:
    """Three of its variants, one seed, eight steps; the second time nothing is left to run."""
    folder = EXAMPLES / "study"
    small = tomllib.loads((folder / "short.toml").read_text(encoding="utf-8"))
    small["study"] |= {"seeds": [1], "budget": {"samples": 2048}}
    base = small["base"]
    base |= {"model": str(folder / "model"), "steps": 8}
    base["prompts"]["source"] = str(folder / "train.jsonl")
    base["eval"]["source"] = str(folder / "held-out.jsonl")
    names = ("grpo", "grpo-centred", "raft++")
    small["variants"] = {name: small["variants"][name] for name in names}
    (tmp_path / "small.toml").write_text(tomli_w.dumps(small), encoding="utf-8")
    given = {"STUDY": str(tmp_path / "small.toml"), "WORK": str(tmp_path / "work")}
    out = run("study/run.sh", **given)

    def accuracy(name: str) -> float:
        lines = tmp_path.joinpath(f"work/runs/{name}/seed-1/evals.jsonl").read_text().splitlines()
        return float(json.loads(lines[-1])["accuracy"])

    after = out.split("raft++ - grpo: accuracy at the end\n")[1]
    difference = 100 * (accuracy("raft++") - accuracy("grpo"))
    assert float(after.split()[0]) == pytest.approx(difference, abs=0.05)
    again = run("study/run.sh", **given)
    assert again[again.index("short: ") :] == out[out.index("short: ") :]
