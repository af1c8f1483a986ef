"""`winnow train --dry-run`: nothing is written, and what is printed is what a run does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests import local, tiny
from tests.cli.test_main import contents, in_process
from winnow.config.phases import phases_of
from winnow.config.recipe import load
from winnow.config.schema import from_dict
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.policy import LocalPolicy
from winnow.prompts.loading import PromptSet
from winnow.training.preview import preview
from winnow.training.summary import opening
from winnow.types import Prompt

RECIPE = """
model = "{model}"
prompts = "sums.jsonl"
reward = "mine:score"
steps = 2
prompts_per_step = 3
samples_per_prompt = 4
sampling.max_tokens = 3
eval.size = 5
"""
CODE = """
def score(prompt, completion):
    return float(completion == prompt.answer)
"""


@pytest.fixture
def here(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe beside its prompts and its reward, in the working folder."""
    lines = [json.dumps(row) + "\n" for row in tiny.problems()]
    (tmp_path / "sums.jsonl").write_text("".join(lines))
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "mine.toml").write_text(RECIPE.format(model=tiny_model))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    return tmp_path


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(LocalPolicy, "module", refuse)


def told(monkeypatch, capsys, *more: str) -> dict[str, Any]:
    code, out, err = in_process(
        monkeypatch, capsys, "train", "--dry-run", "mine.toml", *more, "--json"
    )
    assert (code, err) == (0, "")
    made: dict[str, Any] = json.loads(out)
    return made


def test_nothing_is_written_and_no_weights_are_read(here, no_weights, monkeypatch, capsys) -> None:
    before = contents(here)
    made = told(monkeypatch, capsys, "--set", "steps=3")
    code, out, _ = in_process(monkeypatch, capsys, "train", "--dry-run", "mine.toml")
    assert code == 0
    assert contents(here) == before
    assert made["prompt"]["text"] in out
    assert made["work"]["steps"] == 3
    assert "\nsteps:    2, with up to 2 updates\n" in out


def test_what_is_told_is_what_the_run_does(here, tiny_model, monkeypatch, capsys) -> None:
    made = told(monkeypatch, capsys, "--set", "eval.every=1", "--set", "eval.samples=2")
    run = winnow.train(recipe="mine.toml", eval={"every": 1, "samples": 2}, quiet=True)
    import pyarrow.parquet as pq

    files = [pq.read_table(path) for path in sorted((run.folder / "rollouts").iterdir())]
    rows = [row for file in files for row in file.to_pylist()]
    assert made["work"]["steps"] == len(run.metrics) == 2
    assert made["work"]["updates"] == sum(row["updates"] for row in run.metrics)
    assert made["work"]["samples"] == sum(row["split"] == "train" for row in rows)
    assert made["work"]["evaluated"] == sum(row["split"] == "eval" for row in rows)
    seen = {row["prompt_id"]: len(row["prompt_ids"]) for row in rows}
    assert made["lengths"]["shortest"] <= min(seen.values())
    assert max(seen.values()) <= made["lengths"]["longest"]
    assert made["held_out"] == 5
    assert made["training"] == 20
    assert made["lengths"]["too_long"] == 0
    # float32: four bytes a weight, four a gradient, eight of the optimizer
    parameters = sum(p.numel() for p in local.engine(tiny_model).trained())
    memory = made["memory"]
    assert memory["weights"] + memory["gradients"] + memory["optimizer"] == 16 * parameters
    saved = run.checkpoint / "optimizer.pt"
    assert saved.stat().st_size < made["disk"]["checkpoint"]


def test_where_settings_are_from(here, no_weights, monkeypatch, capsys) -> None:
    made = told(monkeypatch, capsys, "--set", "algorithm=grpo", "--set", "sampling.max_tokens=4")
    found = {row["key"]: (row["value"], row["source"]) for row in made["settings"]}
    assert found["algorithm.name"] == ("grpo", "--set")
    assert found["sampling.max_tokens"] == (4, "--set")
    assert found["steps"] == (2, "recipe mine.toml")
    assert found["minibatch_prompts"] == (3, "prompts_per_step")
    assert "optimizer.lr" not in found
    assert made["summary"].startswith("grpo: select everything; advantage standardised")


def test_of_several_rewards_only_what_was_set_is_listed(
    here, no_weights, monkeypatch, capsys
) -> None:
    parts = '[{name = "exact"}, {name = "length", weight = 0.5, options = {max = 3}}]'
    found = told(monkeypatch, capsys, "--set", f"reward={parts}")["settings"]
    assert {row["key"]: row["value"] for row in found if row["key"].startswith("reward")} == {
        "reward.parts.1.name": "exact",
        "reward.parts.2.name": "length",
        "reward.parts.2.weight": 0.5,
        "reward.parts.2.options.max": 3,
    }


@pytest.mark.parametrize(
    ("phases", "name"),
    [("", "mine-raft++-001"), ("[[phases]]\nalgorithm = 'raft'", "mine-001")],
)
def test_a_run_in_phases_is_named_after_no_algorithm(
    here, no_weights, monkeypatch, capsys, phases, name
) -> None:
    recipe = here / "mine.toml"
    recipe.write_text(f"{recipe.read_text()}{phases}")
    code, out, _ = in_process(monkeypatch, capsys, "train", "--dry-run", "mine.toml")
    assert code == 0
    assert f"\nrun folder: runs/{name} (" in out


