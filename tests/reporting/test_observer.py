"""Who is told what, in which order, and what an error in one of them does."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import winnow
from winnow.errors import Stopped, StoppedByAlarm, notes
from winnow.reporting.events import (
    Alarm,
    CheckpointSaved,
    Note,
    RunEnd,
    RunStart,
    SamplesScored,
    StageProgress,
    StepEnd,
)
from winnow.reporting.metrics import Evaluation
from winnow.reporting.metrics_file import MetricsFile
from winnow.reporting.observer import Observer, Observers
from winnow.reporting.terminal import Terminal, observing
from winnow.storage.run_folder import RunStore

START = RunStart(Path("runs/a"), "train")
RESULT = Evaluation(2, 0.5, 0.5, 0.4, 0.6, 8, 8, 0, {"easy": 0.5}, 1.0)
EVENTS = (
    ("on_start", START),
    ("on_samples", SamplesScored(2, "train", [])),
    ("on_evaluation", RESULT),
    ("on_step", StepEnd(2, {"step": 2})),
    ("on_checkpoint", CheckpointSaved(2, Path("runs/a/checkpoints/step-2"))),
    ("on_note", Note("look")),
    ("on_alarm", Alarm(2, "no_signal", "all prompts are all wrong")),
    ("on_progress", StageProgress("update", 0, 4)),
    ("on_end", RunEnd(Path("runs/a"), "done")),
)
EACH = pytest.mark.parametrize(("event", "payload"), EVENTS, ids=[event for event, _ in EVENTS])


class Hears(Observer):
    """Notes all that it hears as (its name, event, payload), and raises at one event."""

    def __init__(self, heard: list[Any], name: str = "", at: str = "", error: Any = None) -> None:
        self.heard, self.name, self.at, self.error = heard, name, at, error or ValueError("boom")

    def hear(self, event: str, payload: object) -> None:
        self.heard.append((self.name, event, payload))
        if event == self.at:
            raise self.error


for _event, _ in EVENTS:
    setattr(Hears, _event, lambda self, payload, event=_event: self.hear(event, payload))


def test_every_event_is_tested() -> None:
    assert {name for name in vars(Observer) if name.startswith("on_")} == {e for e, _ in EVENTS}


@EACH
def test_records_hear_first_then_ours_then_the_users(event, payload) -> None:
    heard: list[Any] = []
    one, two, three, four = (Hears(heard, name) for name in "1234")
    observers = Observers([two], [three, four])
    observers.records = [one]
    getattr(observers, event)(payload)
    assert heard == [(name, event, payload) for name in "1234"]
    assert getattr(Observer(), event)(payload) is None


def test_progress_and_notes_come_as_payloads() -> None:
    heard: list[Any] = []
    observers = Observers([Hears(heard)])
    observers.progress("update", 1, 4)
    observers.note("look")
    assert heard == [
        ("", "on_progress", StageProgress("update", 1, 4)),
        ("", "on_note", Note("look")),
    ]


def test_the_metrics_file_has_the_rows(tmp_path) -> None:
    record = MetricsFile(RunStore(tmp_path).append)
    record.on_step(StepEnd(1, {"step": 1, "loss": 0.25}))
    record.on_evaluation(RESULT)
    (row,) = RunStore(tmp_path).lines("metrics.jsonl")
    assert row == {"step": 1, "loss": 0.25}
    row = json.loads((tmp_path / "evals.jsonl").read_text())
    assert (row["step"], row["by_difficulty"], row["split"]) == (2, {"easy": 0.5}, "eval")


def test_a_record_that_is_not_written_is_an_error_before_anybody_else_hears(tmp_path) -> None:
    heard: list[Any] = []
    observers = Observers([Hears(heard)], [Hears(heard)])
    observers.records = [MetricsFile(RunStore(tmp_path).append)]
    with pytest.raises(ValueError, match=r"^metrics.jsonl: not finite: loss$"):
        observers.on_step(StepEnd(1, {"step": 1, "loss": float("nan")}))
    assert heard == []


@EACH
@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(1)], ids=["error", "exit"])
def test_a_terminal_that_raises_is_left_out_and_said_once(event, payload, error, capsys) -> None:
    heard: list[Any] = []
    observers = Observers([Hears(heard, "a", event, error), Hears(heard, "b")])
    for _ in range(2):
        getattr(observers, event)(payload)
    assert [name for name, *_ in heard] == ["a", "b", "b"][: 2 if event == "on_end" else 3]
    observers.check()
    out, said = capsys.readouterr()
    assert out == ""
    if isinstance(error, SystemExit):
        assert said == "winnow: the terminal is gone; the run continues without it\n"
        return
    assert said.startswith("winnow: Hears raised ValueError: boom (test_observer.py:")
    assert said.endswith("); it is left out\n")
    assert said.count("\n") == 1


@EACH
def test_a_callback_that_raises_ends_the_run_when_it_is_asked(event, payload) -> None:
    """The others hear all; nothing is raised before `check`."""
    heard: list[Any] = []
    observers = Observers((), [Hears(heard, "a", event), Hears(heard, "b")])
    observers.check()
    for _ in range(2):
        getattr(observers, event)(payload)
    assert [name for name, *_ in heard] == ["a", "b", "b"][: 2 if event == "on_end" else 3]
    with pytest.raises(winnow.UserError) as caught:
        observers.check()
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("callbacks: Hears raised ValueError: boom (test_observer")
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_line_is_the_innermost_of_the_users_own(tmp_path, monkeypatch) -> None:
    """Not that of json, which raises; nor the callback's, which calls the helper."""
    (tmp_path / "helper_of_mine.py").write_text(
        "import json\n\n\ndef write(row):\n    return json.dumps(row)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    class Writes(Observer):
        def on_note(self, note):
            from helper_of_mine import write

            write({"note": note})

    observers = Observers((), [Writes()])
    observers.note("look")
    with pytest.raises(winnow.UserError) as caught:
        observers.check()
    assert str(caught.value) == (
        "callbacks: Writes raised TypeError: Object of type Note is not JSON serializable "
        "(helper_of_mine.py:5); fix it or leave it out"
    )


def test_a_callback_with_another_signature_is_told_so() -> None:
    class Odd(Observer):
        def on_note(self):  # type: ignore[override]
            ...

    observers = Observers((), [Odd()])
    observers.note("look")
    with pytest.raises(winnow.UserError, match=r"Odd.on_note\(\) takes 1 .* given; fix") as caught:
        observers.check()
    assert "observer.py" not in str(caught.value)


def test_a_message_of_many_lines_is_one_and_the_second_callback_is_a_note() -> None:
    observers = Observers(
        (),
        [
            Hears([], at="on_note", error=ValueError("one\n  two")),
            Hears([], at="on_note", error=KeyError("k")),
        ],
    )
    observers.note("look")
    with pytest.raises(winnow.UserError, match=r"ValueError: one two \(") as caught:
        observers.check()
    (second,) = notes(caught.value)
    assert second.startswith("callbacks: Hears raised KeyError: 'k' (")


def ends(heard: list[Any]) -> list[tuple[str, str]]:
    return [(p.status, p.error) for _, event, p in heard if event == "on_end"]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (Stopped("stopped; resume"), ("stopped", "stopped; resume")),
        (KeyboardInterrupt(), ("stopped", "KeyboardInterrupt")),
        (winnow.WinnowError("not finite"), ("failed", "not finite")),
    ],
)
def test_an_end_is_told_however_it_comes(error, end) -> None:
    heard: list[Any] = []
    with pytest.raises(type(error)), Observers([Hears(heard)]).running(START):
        raise error
    assert [event for _, event, _ in heard] == ["on_start", "on_end"]
    assert ends(heard) == [end]


