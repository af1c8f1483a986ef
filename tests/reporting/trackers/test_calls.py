"""How each library is called, with small fakes in their places; the real ones: test_real.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.reporting.trackers.heard import installed
from winnow.reporting.events import Alarm, RunEnd, RunStart, SamplesScored, StageProgress, StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.trackers.base import Tracker
from winnow.reporting.trackers.tensorboard import markdown
from winnow.reporting.trackers.trackio import Trackio
from winnow.reporting.trackers.wandb import Wandb

ALARM = Alarm(2, "no_signal", "all are wrong.", "Do that.")


class Run:
    """A run of either library: keeps what it is called with, and prints as trackio does."""

    offline, url = True, "https://where"

    def __init__(self, calls: list[tuple[str, Any]], folder: Path) -> None:
        self.calls, self.summary = calls, {}
        self.settings = SimpleNamespace(wandb_dir=str(folder))

    def log(self, values: dict[str, Any], step: int, commit: bool | None = None) -> None:
        self.calls.append(("commit" if commit else "log", step, *values))

    def alert(self, *given: Any, **named: Any) -> None:
        print("ALERT")
        self.calls.append(("alert", *given, *named.values()))

    def finish(self, **how: Any) -> None:
        self.calls.append(("finish", how))


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What the libraries are called with."""
    found: list[tuple[str, Any]] = []
    run = Run(found, tmp_path)
    wandb, trackio = ModuleType("wandb"), ModuleType("trackio")

    def begun(**how: Any) -> Run:
        print("* Created new run")
        found.append(("init", how))
        return run

    def ended() -> None:
        print("* Run finished")
        run.finish()

    for module in (wandb, trackio):
        vars(module).update(init=begun, finish=ended, Table=lambda **table: table)
    vars(wandb).update(setup=lambda _: None, Settings=lambda **how: how)
    vars(trackio).update(AlertLevel=SimpleNamespace(WARN="warn"))
    installed(monkeypatch, wandb, trackio)
    (tmp_path / "environment.json").write_text("{}")
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return found


def told(tracker: Tracker, folder: Path, last: int = 2, resumed: int = 0) -> None:
    """A run of so many steps, two evaluations after each, an alarm in the second."""
    settings = {"steps": last}
    first = resumed + 1
    tracker.on_start(
        RunStart(folder, "train", settings, first_step=first, last_step=last, resumed=resumed > 0)
    )
    for step in range(first, last + 1):
        tracker.on_progress(StageProgress("sample", 0, 1))
        tracker.on_samples(SamplesScored(step, "eval", []))
        tracker.on_progress(StageProgress("kl", 0, 1))
        found = Evaluation(step, 0.5, 0.5, 0.4, 0.6, 8, 8, 0, {}, 1.0)
        tracker.on_evaluation(found)
        tracker.on_progress(StageProgress("evaluate", 0, 1))
        tracker.on_evaluation(replace(found, split="test"))
        tracker.on_step(StepEnd(step, {"step": step, "loss": 0.5, "time": "now"}))
        if step == ALARM.step:
            tracker.on_alarm(ALARM)
    tracker.on_end(RunEnd(folder, "done", before=0.25, after=0.5))


def began(calls: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [how for kind, how, *_ in calls if kind == "init"]


def test_wandb_is_offline_and_continues_the_same_run(calls, tmp_path, capsys) -> None:
    """A row is sent when nothing of its step can come any more; steps that were told are not."""
    told(Wandb(lambda _: None), tmp_path)
    first = list(calls)
    calls.clear()
    told(Wandb(lambda _: None), tmp_path, last=3, resumed=1)
    (one,), (two,) = began(first), began(calls)
    assert (one["mode"], one["resume"], one["project"]) == ("offline", "allow", "winnow")
    assert (one["name"], one["config"]) == (tmp_path.name, {"steps": 2})
    assert one["dir"] == tmp_path / "trackers"
    assert (one["id"], one["name"]) == (two["id"], two["name"])
    rows = [(kind, step) for kind, step, *_ in first if kind in ("log", "commit")]
    assert [*dict.fromkeys(rows)] == [("log", 1), ("commit", 1), ("log", 2)]
    assert {step for kind, step, *_ in calls if kind in ("log", "commit")} == {3}
    assert ("log", 2, "loss") in first
    assert ("alert", "alarm no_signal", "all are wrong. Do that.", "WARN") in first
    assert first[-1] == ("finish", {"exit_code": 0})


def test_wandb_follows_its_environment(calls, tmp_path, monkeypatch) -> None:
    for name, value in {"MODE": "online", "PROJECT": "mine", "NAME": "x", "DIR": "/w"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    said: list[str] = []
    tracker = Wandb(said.append)
    monkeypatch.setattr(Run, "offline", False)
    told(tracker, tmp_path)
    (how,) = began(calls)
    assert (how["mode"], how["project"], how["name"]) == ("online", "mine", "x")
    assert how["dir"] == "/w"
    assert said == ["wandb: https://where"]


def test_trackio_prints_nothing_and_continues_the_same_run(calls, tmp_path, capsys) -> None:
    said: list[str] = []
    told(Trackio(said.append), tmp_path)
    first = list(calls)
    calls.clear()
    told(Trackio(said.append), tmp_path, last=3, resumed=1)
    assert capsys.readouterr().out == ""
    (one,), (two,) = began(first), began(calls)
    assert one["name"].startswith(f"{tmp_path.name}-")
    assert (one["name"], one["project"], one["resume"]) == (two["name"], "winnow", "allow")
    assert said[0] == f"trackio: run {one['name']}; look at it with: trackio show --project winnow"
    assert {step for kind, step, *_ in calls if kind == "log"} == {3}
    assert ("alert", "alarm no_signal", "all are wrong. Do that.", "warn", 2) in first
    assert first[-2] == ("log", 2, "result/before", "result/after")
    assert first[-1] == ("finish", {})


def test_a_cell_cannot_break_its_table() -> None:
    text = markdown(("a", "b"), [("x | y\nz *b* <i>", None), (1.5, True)])
    assert text.splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| x &#124; y<br>z &#42;b&#42; &#60;i&#62; |  |",
        "| 1.5 | True |",
    ]
