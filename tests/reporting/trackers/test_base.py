"""What trackers are told of a run, and when: against the files of its folder."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.kills import Killed, check_same, samples
from tests.reporting.trackers.heard import Forgets, evaluations_of, heard, metrics_of
from tests.training.faked import settings
from tests.training.test_resuming import KillIn
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.reporting.events import Alarm, Note, RunEnd, RunStart, SamplesScored, StepEnd
from winnow.reporting.observer import Observers
from winnow.reporting.trackers.factory import check_trackers, make_trackers
from winnow.reporting.trackers.rows import COLUMNS, MOST, cut, of_samples
from winnow.training.run import run
from winnow.types import Group, Prompt, Sample, Score

TRACKED = {"trackers": ["trackio"], "eval": {"size": 4, "samples": 8, "every": 1}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {**settings(tmp_path, monkeypatch), **TRACKED}


def killed(fake: dict[str, Any], out: Path) -> None:
    """In step 4: the checkpoint is that of step 2, and step 3 is logged."""
    with pytest.raises(Killed):
        run(from_dict(fake), out=out, observers=KillIn("update", 4))


def by_step(*trackers: Any) -> dict[int, dict[str, float]]:
    """All numbers by step; each name once a step."""
    found: dict[int, dict[str, float]] = {}
    for tracker in trackers:
        for step, values in tracker.of("scalars"):
            own = found.setdefault(step, {})
            assert not own.keys() & values.keys(), (step, own.keys() & values.keys())
            own.update(values)
    return found


def expected(folder: Path) -> dict[int, dict[str, float]]:
    found = {step: dict(values) for step, values in evaluations_of(folder).items()}
    for step, values in metrics_of(folder).items():
        found.setdefault(step, {}).update(values)
    return found


def steady(values: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """Without what a clock or the operating system says."""
    return {
        step: {k: v for k, v in own.items() if "seconds" not in k and "memory" not in k}
        for step, own in values.items()
    }


def test_a_run_is_told_as_its_files_have_it(fake, tmp_path, monkeypatch) -> None:
    made = heard(monkeypatch)
    result = run(from_dict(fake), out=tmp_path / "run", observers=Observers())
    (tracker,) = made
    assert by_step(tracker) == expected(result.folder)
    assert "seconds/update" in by_step(tracker)[1]
    assert "eval/pass_at_k/8/value" in by_step(tracker)[0]
    ((start, record, new),) = tracker.of("begin")
    config = tomllib.loads((result.folder / "config.toml").read_text())
    assert json.loads(json.dumps(start.settings)) == config
    assert (record.name, record.project, new) == ("run", "winnow", True)
    ((end, last, told),) = tracker.of("finish")
    assert (end.status, last) == ("done", 4)
    assert told["result/before"] == result.before
    assert told["result/gain_low"] == result.gain_low
    assert tracker.calls[0][0] == "begin"
    assert tracker.calls[-1][0] == "finish"


def test_the_table_has_the_samples_of_the_evaluation(fake, tmp_path, monkeypatch) -> None:
    made = heard(monkeypatch)
    run(from_dict(fake), out=tmp_path / "run", observers=Observers())
    tables = {at: (columns, rows) for at, name, columns, rows in made[0].of("table") if "c" in name}
    stored = samples(tmp_path / "run", "eval")
    assert tables.keys() == {0, 1, 2, 3, 4}
    for step, (columns, rows) in tables.items():
        assert columns == COLUMNS
        own = [row for row in stored if row["step"] == step]
        own.sort(key=lambda row: (row["sample"], row["group"]))  # the first of each prompt first
        names = ("prompt", "text", "answer", "reward", "right", "finish_reason")
        assert rows == [tuple(row[name] for name in names) for row in own]


def test_a_table_is_bounded_and_a_failed_score_is_none() -> None:
    def group(number: int) -> Group:
        texts = ("x" * 5000, f"{number}b")
        made = tuple(Sample((1,), (0.0,), text, "length") for text in texts)
        scores = (Score.failed("broke"), Score(1.0))
        return Group(Prompt(str(number), f"{number}?"), (1,), made, scores)

    told = of_samples([group(number) for number in range(MOST - 2)])
    assert len(told) == MOST
    assert told[0] == ("0?", cut("x" * 5000), None, None, False, "length")
    assert told[-1] == ("1?", "1b", None, 1.0, True, "length")
    assert cut("x" * 5000) == "x" * 2000 + " [... 3000 more characters]"
    assert cut("x" * 2000) == "x" * 2000


def test_a_resumed_run_is_told_each_step_once(fake, tmp_path, monkeypatch) -> None:
    """Step 3 was told and is made again: the same as before, bit for bit."""
    made = heard(monkeypatch)
    run(from_dict(fake), out=tmp_path / "whole", observers=Observers())
    whole = made.pop()
    killed(fake, tmp_path / "run")
    run(resume=tmp_path / "run", observers=Observers())
    first, second = made
    assert steady(by_step(first, second)) == steady(by_step(whole))
    assert {step for step, _ in first.of("scalars")} == {0, 1, 2, 3}
    assert {step for step, _ in second.of("scalars")} == {4}
    assert [[new for *_, new in each.of("begin")] for each in made] == [[True], [False]]
    ids = {record.id for each in (*made, whole) for _, record, _ in each.of("begin")}
    assert len(ids) == 2
    assert [at for at, name, *_ in second.of("table") if name == "eval/completions"] == [4]


def test_one_that_forgets_is_told_again_from_the_resume_on(fake, tmp_path, monkeypatch) -> None:
    made = heard(monkeypatch, Forgets)
    killed(fake, tmp_path / "run")
    run(resume=tmp_path / "run", observers=Observers())
    assert {step for step, _ in made[1].of("scalars")} == {3, 4}
    ((start, _, _),) = made[1].of("begin")
    assert start.first_step == 3


def test_a_run_that_was_done_is_not_opened_again(fake, tmp_path, monkeypatch) -> None:
    made = heard(monkeypatch)
    run(from_dict(fake), out=tmp_path / "run", observers=Observers())
    run(resume=tmp_path / "run", observers=Observers())
    assert made[0].of("finish")
    assert made[1].calls == []


def test_what_a_kill_cuts_off_is_not_told_twice(fake, tmp_path, monkeypatch) -> None:
    """The kill comes when the step is noted down, and perhaps told."""
    made = heard(monkeypatch)

    class Dies(Observers):
        def on_step(self, step: StepEnd) -> None:
            if step.step == 3 and made[0].raises is None:
                made[0].raises = ("scalars", Killed())
            super().on_step(step)

    with pytest.raises(Killed):
        run(from_dict(fake), out=tmp_path / "run", observers=Dies())
    run(resume=tmp_path / "run", observers=Observers())
    assert [step for step, row in made[1].of("scalars") if "reward_mean" in row] == [4]


def test_one_that_raises_is_left_out_and_changes_nothing(
    fake, tmp_path, monkeypatch, capsys
) -> None:
    made = heard(monkeypatch)
    plain = run(from_dict({**fake, "trackers": []}), out=tmp_path / "plain", observers=Observers())

    class Fails(Observers):
        def on_step(self, step: StepEnd) -> None:
            made[0].raises = ("scalars", BrokenPipeError("it is away"))
            super().on_step(step)

    failed = run(from_dict(fake), out=tmp_path / "failed", observers=Fails())
    check_same(plain.folder, failed.folder)
    assert [step for step, _ in made[0].of("scalars")] == [0, 1]  # the evaluations so far
    said = capsys.readouterr().err
    assert said.startswith(
        "winnow: the tracker trackio raised BrokenPipeError: it is away (heard.py:"
    )
    assert said.endswith("); the run continues without it\n")
    assert said.count("\n") == 1


def test_one_that_cannot_begin_leaves_the_run_alone(fake, tmp_path, monkeypatch, capsys) -> None:
    made = heard(monkeypatch)

    class Fails(Observers):
        def on_start(self, start: RunStart) -> None:
            made[0].raises = ("begin", RuntimeError("no key"))
            super().on_start(start)

    assert run(from_dict(fake), out=tmp_path / "run", observers=Fails()).metrics
    assert capsys.readouterr().err.count("the tracker trackio raised RuntimeError: no key") == 1
    assert not (tmp_path / "run" / "trackers" / "trackio.json").exists()


def test_alarms_and_notes(tmp_path, monkeypatch) -> None:
    made = heard(monkeypatch)
    (tmp_path / "environment.json").write_text("{}")
    said: list[str] = []
    (tracker,) = make_trackers(["trackio"], said.append).values()
    start = RunStart(tmp_path, "train", first_step=1, last_step=9)
    alarm = Alarm(3, "no_signal", "all prompts are wrong.", "Raise the temperature.")
    events: list[tuple[str, Any]] = [
        ("on_start", start),
        ("on_note", Note("look")),
        ("on_alarm", alarm),
        ("on_alarm", Alarm(5, "no_signal", "some are right.", cleared=True)),
        ("on_end", RunEnd(tmp_path, "stopped")),
    ]
    for event, payload in events:
        getattr(tracker, event)(payload)
    (heard_all,) = made
    assert said == ["trackio: somewhere"]
    assert heard_all.of("scalars") == [
        (3, {"alarms/no_signal": 1}),
        (5, {"alarms/no_signal": 0}),
    ]
    assert heard_all.of("alert") == [(alarm,)]
    assert heard_all.of("table")[-1] == (
        5,
        "notes",
        ("step", "note"),
        [
            (0, "look"),
            (3, "alarm no_signal: all prompts are wrong. Raise the temperature."),
            (5, "alarm no_signal has cleared: some are right."),
        ],
    )
    ((end, _, result),) = heard_all.of("finish")
    assert (end.status, result) == ("stopped", {})


def test_a_run_that_ends_before_it_begins_leaves_nothing(tmp_path, monkeypatch) -> None:
    made = heard(monkeypatch)
    (tracker,) = make_trackers(["trackio"], print).values()
    tracker.on_start(RunStart(tmp_path, "train"))
    tracker.on_note(Note("look"))
    tracker.on_samples(SamplesScored(1, "train", []))
    tracker.on_end(RunEnd(tmp_path, "failed"))
    assert made[0].calls == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["tensorbord"],
            "trackers.0: unknown tracker 'tensorbord'; use 'tensorboard', 'trackio' or 'wandb'",
        ),
        (["wandb", "wandb"], "trackers: a tracker is named twice (got ['wandb', 'wandb'])"),
        ({"a": 1}, "trackers: "),
    ],
)
def test_names_that_are_refused(given, said) -> None:
    with pytest.raises(UserError) as caught:
        from_dict({"trackers": given})
    assert str(caught.value).startswith(said)


def test_one_name_is_a_list_of_one() -> None:
    assert from_dict({"trackers": "wandb"}).trackers == ["wandb"]


def test_a_library_that_is_missing_is_said_before_the_run(fake, tmp_path, monkeypatch) -> None:
    """A folder of its name, such as wandb makes, is no library."""
    name = "wandb"
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / name).mkdir()
    remedy = "pip install '.[trackers]' in your clone of Winnow, or leave 'wandb' out"
    with pytest.raises(UserError) as caught:
        check_trackers([name])
    assert str(caught.value) == f"trackers: wandb is not installed; {remedy}"


def test_a_run_with_a_missing_library_does_not_begin(fake, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("winnow.reporting.trackers.factory.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^trackers: trackio is not installed; "):
        run(from_dict(fake), out=tmp_path / "run", observers=Observers())
    assert not (tmp_path / "run").exists()


def test_trackers_may_be_changed_when_a_run_is_resumed(fake, tmp_path, monkeypatch) -> None:
    made = heard(monkeypatch)
    killed({**fake, "trackers": []}, tmp_path / "run")
    path = tmp_path / "run" / "config.toml"
    path.write_text(path.read_text().replace("trackers = []", 'trackers = ["trackio"]'))
    run(resume=tmp_path / "run", observers=Observers())
    assert {step for step, _ in made[0].of("scalars")} == {3, 4}
