"""The seam is all that a run needs of an engine: one without torch trains end to end.

Its policy is ten logits, so what a run does is compared with what the same numbers give by hand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import winnow
from tests.fake_engine import Engine, Sampler, logp, read
from tests.kills import KillAt, Killed, check_same, lines, samples
from winnow.config.schema import from_dict
from winnow.engines import factory
from winnow.engines.base import Capabilities
from winnow.rollouts.collect import run_sample
from winnow.training.run import run

ROWS = [{"prompt": f"{i}?", "answer": "7"} for i in range(12)]
SETTINGS: dict[str, Any] = {
    "reward": "exact",
    "algorithm": "rloo",
    "steps": 8,
    "prompts_per_step": 6,
    "samples_per_prompt": 8,
    "minibatch_prompts": 3,
    "sampling": {"max_tokens": 4},
    "optimizer": {"lr": 2.0},
    "eval": {"size": 4, "samples": 8, "every": 2},
    "checkpoint": {"every": 100, "keep": 1},
}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a small run with the fake engine."""
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    return {**SETTINGS, **files(tmp_path)}


def files(folder: Path) -> dict[str, str]:
    """A model that has not learned anything, and prompts."""
    model, prompts = folder / "model", folder / "prompts.jsonl"
    model.mkdir()
    (model / "logits.json").write_text(json.dumps([0.0] * 10))
    prompts.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {"model": str(model), "prompts": str(prompts)}


def go(given: dict[str, Any], out: Path, **more: Any) -> winnow.Result:
    return winnow.train(**{**given, **more}, out=out, quiet=True)


WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, transformers=None)
from tests.fake_engine import Engine
from winnow.engines import factory
from winnow.engines.base import Capabilities
factory.ENGINES["local"] = factory.Kind(Engine, lambda *_: None)
from winnow.cli.main import main
for line in sys.argv[1:]:
    sys.argv = line.split("|")
    try:
        main()
    except SystemExit as done:
        assert not done.code, (sys.argv, done.code)