def test_what_the_block_tells_is_the_only_end() -> None:
    heard: list[Any] = []
    observers = Observers([Hears(heard)])
    with observers.running(START):
        observers.on_end(RunEnd(START.folder, "done"))
    assert ends(heard) == [("done", "")]


def test_a_callback_that_raises_at_the_end_is_raised_too() -> None:
    heard: list[Any] = []
    observers = Observers((), [Hears(heard, at="on_end"), Hears(heard)])
    with pytest.raises(winnow.UserError, match="boom"), observers.running(START):
        observers.done(RunEnd(START.folder, "done"))
    assert ends(heard) == [("done", ""), ("done", "")]


def test_what_is_raised_when_the_end_is_told_is_a_note() -> None:
    observers = Observers((), [Hears([], at="on_start"), Hears([], at="on_end", error=KeyError())])
    with pytest.raises(winnow.UserError, match="boom") as caught, observers.running(START):
        pass
    assert [note.split(" (")[0] for note in notes(caught.value)] == [
        "callbacks: Hears raised KeyError"
    ]
    error = Stopped("stopped")
    with pytest.raises(Stopped), Observers((), [Hears([], at="on_end")]).running(START):
        raise error
    assert [note.split(" (")[0] for note in notes(error)] == [
        "callbacks: Hears raised ValueError: boom"
    ]


