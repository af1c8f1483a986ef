"""Every alarm is raised by a small run that has its disease, and by no run that is well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests import sick
from tests.kills import KillAt, Killed, lines
from tests.training.test_fake_engine import WITHOUT_TORCH
from winnow.algorithms.table import ALGORITHMS
from winnow.config.recipe import load_folder
from winnow.config.schema import from_dict
from winnow.reporting.alarms.history import PromptScores
from winnow.reporting.alarms.scores import scores_of
from winnow.reporting.alarms.table import ALARMS
from winnow.storage.run_folder import RunStore
from winnow.training import watching
from winnow.training.run import run
from winnow.training.setup import plan

OTHERS = {"eval": {"size": 8, "samples": 8, "every": 4}, "steps": 8, "checkpoint": {"every": 9}}


def raised(folder: Path) -> list[tuple[str, bool]]:
    return [(row["name"], row["cleared"]) for row in lines(folder, "alarms.jsonl")]


def by_step(early: Any, late: Any, begins: int) -> Any:
    return lambda group, sample, i: (late if group.step >= begins else early)(sample, i)


def entropy(sample, value):
    return replace(sample, entropies=(value,))


def case(name: str, tmp: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a run with a disease; its engine is in the local one's place."""
    given: dict[str, Any] = {**sick.SETTINGS, **sick.files(tmp)}
    sampled = learned = None
    if name == "no_signal":
        given |= sick.files(tmp, "x" * 16)
    elif name == "starving_prompts":  # half of them; the other half is 7
        given |= sick.files(tmp, "7x" * 4) | {"samples_per_prompt": 16}
    elif name == "nothing_kept":  # too few prompts for a share to say anything
        given |= sick.files(tmp, "x" * 16) | {"algorithm": "raft", "prompts_per_step": 2}
        given["alarms"] = {"window": 3}
    elif name == "one_prompt":
        given |= sick.files(tmp, "7" * 8)
        given |= {"reward": sick.Scores(lambda p, text: float(p == "0?" and text in "56789"))}
    elif name == "entropy_collapse":
        sampled = by_step(
            lambda s, i: entropy(s, 2.0), lambda s, i: entropy(sick.digit(s, 3), 2**-7), 5
        )
        given |= {"steps": 16, "alarms": {"window": 4}}
    elif name == "entropy_explosion":
        sampled = by_step(lambda s, i: entropy(s, 0.5), lambda s, i: entropy(s, 2.0), 5)
    elif name == "distinct_right":  # half are right all the time, by five digits and then by one
        given["reward"] = sick.Scores(lambda _, text: float(text in "56789"))
        spread = lambda s, i: sick.digit(s, (1, 5, 2, 6, 3, 7, 4, 8)[i % 8])  # noqa: E731
        sampled = by_step(spread, lambda s, i: sick.digit(s, (1, 7)[i % 2]), 5)
        given["alarms"] = {"window": 4}
    elif name == "cut_off":
        sampled = lambda group, s, i: replace(s, finish_reason="length")  # noqa: E731
    elif name == "verifier_errors":  # a quarter of the samples
        given["reward"] = sick.Scores(lambda _, text: None if text in "12" else float(text == "7"))
    elif name == "identical_samples":  # one digit of ten, whatever the seed
        sampled = lambda group, s, i: sick.digit(s, group.step % 10)  # noqa: E731
    elif name == "sampler_disagrees":
        sampled = lambda group, s, i: replace(  # noqa: E731
            s, logprobs=tuple(x - 0.4 for x in s.logprobs)
        )
    elif name == "retokenised":  # by whom these were sampled, each had two tokens
        sick.engine(patch)
        given = {**sick.SETTINGS, **sick.texts(tmp, given), "algorithm": "rft"}
    elif name in ("ratio", "ess", "kl_to_sampling_policy"):
        log_ratios = {
            "ratio": [1.5, -1.5] * 4,  # a mean of cosh 1.5 = 2.35
            "ess": [2.0] + [-2.0] * 7,  # (e^2 + 7 e^-2)^2 / 8 (e^4 + 7 e^-4) = 0.16
            "kl_to_sampling_policy": [1.0, -1.0] * 4,  # cosh 1 - 1 = 0.54
        }[name]
        learned = lambda stats, version: sick.off_policy(stats, log_ratios)  # noqa: E731
    elif name == "grad_norm":
        learned = lambda stats, version: replace(  # noqa: E731
            stats, grad_norm=100.0 if version == 8 else 1.0
        )
    elif name == "updates_skipped":  # every third; two in a row would end the run
        learned = lambda stats, version: sick.skipped(stats) if version % 3 == 0 else stats  # noqa: E731
    elif name in ("kl_to_start", "held_out_falls"):  # trained to say 3, where 7 is held out
        other = tmp / "held_out.jsonl"
        other.write_text(
            "".join(json.dumps({"prompt": f"{i}!", "answer": "7"}) + "\n" for i in range(40))
        )
        given |= sick.files(tmp, "3" * 16) | {"optimizer": {"lr": 2.0}}
        given["eval"] = {"source": str(other), "size": 40, "samples": 32, "every": 2}
        given["alarms"] = {"kl_to_start": 1.0}  # one of ten digits: ln 10 at most
    sick.engine(patch, sampled, learned)
    return given