def test_pairs_are_counted_as_samples_of_their_file(
    here, no_weights, tiny_model, monkeypatch, capsys
) -> None:
    pair = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
    lines = [json.dumps({**pair, "prompt": f"{i}+1="}) + "\n" for i in range(3)]
    (here / "pairs.jsonl").write_text("".join(lines))
    recipe = f"algorithm = 'dpo'\nsamples_file = 'pairs.jsonl'\nmodel = '{tiny_model}'\n"
    (here / "pairs.toml").write_text(f"{recipe}eval.size = 0\n")
    code, out, err = in_process(monkeypatch, capsys, "train", "--dry-run", "pairs.toml")
    assert (code, err) == (0, "")
    assert "\nsamples:  6 of a file to train on\n" in out
    assert "\nprompts:  those of the file to train on, 0 held out\n" in out


def test_sizes_are_in_the_unit_of_a_run(here, no_weights, monkeypatch, capsys) -> None:
    """A run says `disk: up to 1.6 GB (...)`: both of one estimate, in powers of 1000."""
    made = told(monkeypatch, capsys)["disk"]
    code, out, _ = in_process(monkeypatch, capsys, "train", "--dry-run", "mine.toml")
    assert code == 0
    assert f"disk:     {made['total'] / 1e6:.1f} MB at most" in out
    assert "iB" not in out


def test_the_verifier_is_tried(here, no_weights, monkeypatch, capsys) -> None:
    made = told(monkeypatch, capsys)
    answer = made["prompt"]["answer"]
    assert [(one["completion"], one["score"]) for one in made["tried"]] == [
        (answer, 1.0), ("", 0.0), (f"The answer is {answer}.", 0.0),
    ]  # fmt: skip
    (here / "mine.py").write_text("def score(prompt, completion):\n    return None\n")
    code, out, err = in_process(monkeypatch, capsys, "train", "--dry-run", "mine.toml")
    assert (code, out) == (2, "")
    assert err.startswith("winnow: reward: the verifier returned None")


def test_special_tokens_are_seen_and_long_prompts_counted(
    tiny_model, tmp_path, monkeypatch, no_weights
) -> None:
    """The model has 128 positions: prompts of 120 characters leave no room for ten tokens."""
    rows = [{"prompt": "1" * 120, "answer": "1"}, *tiny.problems()]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {
        "model": str(tiny_model),
        "prompts": str(tmp_path / "p.jsonl"),
        "reward": "exact",
        "eval": {"size": 5},
        "sampling": {"max_tokens": 10},
    }
    encode = LocalEngine.encode
    monkeypatch.setattr(LocalEngine, "encode", lambda self, p: (0, *encode(self, p)))
    made = preview(load(over=given), out=tmp_path / "run", recipe=None, sets=())
    assert made.lengths is not None
    assert (made.lengths.shortest, made.lengths.median, made.lengths.longest) == (5, 5, 121)
    assert made.lengths.too_long == 1
    assert made.prompt is not None
    assert made.prompt.text.startswith(tiny.PAD_AND_END)
    assert made.prompt.tokens == len(made.prompt.text) - len(tiny.PAD_AND_END) + 1
    assert not (tmp_path / "run").exists()


def test_what_a_run_refuses_a_dry_run_refuses(here, no_weights, monkeypatch, capsys) -> None:
    (here / "there").mkdir()
    for args, says in (
        (["--set", "stpes=1"], "unknown setting 'stpes'; did you mean 'steps'?"),
        (["--set", "minibatch_prompts=9"], "minibatch_prompts: an update cannot hold more prompts"),
        (["--out", "there"], "out: "),
        (["--resume", "there"], "--dry-run: it is for a run that is new"),
        (["--ray", "auto"], "--dry-run: it asks no cluster; leave out --ray"),
    ):
        recipe = [] if "--resume" in args else ["mine.toml"]
        code, out, err = in_process(monkeypatch, capsys, "train", "--dry-run", *recipe, *args)
        assert (code, out) == (2, "")
        assert says in err


def test_names_of_layers_are_looked_at(here, no_weights, monkeypatch, capsys) -> None:
    sets = ("--set", "lora.rank=2", "--set", 'lora.targets=["q_prooj"]')
    code, out, err = in_process(monkeypatch, capsys, "train", "--dry-run", "mine.toml", *sets)
    assert (code, out) == (2, "")
    assert err.startswith("winnow: lora.targets: no layer is called 'q_prooj'; did you mean")


def test_chat_prompts_are_shown_as_the_template_makes_them(tiny_model) -> None:
    engine = local.engine(tiny_model)
    engine.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}<end>"
    )
    prompt = Prompt("p", "1+1", messages=({"role": "user", "content": "1+1"},))
    assert engine.decode(engine.encode(prompt)).endswith("user<other> 1+1\n<end>")


def test_the_summary_tells_of_prompts_that_are_left_out() -> None:
    config = from_dict({"eval": {"source": "test.jsonl"}})
    prompts = PromptSet((Prompt("a", "1 + 1"),), (Prompt("b", "2 + 2"),), left_out=3)
    said = opening(config, phases_of(config), prompts)
    assert "; 1 training prompt (without 3 that eval.source has too), 1 held out\n" in said
