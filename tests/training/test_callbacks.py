"""Callbacks of the user's in whole runs of the tiny model."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests import kills, tiny
from tests.kills import FIRST
from winnow.reporting.observer import Observers
from winnow.storage.run_folder import RunStore
from winnow.training.run import run

ROWS = tiny.problems()


class Tracker(winnow.Observer):
    """Notes what it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_start(self, start):
        self.heard.append(start)

    on_step = on_evaluation = on_checkpoint = on_note = on_end = on_start


class Raises(Tracker):
    """Raises at the first event for which `when` holds."""

    def __init__(self, when: Any) -> None:
        super().__init__()
        self.when = when

    def on_start(self, start):
        super().on_start(start)
        if self.when(start):
            raise RuntimeError("the tracker is away")

    on_step = on_evaluation = on_checkpoint = on_note = on_end = on_progress = on_start


def shape(event: Any) -> tuple[str, Any]:
    about = {"RunStart": "command", "RunEnd": "status", "Note": "text"}
    kind = type(event).__name__
    return kind, getattr(event, about.get(kind, "step"))


def test_a_run_is_told_in_order(tiny_model, tmp_path) -> None:
    config = kills.config(
        tiny_model, tmp_path, eval={"size": 5, "every": 2}, checkpoint={"every": 2, "keep": 9}
    )
    tracker = Tracker()
    observers = Observers((), [tracker])
    result = run(config, out=tmp_path / "run", observers=observers, reward=FIRST)
    assert [shape(event) for event in tracker.heard] == [
        ("RunStart", "train"),
        ("Note", tracker.heard[1].text),
        ("Evaluation", 0),
        ("StepEnd", 1),
        ("Evaluation", 2),
        ("StepEnd", 2),
        ("CheckpointSaved", 2),
        ("Evaluation", 3),
        ("StepEnd", 3),
        ("CheckpointSaved", 3),
        ("RunEnd", "done"),
    ]
    assert tracker.heard[1].text.startswith("disk: up to ")
    start, end = tracker.heard[0], tracker.heard[-1]
    assert (start.first_step, start.last_step, start.resumed) == (1, 3, False)
    assert json.loads(json.dumps(start.settings)) == tomllib.loads(
        (tmp_path / "run/config.toml").read_text()
    )
    assert start.summary.endswith(f"\nrun folder: {tmp_path / 'run'}\n")
    assert [event.folder for event in tracker.heard if shape(event)[0] == "CheckpointSaved"] == [
        tmp_path / "run/checkpoints" / name for name in ("step-2", "step-3")
    ]
    assert [e.metrics for e in tracker.heard if shape(e)[0] == "StepEnd"] == result.metrics
    told = [asdict(e) for e in tracker.heard if shape(e)[0] == "Evaluation"]
    assert told == RunStore(tmp_path / "run").lines("evals.jsonl")
    when = [e["time"] for e in (*told, *result.metrics)]
    assert all(re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}\.\d{3}Z", each) for each in when)
    assert (end.checkpoint, end.before, end.after) == (
        tmp_path / "run/checkpoints/step-3", result.before, result.after,
    )  # fmt: skip
    assert (end.gain, end.gain_low, end.gain_high) == (
        result.gain, result.gain_low, result.gain_high,
    )  # fmt: skip
    assert end.gain == pytest.approx(end.after - end.before)
    assert end.gain_low <= end.gain <= end.gain_high

    again = Tracker()
    run(resume=tmp_path / "run", observers=Observers((), [again]), reward=FIRST)
    over = "all 3 steps are done, so nothing is trained; for more, raise steps in"
    assert [shape(event) for event in again.heard] == [
        ("RunStart", "train"),
        ("Note", f"{over} {tmp_path / 'run/config.toml'}"),
        ("RunEnd", "done"),
    ]
    assert (again.heard[0].first_step, again.heard[0].resumed) == (4, True)


def is_step(number: int) -> Any:
    return lambda event: isinstance(event, winnow.StepEnd) and event.step == number


def evaluated(step: int) -> Any:
    return lambda event: isinstance(event, winnow.Evaluation) and event.step == step


class Update(Raises):
    """Raises in the first update of the second step."""

    def __init__(self) -> None:
        super().__init__(lambda event: self.seen == 2)
        self.seen = 0

    def on_progress(self, progress):
        self.seen += progress.stage == "update" and progress.done == 0
        self.on_start(progress)