@pytest.mark.parametrize("name", ALARMS)
def test_a_run_with_the_disease_raises_the_alarm(name, tmp_path, monkeypatch) -> None:
    given = case(name, tmp_path, monkeypatch)
    result = winnow.train(**given, out=tmp_path / "run", quiet=True)
    assert (name, False) in raised(result.folder)
    (row, *_) = (row for row in result.run.alarms if row["name"] == name)
    assert row["text"].endswith(".")
    assert row["advice"].endswith(".")
    assert "{" not in row["text"] + row["advice"]
    assert row["threshold"] == given.get("alarms", {}).get(name, ALARMS[name].threshold)


HEALTHY = [name for name in ALGORITHMS if name not in ("ppo", "gspo", "dapo", "iterative-dpo")]
"""Ten and one; the fake engine has no critic, and others differ in losses that it does not know."""


@pytest.mark.parametrize("name", HEALTHY)
def test_a_run_that_is_well_raises_none(name, tmp_path, monkeypatch) -> None:
    """From one right sample in ten to nearly all; offline from one in ten."""
    sick.engine(monkeypatch)
    given = {**sick.SETTINGS, **sick.files(tmp_path, "7" * 40), "optimizer": {"lr": 1.0}, **OTHERS}
    given |= {"algorithm": name, "samples_per_prompt": 16}
    result = winnow.train(**given, out=tmp_path / "run", quiet=True)
    assert raised(result.folder) == []
    assert not (result.folder / "alarms.jsonl").exists()
    assert len(result.metrics) >= 8


BROKEN = {
    "no_signal": {},
    "starving_prompts": {"checkpoint": {"every": 1, "keep": 20}},
    "entropy_collapse": {},
    "held_out_falls": {},
}


@pytest.mark.parametrize("name", BROKEN)
def test_killed_after_any_step_it_raises_the_same(name, tmp_path, monkeypatch) -> None:
    given = {**case(name, tmp_path, monkeypatch), **BROKEN[name]}
    config, listener = from_dict(given), KillAt()
    run(config, out=tmp_path / "whole", observers=listener)
    expected = lines(tmp_path / "whole", "alarms.jsonl")
    assert expected
    ends = [i for i, (stage, _) in enumerate(listener.heard, start=1) if stage == "checkpoint"]
    for at in ends[:-1]:
        broken = tmp_path / f"broken-{at}"
        with pytest.raises(Killed):
            run(config, out=broken, observers=KillAt(at))
        run(resume=broken, observers=KillAt())
        assert lines(broken, "alarms.jsonl") == expected