"""


def started(folder: Path, *commands: str) -> subprocess.Popen[str]:
    """Commands, their words apart by |, in a process of their own that has no torch."""
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH, *commands],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said


def recipe(folder: Path, *more: str) -> None:
    given = [f"{key} = {json.dumps(value)}" for key, value in files(folder).items()]
    given += ['reward = "exact"', 'algorithm = "rloo"', "prompts_per_step = 6", *more]
    given += ["minibatch_prompts = 3", "optimizer.lr = 2.0", "eval.size = 4"]
    text = "\n".join([*given, "sampling.max_tokens = 4", ""])
    (folder / "recipe.toml").write_text(text)


def test_commands_train_sample_and_evaluate_without_torch(tmp_path: Path) -> None:
    recipe(tmp_path, "steps = 8")
    commands = [
        "winnow|train|recipe.toml|--out|run",
        "winnow|train|--resume|run",
        "winnow|sample|recipe.toml|--out|pool",
        "winnow|select|pool|--out|kept.parquet",
        "winnow|train|recipe.toml|--set|samples_file=kept.parquet|--set|algorithm=rft|--out|tuned",
        "winnow|eval|recipe.toml|--set|model=run/checkpoints/step-8|--out|eval",
    ]
    finished(started(tmp_path, *commands))
    first, last = lines(tmp_path / "run", "evals.jsonl")
    (again,) = lines(tmp_path / "eval", "evals.jsonl")
    assert first["accuracy"] < 0.3
    assert last["accuracy"] > 0.9
    assert again["accuracy"] > 0.9


def test_kill_dash_nine_loses_nothing(tmp_path: Path) -> None:
    """A real process, killed at moments it does not choose, resumed from the command line."""
    recipe(tmp_path, "steps = 200", "checkpoint.every = 30", "eval.every = 50")
    finished(started(tmp_path, "winnow|train|recipe.toml|--out|whole"))
    broken = tmp_path / "broken"
    process = started(tmp_path, "winnow|train|recipe.toml|--out|broken")
    for target in (20, 75, 140):  # killed once so many steps are on the disk
        while process.poll() is None and len(list(broken.glob("rollouts/train-*"))) < target:
            time.sleep(0.001)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.communicate()
        process = started(tmp_path, "winnow|train|--resume|broken")
    finished(process)
    check_same(tmp_path / "whole", broken)


def test_a_run_is_resumed_by_one_process_at_a_time(tmp_path: Path) -> None:
    recipe(tmp_path, "steps = 60", "checkpoint.every = 30")
    first = started(tmp_path, "winnow|train|recipe.toml|--out|run")
    while first.poll() is None and not list(tmp_path.glob("run/rollouts/train-*")):
        time.sleep(0.001)
    (tmp_path / "run/.lock").stat()  # since before its first file
    os.kill(first.pid, signal.SIGSTOP)
    try:
        assert first.poll() is None, "it ended before it could be stopped"
        second = started(tmp_path, "winnow|train|--resume|run")
        said, _ = second.communicate(timeout=120)
        assert re.search(rf"another winnow is writing to \S*run \(process {first.pid} on ", said)
        assert "'run'], 2)" in said  # exit code
    finally:
        os.kill(first.pid, signal.SIGCONT)
    finished(first)
    assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl")] == [*range(1, 61)]
    assert not (tmp_path / "run/.lock").exists()


@pytest.mark.parametrize("where", ["/dev/full", "a pipe", "closed"])
def test_a_console_that_takes_nothing_stops_no_run(tmp_path: Path, where: str) -> None:
    recipe(tmp_path, "steps = 2")
    code = WITHOUT_TORCH.replace("assert not done.code, (sys.argv, done.code)", "raise")
    words = [sys.executable, "-c", code, "winnow|train|recipe.toml|--out|run"]
    plain = " ".join(map(shlex.quote, words))
    command = {"/dev/full": "> /dev/full", "a pipe": "| true", "closed": ">&-"}[where]
    done = subprocess.run(
        ["/bin/bash", "-c", f"{plain} {command}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl")] == [1, 2]
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()
    if where == "/dev/full":
        assert said[-1].startswith("winnow: cannot write to standard output: No space left on")
        assert (len(said), done.returncode) == (2, 74)
    else:
        assert (len(said), done.returncode) == (int(where == "a pipe"), 0), said


def test_another_model_samples_and_is_let_go_of(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It always says 7: every sample is right, though the policy knows nothing."""
    other, events = tmp_path / "other", []
    other.mkdir()
    (other / "logits.json").write_text(json.dumps([0.0] * 7 + [50.0, 0.0, 0.0]))

    class Watched(Engine):
        def __init__(self, config: Any, *rest: Any) -> None:
            super().__init__(config, *rest)
            name = "other" if config.model == str(other) else "policy"
            self.load = lambda: events.append(f"load {name}")
            self.close = lambda: events.append(f"close {name}")

    kind = factory.Kind(Watched, lambda *_: None)
    monkeypatch.setitem(factory.ENGINES, "local", kind)
    result = go(given, tmp_path / "run", algorithm="rft", steps=2, samples_from=str(other))
    assert events == ["load other", "close other"]
    assert {(row["model"], row["text"]) for row in samples(result.folder)} == {(str(other), "7")}
    assert result.after is not None
    assert result.after > 0.5  # it has learned from them
    events.clear()
    Watched.context = 5  # a prompt of two or three tokens, and four more
    with pytest.raises(winnow.UserError, match="leaves no room"):
        go(given, tmp_path / "late", algorithm="rft", samples_from=str(other))
    assert not (tmp_path / "late").exists()


