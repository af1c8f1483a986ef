"""`winnow doctor` as a person meets it, over an engine without torch, and what training says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import fake_engine, tiny
from tests.cli.test_main import contents, in_process
from tests.fake_engine import Engine, Learner, Sampler
from tests.fake_server import FakeServer
from winnow.engines import factory
from winnow.engines.base import Conventions
from winnow.training.preflight import checkup, machine
from winnow.training.preflight.check import passed

RECIPE = """
model = "model"
prompts = "prompts.jsonl"
reward = "exact"
algorithm = "rloo"
steps = 2
prompts_per_step = 6
samples_per_prompt = 8
sampling.max_tokens = 4
eval.size = 4
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for a model of ten logits, which samples digits; a machine without faults."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "logits.json").write_text(json.dumps([0.0] * 10))
    rows = [{"prompt": f"{i}?", "answer": str(i % 10)} for i in range(24)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    monkeypatch.setattr(checkup, "machine", lambda _: [passed("python", "3")])
    return tmp_path


def told(monkeypatch, capsys, *more: str, code: int = 0) -> dict[str, dict[str, str]]:
    found, out, err = in_process(monkeypatch, capsys, "doctor", "mine.toml", *more, "--json")
    made: dict[str, Any] = json.loads(out)
    checks = {check["name"]: check for check in made["checks"]}
    assert (found, err) == (code, ""), checks
    assert made["failed"] == sum(check["status"] == "failed" for check in checks.values())
    return checks


def test_a_recipe_without_a_fault(here, monkeypatch, capsys) -> None:
    before = contents(here)
    found = told(monkeypatch, capsys)
    assert {name: check["status"] for name, check in found.items()} == dict.fromkeys(
        (
            *("python", "recipe", "memory", "disk", "model", "chat template", "end tokens"),
            *("pad token", "generation config", "context", "duplicates", "leaks", "answers"),
            *("verifier", "scores", "signal", "endings", "log-probs", "zero step", "time"),
        ),
        "passed",
    )
    assert found["context"]["text"].endswith("3 tokens, with sampling.max_tokens = 4, of 64")
    assert contents(here) == before


def test_lines_fit_a_terminal(here, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = in_process(monkeypatch, capsys, "doctor", "mine.toml", "--set", "model=model")
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line.startswith("ok   recipe ")]
    assert "20 passed, 0 warned, 0 failed, 0 skipped; in " in lines[-1]


def test_what_fails_ends_with_exit_code_2(here, monkeypatch, capsys) -> None:
    found = told(monkeypatch, capsys, "--set", "sampling.max_tokens=62", code=2)
    assert found["context"]["status"] == "failed"
    assert "verifier" not in found  # what needs prompts that fit is left out
    code, out, _ = in_process(
        monkeypatch, capsys, "doctor", "mine.toml", "--set", "sampling.max_tokens=62"
    )
    assert code == 2
    assert "\nFAIL context " in out
    assert f"\n{'':24}-> shorten or drop them, or lower sampling.max_tokens\n" in out


def test_a_recipe_that_is_refused_is_a_failed_check(here, monkeypatch, capsys) -> None:
    found = told(monkeypatch, capsys, "--set", "minibatch_prompts=7", code=2)
    assert list(found) == ["python", "recipe", "other checks"]
    assert found["recipe"]["text"].startswith("minibatch_prompts: an update cannot hold more")
    assert found["recipe"]["remedy"].startswith("set minibatch_prompts = 6 or less")


def test_a_sampler_of_another_distribution(here, monkeypatch, capsys) -> None:
    """It samples flat and says so; the learner finds the digits as unlike as they are."""
    own = Sampler._sample

    def flat(self, requests):
        kept, self.engine.now = self.engine.now, self.engine.now * 0
        yield from [*own(self, requests)]
        self.engine.now = kept

    (here / "model" / "logits.json").write_text(json.dumps([0.0, 3.0] * 5))
    assert told(monkeypatch, capsys)["log-probs"]["status"] == "passed"
    monkeypatch.setattr(Sampler, "_sample", flat)
    check = told(monkeypatch, capsys, code=2)["log-probs"]
    assert "ratios would be of other distributions" in check["text"]


def test_a_learner_that_moves_at_learning_rate_0(here, monkeypatch, capsys) -> None:
    own = Learner.step

    def step(self, *batch):
        self.engine.now[0] += 1e-9
        return own(self, *batch)

    monkeypatch.setattr(Learner, "step", step)
    check = told(monkeypatch, capsys, code=2)["zero step"]
    assert "it changed 48 of 48 log-probs" in check["text"]


def test_nothing_to_learn_from(here, monkeypatch, capsys) -> None:
    """A model that always says 1, which is right for none of the prompts."""
    rows = [{"prompt": f"{i}?", "answer": "20"} for i in range(24)]
    (here / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = told(monkeypatch, capsys)
    assert found["signal"]["status"] == "warned"
    assert found["signal"]["text"].startswith("little or none: 0.0% of 128 samples right")
    assert "half of the samples called right" in found["zero step"]["text"]


def test_a_machine_without_torch(here, monkeypatch, capsys) -> None:
    """No recipe is looked at then: all else would fail by it."""

    def version(name: str) -> str:
        if name == "torch":
            raise machine.PackageNotFoundError(name)
        return "99.0"

    monkeypatch.setattr(checkup, "machine", machine.machine)
    monkeypatch.setattr(machine, "version", version)
    monkeypatch.setattr(machine, "broken", lambda _: {})
    found = told(monkeypatch, capsys, code=2)
    assert (found["torch"]["text"], found["torch"]["remedy"]) == (
        "not installed",
        "pip install torch",
    )
    assert {"python", "smollm2-135m", "reasoning-gym", "datasets"} <= found.keys()
    assert not {"gpu", "recipe"} & found.keys()


@pytest.mark.parametrize("algorithm", ["raft++", "ppo", "dpo"])
def test_a_model_of_this_process(algorithm, tiny_model, tmp_path, monkeypatch, capsys) -> None:
    """Learner and sampler agree to rounding, and a step at learning rate 0 moves no bit."""
    rows = "".join(json.dumps(row) + "\n" for row in tiny.problems())
    (tmp_path / "prompts.jsonl").write_text(rows)
    recipe = RECIPE.replace('"rloo"', f'"{algorithm}"').replace("max_tokens = 4", "max_tokens = 2")
    (tmp_path / "mine.toml").write_text(recipe.replace('"model"', json.dumps(str(tiny_model))))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkup, "machine", lambda _: [passed("python", "3")])
    before = contents(tmp_path)
    found = told(monkeypatch, capsys)
    assert {name: check["status"] for name, check in found.items()} == dict.fromkeys(
        found, "passed"
    )
    assert "no log-prob of" in found["zero step"]["text"]
    assert "parameters, float32, on cpu" in found["model"]["text"]
    assert contents(tmp_path) == before


SICK = Conventions(False, "", None, (0, 0), None, {}, None, None, {"top_k": 5})


def notes_of(monkeypatch, capsys, *args: str) -> tuple[int, str]:
    monkeypatch.setenv("COLUMNS", "400")
    code, out, err = in_process(monkeypatch, capsys, "train", *args)
    return code, out + err


def test_training_says_what_it_sees_and_only_at_the_start(here, monkeypatch, capsys) -> None:
    monkeypatch.setattr(fake_engine, "Conventions", lambda *_: SICK)
    code, out = notes_of(monkeypatch, capsys, "mine.toml", "--out", "run")
    assert code == 0
    assert out.count("end tokens: none, and no stop strings: each sample runs to max_tokens") == 1
    assert out.count("generation config: top_k = 5: not read here") == 1
    config = (here / "run" / "config.toml").read_text()
    (here / "run" / "config.toml").write_text(config.replace("steps = 2", "steps = 3", 1))
    code, out = notes_of(monkeypatch, capsys, "--resume", "run")
    assert code == 0
    assert "end tokens" not in out


def test_training_says_nothing_of_what_is_well(here, monkeypatch, capsys) -> None:
    code, out = notes_of(monkeypatch, capsys, "mine.toml", "--out", "run")
    assert code == 0
    assert not [name for name in ("memory:", "tokens:", "leaks:", "duplicates:") if name in out]


def test_training_does_not_begin_where_no_checkpoint_fits(here, monkeypatch, capsys) -> None:
    class Full:
        free, total = 100, 1000

    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: Full)
    code, out = notes_of(monkeypatch, capsys, "mine.toml", "--out", "run")
    assert code == 74
    assert "disk: a checkpoint takes 160 B, of 100 B free; make room" in out
    assert not (here / "run").exists()


def server(here: Path, url: str) -> list[str]:
    sets = ("engine.sampler=openai", f"engine.url={url}", "engine.served_model=m", "model=model")
    return [part for one in (*sets, "engine.retries=0") for part in ("--set", one)]


def test_a_server(here, monkeypatch, capsys) -> None:
    """It answers and gives log-probs, which are not those of this model."""
    with FakeServer() as fake:
        found = told(monkeypatch, capsys, *server(here, fake.url))
    assert found["server"]["status"] == "passed"
    assert found["signal"]["status"] == "warned"
    assert found["log-probs"]["status"] in ("warned", "skipped")


def test_a_server_that_is_not_there(here, monkeypatch, capsys) -> None:
    found = told(monkeypatch, capsys, *server(here, "http://127.0.0.1:9/v1"), code=2)
    assert found["server"]["status"] == "failed"
    assert "start the server" in found["server"]["remedy"]