def test_a_phase_of_other_prompts_is_no_explosion_of_the_entropy(tmp_path, monkeypatch) -> None:
    """From 0.5 to 2 nats in the middle: within a phase, and as the second one begins."""
    sampled = by_step(lambda s, i: entropy(s, 0.5), lambda s, i: entropy(s, 2.0), 6)
    sick.engine(monkeypatch, sampled)
    given = {**sick.SETTINGS, **sick.files(tmp_path)}
    run(from_dict(given), out=tmp_path / "one", observers=KillAt())
    assert ("entropy_explosion", False) in raised(tmp_path / "one")
    phases = [{"algorithm": given.pop("algorithm"), "steps": given.pop("steps") // 2}] * 2
    run(from_dict({**given, "phases": phases}), out=tmp_path / "two", observers=KillAt())
    assert "entropy_explosion" not in [name for name, _ in raised(tmp_path / "two")]


class Heard(winnow.Observer):
    """The scores of the samples that were told of, by step."""

    def __init__(self) -> None:
        self.scores: dict[int, list[PromptScores]] = {}

    def on_samples(self, samples: winnow.SamplesScored) -> None:
        if samples.split == "train":
            self.scores[samples.step] = scores_of(samples.groups)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"algorithm": {"name": "gibbs", "epochs": 2}, "steps": 3},
        {"rounds": {"merge": 1}},
        {"phases": [{"algorithm": "rft", "steps": 2}, {"algorithm": "raft", "steps": 2}]},
    ],
    ids=["each step", "once, in passes that mix them", "merged", "phases"],
)
def test_the_files_say_what_was_told(more, tmp_path, monkeypatch) -> None:
    """Which prompts were new in which step, with labels, and their scores."""
    sick.engine(monkeypatch)
    files = sick.files(tmp_path, "7x" * 8, level=["easy", "hard"] * 8)
    files["prompts"] = {"source": files["prompts"], "difficulty_column": "level"}
    given = {**sick.SETTINGS, **files, "steps": 3, "samples_per_prompt": 4, **more}
    if "phases" in more:
        del given["steps"], given["algorithm"]
    heard = Heard()
    result = winnow.train(**given, out=tmp_path / "run", quiet=True, callbacks=[heard])
    phases = plan(load_folder(result.folder), resumed=True).phases
    read = watching._scores(RunStore(result.folder), phases)
    steps = [row["step"] for row in result.metrics]
    assert {step: found for step in steps if (found := read(step)) is not None} == heard.scores
    assert len(heard.scores) >= 3
    assert {one.difficulty for one in heard.scores[1]} == {"easy", "hard"}


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT_TORCH.replace("assert not done.code, (sys.argv, done.code)", "raise")
    return subprocess.run(
        [sys.executable, "-c", code, "|".join(("winnow", *words))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_alarm_that_stops_saves_the_run_which_can_be_resumed(tmp_path) -> None:
    """It does not stop it again: that alarm was raised, and is still on."""
    given = sick.files(tmp_path, "x" * 16)
    text = [f"{key} = {json.dumps(value)}" for key, value in given.items()]
    text += ['reward = "exact"', 'algorithm = "rloo"', "steps = 4", "prompts_per_step = 8"]
    text += ["eval.size = 0", "sampling.max_tokens = 4", 'alarms.stop = ["no_signal"]']
    (tmp_path / "recipe.toml").write_text("\n".join(text))
    done = command(tmp_path, "train", "recipe.toml", "--out", "run")
    assert done.returncode == 3, done.stderr
    said = " ".join(done.stdout.split())
    assert (
        said.count("8 of 8 prompts have the same reward on all their samples: 8 are all wrong") == 1
    )
    assert "ALARM no_signal: " in said
    assert "no update: " not in said  # the alarm says it
    assert "stopped by the alarm no_signal: 8 of 8 prompts" in " ".join(done.stderr.split())
    assert (tmp_path / "run/checkpoints/step-1/state.json").is_file()
    (row,) = lines(tmp_path / "run", "alarms.jsonl")
    assert (row["step"], row["stops"]) == (1, True)
    again = command(tmp_path, "train", "--resume", "run")
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in lines(tmp_path / "run", "metrics.jsonl")] == [1, 2, 3, 4]
    assert [row["name"] for row in lines(tmp_path / "run", "alarms.jsonl")] == [
        "no_signal", "nothing_kept"
    ]  # fmt: skip


def test_a_resumed_run_says_what_is_still_on(tmp_path, monkeypatch) -> None:
    """Causes first: all is cut off, so that all is wrong."""
    given = case("cut_off", tmp_path, monkeypatch) | sick.files(tmp_path, "x" * 16)
    listener = KillAt()
    run(from_dict(given), out=tmp_path / "whole", observers=listener)
    ends = [i for i, (stage, _) in enumerate(listener.heard, start=1) if stage == "checkpoint"]
    with pytest.raises(Killed):
        run(from_dict(given), out=tmp_path / "run", observers=KillAt(ends[-1]))
    run(resume=tmp_path / "run", observers=(told := KillAt()))
    assert [name for name, _ in raised(tmp_path / "run")][:2] == ["cut_off", "no_signal"]
    (said,) = (note for note in told.notes if note.startswith("alarms still on: "))
    assert "cut_off (since step 1), no_signal (since step 1)" in said


def test_a_threshold_may_change_where_a_run_is_resumed(tmp_path, monkeypatch) -> None:
    """An alarm that was off is raised by the next step; with more steps there is one."""
    given = {**case("no_signal", tmp_path, monkeypatch), "steps": 2}
    given["alarms"] = {"off": ["no_signal"]}
    folder = winnow.train(**given, out=tmp_path / "run", quiet=True).folder
    assert not (folder / "alarms.jsonl").exists()
    text = (folder / "config.toml").read_text()
    text = text.replace('off = [\n    "no_signal",\n]', "off = []").replace(
        "steps = 2", "steps = 3"
    )
    (folder / "config.toml").write_text(text)
    winnow.train(resume=folder, quiet=True)
    first = lines(folder, "alarms.jsonl")[0]
    assert (first["name"], first["step"]) == ("no_signal", 3)