@pytest.mark.parametrize(
    ("callback", "saved", "evaluated_at"),
    [
        (lambda: Raises(is_step(2)), 2, [0, 2]),
        (lambda: Raises(evaluated(2)), 2, [0, 2]),
        (Update, 2, [0, 2]),
        (lambda: Raises(lambda event: isinstance(event, winnow.CheckpointSaved)), 3, [0, 2]),
        (lambda: Raises(evaluated(0)), 0, [0]),
        (lambda: Raises(lambda event: isinstance(event, winnow.StageProgress)), 0, []),
    ],
    ids=["step", "evaluation", "update", "checkpoint", "first evaluation", "loading"],
)
def test_what_a_callback_ends_is_saved_and_goes_on(
    tiny_model, tmp_path, callback, saved, evaluated_at
) -> None:
    """To the end of the run that nothing broke, bit by bit."""
    config = kills.config(
        tiny_model, tmp_path, steps=4,
        eval={"size": 5, "every": 2}, checkpoint={"every": 3, "keep": 1},
    )  # fmt: skip
    whole = run(config, out=tmp_path / "whole", observers=Observers(), reward=FIRST)
    broken, other = tmp_path / "broken", Tracker()
    with pytest.raises(winnow.UserError) as caught:
        run(config, out=broken, observers=Observers((), [callback(), other]), reward=FIRST)
    assert caught.value.exit_code == 2
    line = next(
        number
        for number, text in enumerate(Path(__file__).read_text().splitlines(), start=1)
        if "raise RuntimeError(" in text
    )
    name = type(callback()).__name__
    assert str(caught.value) == (
        f"callbacks: {name} raised RuntimeError: the tracker is away (test_callbacks.py:{line}); "
        f"fix it or leave it out, and resume: winnow.train(resume='{broken}')"
    )
    assert [row["step"] for row in kills.lines(broken, "metrics.jsonl")] == [1, 2, 3][:saved]
    assert [row["step"] for row in kills.lines(broken, "evals.jsonl")] == evaluated_at
    found = sorted(path.name for path in (broken / "checkpoints").iterdir())
    assert found == ([f"step-{saved}"] if saved else [])
    assert shape(other.heard[-1]) == ("RunEnd", "failed")
    assert other.heard[-1].error == str(caught.value)

    again = Tracker()
    run(resume=broken, observers=Observers((), [again]), reward=FIRST)
    assert (again.heard[0].first_step, again.heard[0].last_step) == (saved + 1, 4)
    kills.check_same(whole.folder, broken)


def given(model: Path, out: Path, size: int = 0) -> dict[str, Any]:
    return {
        "model": str(model), "prompts": ROWS[:4], "reward": "exact", "out": out, "quiet": True,
        "sampling": {"max_tokens": 2}, "eval": {"size": size},
    }  # fmt: skip


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_before_anything_is_done_nothing_is_left(command, tiny_model, tmp_path) -> None:
    callbacks: list[Any]
    for callbacks, message in (
        ([print], r"^callbacks: \[<built-in function print>\] is not a list of observers; "),
        ([Raises(lambda _: True)], r"^callbacks: Raises raised .*; fix it or leave it out$"),
    ):
        settings = given(tiny_model, tmp_path / "run", int(command == "evaluate"))
        with pytest.raises(winnow.UserError, match=message):
            getattr(winnow, command)(**settings, callbacks=callbacks)
        assert list(tmp_path.iterdir()) == []


def test_sampling_is_told_and_goes_on(tiny_model, tmp_path) -> None:
    settings = given(tiny_model, tmp_path / "samples")
    ended = Raises(lambda event: event == winnow.StageProgress("sample", 6, 12))
    with pytest.raises(winnow.UserError, match=r"resume: winnow\.sample\(resume='.*samples'\)$"):
        winnow.sample(**settings, n=3, callbacks=[ended])
    tracker = Tracker()
    result = winnow.sample(resume=tmp_path / "samples", callbacks=[tracker], quiet=True)
    assert (result.sampled.found, result.sampled.made) == (6, 6)
    start, end = tracker.heard
    assert (start.command, start.resumed, start.first_step, start.last_step) == (
        "sample", True, 0, 0,
    )  # fmt: skip
    assert start.summary == f"4 prompts x 3 samples of {tiny_model} -> {tmp_path / 'samples'}"
    assert start.settings["samples_per_prompt"] == 3
    assert (end.status, end.folder, end.checkpoint) == ("done", tmp_path / "samples", None)


def test_an_evaluation_is_told(tiny_model, tmp_path) -> None:
    tracker = Tracker()
    result = winnow.evaluate(**given(tiny_model, tmp_path / "tried", 4), callbacks=[tracker])
    assert [shape(event) for event in tracker.heard] == [
        ("RunStart", "evaluate"), ("Evaluation", 0), ("RunEnd", "done"),
    ]  # fmt: skip
    assert tracker.heard[1] == result
    (row,) = kills.lines(tmp_path / "tried", "evals.jsonl")
    assert (row["accuracy"], row["prompts"]) == (result.accuracy, 4)
    with pytest.raises(winnow.UserError, match=r"fix it or leave it out$"):
        winnow.evaluate(
            **given(tiny_model, tmp_path / "other", 4), callbacks=[Raises(evaluated(0))]
        )
    assert len(kills.lines(tmp_path / "other", "evals.jsonl")) == 1