def test_a_sampler_that_cannot_serve_a_policy_is_refused(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for promises, said in (
        (
            Capabilities(True, True, False),
            "'local' samples from weights of its own",
        ),
        (Capabilities(False, True, True), "'local' does not give the log-probs"),
    ):
        monkeypatch.setattr(Sampler, "capabilities", promises)
        with pytest.raises(winnow.UserError, match=f"^engine.sampler: {said}"):
            go(given, tmp_path / "run", algorithm="grpo")
        assert not (tmp_path / "run").exists()
    assert go(given, tmp_path / "run", algorithm="raft").metrics  # which has no ratio


def test_what_an_engine_notes_is_told(given: dict[str, Any], tmp_path: Path) -> None:
    listener = KillAt()
    run(from_dict(given), out=tmp_path / "run", observers=listener)
    fake, disk = listener.notes
    assert fake == f"{given['model']}: fake"
    assert disk.startswith("disk: up to ")


def test_a_step_is_the_formula(given: dict[str, Any], tmp_path: Path) -> None:
    """From what is on the disk: the sum over samples of advantage x (one-hot - policy) / samples,
    with an advantage of r - mean of the others' r."""
    given["eval"] = {"size": 0}
    go(given, tmp_path / "run", steps=1, prompts_per_step=12, minibatch_prompts=12)
    rows, expected = samples(tmp_path / "run"), np.zeros(10)
    assert len(rows) == 96
    for row in rows:
        rewards = [float(r["text"] == "7") for r in rows if r["group"] == row["group"]]
        own = float(row["text"] == "7")
        assert row["advantage"] == pytest.approx(own - (sum(rewards) - own) / 7)
        expected += 2.0 * row["advantage"] * (np.eye(10)[int(row["text"])] - 0.1) / 96
    found = read(tmp_path / "run/checkpoints/step-1")
    assert found == pytest.approx(expected, abs=1e-12)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "KL to the start": {"algorithm": {"name": "rloo", "kl": "in-reward(0.05)"}},
    "early stopping": {"eval": {"size": 4, "samples": 8, "every": 1, "patience": 2}},
    "early stopping, no test": {
        "eval": {"size": 4, "samples": 8, "every": 1, "patience": 2, "test_size": 0}
    },
    "early stopping, average": {
        "eval": {"size": 3, "samples": 8, "every": 1, "patience": 1},
        "checkpoint": {"every": 1, "keep": 1, "average": 0.5},
    },
    "restarts": {"rounds": {"restart": True}, "checkpoint": {"every": 1, "keep": 2}},
    "average": {"checkpoint": {"every": 3, "average": 0.5}},
    "once": {"algorithm": "rft"},
    "a set": {"algorithm": {"name": "snis", "epochs": 2}},
    "phases": {
        "phases": [
            {"algorithm": "raft", "steps": 2},
            {"algorithm": {"name": "rloo", "kl": "in-reward(0.05)"}, "steps": 2},
            {"algorithm": "rloo", "steps": 1, "start_from": "start"},
        ],
        "reference": "phase",
        "checkpoint": {"every": 1, "keep": 1},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_killed_anywhere_it_ends_the_same(given: dict[str, Any], tmp_path: Path, name: str) -> None:
    """At every fifth event of the run."""
    given.update(steps=4)
    given.update(CASES[name])
    if name == "phases":
        del given["steps"], given["algorithm"]
    config, listener = from_dict(given), KillAt()
    run(config, out=tmp_path / "whole", observers=listener)
    assert len(listener.heard) > 30
    for at in range(1, len(listener.heard), 5):
        broken = tmp_path / f"broken-{at}"
        with pytest.raises(Killed):
            run(config, out=broken, observers=KillAt(at))
        if broken.exists():
            run(resume=broken, observers=KillAt())
        else:
            run(config, out=broken, observers=KillAt())
        check_same(tmp_path / "whole", broken)


def test_the_reference_is_what_it_is_called(given: dict[str, Any], tmp_path: Path) -> None:
    """Log-probs of the start, and of the weights that the second phase began with."""
    for reference in ("start", "phase"):
        given["phases"] = [
            {"algorithm": "raft", "steps": 2},
            {"algorithm": {"name": "rloo", "kl": "in-reward(0.05)"}, "steps": 2},
        ]
        settings = {k: v for k, v in given.items() if k not in ("steps", "algorithm")}
        out = tmp_path / reference
        go(settings, out, reference=reference, checkpoint={"every": 1, "keep": 9})
        versions = [row["policy_version"] for row in lines(out, "metrics.jsonl")]
        assert versions == sorted(set(versions))  # counted through all phases
        began = {"start": Path(given["model"]), "phase": out / "checkpoints/step-2"}[reference]
        rows = pq.read_table(out / "rollouts/train-000004.parquet").to_pylist()
        expected = [[logp(read(began))[int(row["text"])]] for row in rows]
        assert [row["ref_logprobs"] for row in rows] == [pytest.approx(e) for e in expected]


def test_the_final_model_is_the_average(given: dict[str, Any], tmp_path: Path) -> None:
    result = go(given, tmp_path / "run", checkpoint={"average": 0.25})
    last = read(tmp_path / "run/checkpoints/step-8")
    assert abs(last).max() > 0.5
    assert read(result.checkpoint) == pytest.approx(0.75 * last, abs=1e-12)


def test_a_chosen_checkpoint_is_tested_on_other_prompts(
    given: dict[str, Any], tmp_path: Path
) -> None:
    """And so is the start, and what is reported is what the test samples on the disk say."""
    listener = KillAt()
    config = from_dict({**given, "eval": {"size": 4, "samples": 8, "every": 1, "patience": 2}})
    result = run(config, out=tmp_path / "run", observers=listener)
    rows = lines(tmp_path / "run", "evals.jsonl")
    (chosen,) = [row["step"] for row in rows if row["split"] == "test" and row["step"]]
    selection = [row for row in rows if row["split"] == "eval"]
    assert max(row["reward"] for row in selection) == selection[chosen]["reward"]
    assert result.checkpoint.name == f"step-{chosen}"
    assert (result.selected, result.evaluations) == (selection[chosen]["accuracy"], len(selection))
    assert result.tested
    parts = {
        s: {r["prompt"] for r in samples(tmp_path / "run", s)} for s in ("eval", "test", "train")
    }
    assert [len(part) for part in parts.values()] == [4, 4, 4]
    assert len(set.union(*parts.values())) == 12
    rates = []
    for step in (0, chosen):
        tested = [r for r in samples(tmp_path / "run", "test") if r["step"] == step]
        rates.append(np.mean([r["text"] == "7" for r in tested]))
        own = logp(read(tmp_path / f"run/checkpoints/step-{chosen}") if step else np.zeros(10))
        for row in tested:
            assert row["logprobs"] == pytest.approx([own[int(row["text"])]], abs=1e-6)
    assert [result.before, result.after] == pytest.approx(rates)
    assert result.gain == pytest.approx(rates[1] - rates[0])
    versions = {row["step"]: row["policy_version"] for row in result.metrics}
    assert {r["policy_version"] for r in tested} == {versions[chosen]}
    assert run(resume=tmp_path / "run", observers=KillAt()) == result


def test_where_the_start_is_best_its_test_is_the_result(
    given: dict[str, Any], tmp_path: Path
) -> None:
    """Training pays for sevens, and the held-out answers are threes: it only gets worse."""
    other = tmp_path / "other.jsonl"
    other.write_text(
        "".join(json.dumps({"prompt": f"{i}!", "answer": "3"}) + "\n" for i in range(60))
    )
    evaluation = {"source": str(other), "size": 30, "samples": 8, "every": 1, "patience": 2}
    for name, checkpoints in (("plain", {}), ("average", {"average": 0.25})):
        result = go(given, tmp_path / name, eval=evaluation, checkpoint=checkpoints)
        rows = lines(tmp_path / name, "evals.jsonl")
        assert [(row["split"], row["step"]) for row in rows] == [
            ("eval", 0), ("test", 0), ("eval", 1), ("eval", 2)
        ]  # fmt: skip
        assert result.after == result.before == rows[1]["accuracy"] != rows[0]["accuracy"]
        assert (result.gain, result.gain_low, result.gain_high) == (0, 0, 0)
        assert (result.tested, result.selected) == (True, rows[0]["accuracy"])
        assert read(result.checkpoint) == pytest.approx(np.zeros(10))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_evaluations_measure_kl_to_the_start(
    given: dict[str, Any], tmp_path: Path, temperature: float
) -> None:
    """All samples of the first prompts, right or not, at the temperature of the evaluation."""
    given["eval"] = {"size": 4, "samples": 64, "every": 1, "kl_prompts": 3}
    given["eval"]["temperature"] = temperature
    given["model"] = str(tmp_path / "leaning")
    Path(given["model"]).mkdir()
    (tmp_path / "leaning/logits.json").write_text(json.dumps([0.1 * i for i in range(10)]))
    start = logp(read(given["model"]), temperature)
    result = go(given, tmp_path / "run", steps=2, checkpoint={"every": 1, "keep": 9})
    first, *others = lines(tmp_path / "run", "evals.jsonl")
    assert first["kl"] == {"value": 0.0, "low": 0.0, "high": 0.0, "prompts": 3}
    for row, metrics in zip(others, result.metrics, strict=True):
        own = logp(read(tmp_path / f"run/checkpoints/step-{row['step']}"), temperature)
        made = [r for r in samples(tmp_path / "run", "eval") if r["step"] == row["step"]]
        ratios = [
            [(own - start)[int(r["text"])] for r in made if r["group"] == n] for n in range(3)
        ]
        means = np.mean(ratios, axis=1)
        assert len({r["right"] for r in made}) == 2
        assert row["kl"]["value"] == pytest.approx(means.mean(), abs=1e-6)
        half = 4.30265 * means.std(ddof=1) / np.sqrt(3)  # Student, 2 degrees of freedom
        assert row["kl"]["high"] - row["kl"]["low"] == pytest.approx(2 * half, rel=1e-5)
        exact = float(np.exp(own) @ (own - start))
        assert exact > 0.01
        deviation = np.sqrt(np.exp(own) @ (own - start) ** 2 - exact**2)
        assert row["kl"]["value"] == pytest.approx(exact, abs=4 * deviation / np.sqrt(3 * 64))
        told = [metrics[f"kl_to_start{end}"] for end in ("", "_low", "_high")]
        assert told == [row["kl"][key] for key in ("value", "low", "high")]
        assert metrics["seconds"]["kl"] >= 0


def test_without_kl_to_the_start_it_says_why(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes_of(name: str, **more: Any) -> list[str]:
        listener = KillAt()
        config = from_dict({**given, "algorithm": "raft", "steps": 1, **more})
        run(config, out=tmp_path / name, observers=listener)
        assert [row["kl"] for row in lines(tmp_path / name, "evals.jsonl")] == [None, None]
        return [note for note in listener.notes if "KL" in note]

    (said,) = notes_of("truncated", sampling={"max_tokens": 4, "top_k": 3})
    assert "top-k or top-p" in said
    assert notes_of("none", eval={"size": 4, "kl_prompts": 0}) == []
    monkeypatch.setattr(Sampler, "capabilities", Capabilities(False, True, True))
    (said,) = notes_of("other")
    assert "'local' does not give the log-probs" in said


def test_a_folder_from_before_there_were_tests_is_resumed_without(
    given: dict[str, Any], tmp_path: Path
) -> None:
    """Its training prompts stay what they were."""
    evaluation = {"size": 4, "samples": 8, "every": 1, "patience": 2, "test_size": 0}
    result = go(given, tmp_path / "run", eval=evaluation)
    config = tmp_path / "run/config.toml"
    assert config.read_text().count("test_size = 0\n") == 1
    config.write_text(config.read_text().replace("test_size = 0\n", ""))
    rows = lines(tmp_path / "run", "evals.jsonl")
    assert run(resume=tmp_path / "run", observers=KillAt()) == result
    assert not result.tested
    assert lines(tmp_path / "run", "evals.jsonl") == rows


def test_every_sample_says_which_weights_sampled_it(given: dict[str, Any], tmp_path: Path) -> None:
    result = go(given, tmp_path / "run")
    version = {1: 0, **{row["step"] + 1: row["policy_version"] for row in result.metrics}}
    assert version[9] > 8
    for row in samples(tmp_path / "run"):
        assert row["policy_version"] == version[row["step"]]


@pytest.mark.parametrize(("phases", "said"), [(1, [None] * 2), (2, [1, 1, 2, 2])])
def test_metrics_number_phases_where_there_are_several(
    given: dict[str, Any], tmp_path: Path, phases: int, said: list[int | None]
) -> None:
    own = [{"algorithm": "rloo", "steps": 2}] * phases
    settings = {key: given[key] for key in given if key not in ("steps", "algorithm")}
    result = go({**settings, "phases": own}, tmp_path / "run")
    assert [row["phase"] for row in result.metrics] == said


def test_a_set_is_all_that_is_sampled_once(given: dict[str, Any], tmp_path: Path) -> None:
    """Self-normalised weights over every step's samples, as on the disk: n w / sum w."""
    config, listener = from_dict({**given, "algorithm": "snis", "steps": 4}), KillAt()
    run(config, out=tmp_path / "run", observers=listener)
    rows = samples(tmp_path / "run")
    assert len(rows) == 192
    weights = np.exp([row["reward"] / 0.5 for row in rows])
    got = np.array([row["advantage"] for row in rows])
    np.testing.assert_allclose(got, len(rows) * weights / weights.sum(), rtol=1e-12)
    means = [got[[row["step"] == step for row in rows]].mean() for step in (1, 2, 3, 4)]
    assert max(means) - min(means) > 0.05  # 1 each, if a step were a set
    (said,) = [note for note in listener.notes if note.startswith("softmax")]
    assert said.startswith("softmax(beta=0.5, over=set): 192 weights worth ")


class Notes(winnow.Observer):
    def __init__(self) -> None:
        self.found: list[str] = []

    def on_note(self, note) -> None:
        self.found.append(note.text)


@pytest.mark.parametrize("command", [winnow.train, winnow.sample, winnow.evaluate])
def test_prompts_that_are_one_text_are_said(given, tmp_path, command) -> None:
    """Two rows, one question to the model, two answers: whatever is sampled, one is wrong."""
    path = tmp_path / "same.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "5?", "answer": answer}) + "\n" for answer in "57")
    )
    heard = Notes()
    held_out = 2 if command is winnow.evaluate else 0
    settings = {**given, "prompts": str(path), "steps": 1, "eval": {"size": held_out}}
    command(**settings, out=tmp_path / "out", callbacks=[heard], quiet=True)
    (said,) = [note for note in heard.found if "only 1 to the model" in note]
    assert said.startswith("2 prompts are only 1 to the model, with different answers: '")


def test_what_a_file_has_samples_of_is_no_test(given: dict[str, Any], tmp_path: Path) -> None:
    """It was sampled with other settings, so of prompts that would have been set aside."""
    how = {key: given[key] for key in ("model", "prompts", "reward", "sampling")}
    source = {"source": given["prompts"], "limit": 5}
    pool = {**how, "prompts": source, "eval": {"size": 4}}
    config = from_dict({**pool, "samples_per_prompt": 6})
    run_sample(config, out=tmp_path / "pool", held_out=False, observers=KillAt())
    asked = {
        **{key: given[key] for key in ("model", "prompts", "reward", "minibatch_prompts")},
        "sampling": given["sampling"],
        "algorithm": {"name": "rft", "epochs": 3},
        "prompts_per_step": 3,
        "eval": {"size": 4, "samples": 8, "every": 1, "patience": 9},
        "samples_file": str(tmp_path / "pool"),
    }
    result = go(asked, tmp_path / "run")
    parts = [samples(tmp_path / "run", split) for split in ("eval", "test")]
    held_out, tested = ({row["prompt"] for row in rows} for rows in parts)
    files = (tmp_path / "pool").rglob("*.parquet")
    seen = {row["prompt"] for file in files for row in pq.read_table(file).to_pylist()}
    assert [len(held_out), len(seen), len(tested)] == [4, 5, 3]
    assert len(held_out | seen | tested) == 12
    assert result.tested