def test_ctrl_c_in_a_callback_passes_through() -> None:
    heard: list[Any] = []
    observers = Observers((), [Hears(heard, at="on_step", error=KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt), observers.running(START):
        observers.on_step(StepEnd(1, {}))
    assert ends(heard) == [("stopped", "KeyboardInterrupt")]


def test_an_end_is_told_once_though_telling_it_is_interrupted() -> None:
    heard: list[Any] = []
    observers = Observers((), [Hears(heard), Hears([], at="on_end", error=KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt), observers.running(START):
        observers.done(RunEnd(START.folder, "done"))
    assert ends(heard) == [("done", "")]


def test_a_run_whose_callback_has_raised_is_not_done() -> None:
    heard: list[Any] = []
    observers = Observers((), [Hears([], at="on_note"), Hears(heard)])
    observers.note("the last thing")
    with pytest.raises(winnow.UserError, match="boom"):
        observers.done(RunEnd(START.folder, "done"))
    assert ends(heard) == []
    with pytest.raises(winnow.UserError, match="boom"), observers.running(START):
        pass
    ((status, error),) = ends(heard)
    assert status == "failed"
    assert error.startswith("callbacks: Hears raised ValueError: boom")


def test_a_callback_that_raised_is_not_lost_where_the_run_ends_otherwise() -> None:
    observers, error = Observers((), [Hears([], at="on_step")]), OSError("disk full")

    def dies() -> None:
        with observers.running(START):
            observers.on_step(StepEnd(1, {}))
            raise error

    with pytest.raises(OSError, match=r"^disk full"):
        dies()
    (note,) = notes(error)
    assert note.startswith("callbacks: Hears raised ValueError: boom (")


@pytest.mark.parametrize("given", [[print], print, [Observer], Observer(), "ab", [None], None])
def test_what_is_no_list_of_observers_is_refused(given) -> None:
    message = r"^callbacks: .* is not a list of observers; "
    with pytest.raises(winnow.UserError, match=message), observing(True, given):
        pass


def test_the_terminal_prints_the_summary_as_it_is() -> None:
    shown = io.StringIO()
    terminal = Terminal(Console(file=shown, highlight=False, markup=False, width=20))
    terminal.on_start(RunStart(Path("a"), "train", summary="[a] long line: 4 prompts\nb: a\n"))
    terminal.on_start(RunStart(Path("a"), "evaluate"))
    terminal.on_note(Note("note"))
    assert shown.getvalue() == "[a] long line: 4 prompts\nb: a\n\nnote\n"


def test_quiet_leaves_out_the_terminal(capsys) -> None:
    for quiet, said in ((True, ""), (False, "look\n")):
        heard: list[Any] = []
        with observing(quiet, [Hears(heard)]) as observers:
            observers.note("look")
        assert capsys.readouterr().out == said
        assert heard == [("", "on_note", Note("look"))]


def test_an_alarm_comes_after_what_caused_it_and_ends_the_run_only_where_it_is_to(tmp_path) -> None:
    heard: list[Any] = []
    observers = Observers([Hears(heard, "ours")], [Hears(heard, "theirs")])

    class Watcher(Observer):
        def on_step(self, step: StepEnd) -> None:
            observers.on_alarm(
                Alarm(step.step, "no_signal", "nothing to learn", stops=step.step == 2)
            )

    observers.records = [MetricsFile(RunStore(tmp_path).append)]
    observers.watchers = [Watcher()]
    said = r"no_signal: nothing to learn; .* --resume runs/a$"
    with pytest.raises(StoppedByAlarm, match=said), observers.running(START):  # noqa: PT012
        for step in (1, 2):
            observers.on_step(StepEnd(step, {"step": step}))
            assert observers.ending == (step == 2)
            observers.check()
    told = [(name, event) for name, event, _ in heard if event in ("on_step", "on_alarm")]
    each = [
        ("ours", "on_step"),
        ("theirs", "on_step"),
        ("ours", "on_alarm"),
        ("theirs", "on_alarm"),
    ]
    assert told == each * 2
    assert [end.status for _, event, end in heard if event == "on_end"] == ["stopped"] * 2
    rows = RunStore(tmp_path).lines("alarms.jsonl")
    assert [(row["step"], row["stops"]) for row in rows] == [(1, False), (2, True)]
    RunStore(tmp_path).rewind(1)
    assert RunStore(tmp_path).lines("alarms.jsonl") == rows[:1]
