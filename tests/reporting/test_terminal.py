"""What the terminal says of a run, by a clock that the test moves."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from winnow.reporting.console import Console
from winnow.reporting.events import Note, RunEnd, RunStart, StageProgress, StepEnd
from winnow.reporting.forecast import Forecast, duration
from winnow.reporting.metrics import Evaluation, step_metrics
from winnow.reporting.standing import Standing
from winnow.reporting.step_table import StepTable
from winnow.reporting.terminal import Terminal
from winnow.types import Batch

SECONDS = {"sample": 2.0, "score": 1.0, "update": 3.0, "evaluate": 0.0, "kl": 0.0, "checkpoint": 0}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def row(step: int = 1, **changes: Any) -> dict[str, Any]:
    """A step's metrics, of a run without a reference."""
    made = step_metrics(
        step=step,
        policy_version=step,
        batch=Batch([], True),
        updates=[],
        empty_minibatches=0,
        seconds=SECONDS,
        evaluation=None,
    )
    values = {"reward_mean": 0.5, "loss": 0.69314, "lr": 1e-5, "grad_norm": 2.0, "entropy": 0.25}
    return {**made, **values, "elapsed": "1:00", "left": "2:00", **changes}


def shown(*rows: dict[str, Any], offline: bool = False, width: int | None = None) -> list[str]:
    table = StepTable()
    pairs = [table.lines(each, offline=offline, width=width) for each in rows]
    return [line for pair in pairs for line in pair if line is not None]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize("width", [20, 40, 80, 100, 120, 200])
def test_a_wider_terminal_shows_more_and_nothing_is_cut(offline: bool, width: int) -> None:
    big = {"samples": 65536, "samples_trained": 65536, "tokens_trained": 10**9, "ess": 0.5}
    lines = shown(row(**big), offline=offline, width=width)
    assert max(map(len, lines)) <= width
    everything = shown(row(**big), offline=offline)
    assert set(lines[0].split()) <= set(everything[0].split())
    assert set(lines[1].split()) <= set(everything[1].split())
    assert lines[0].split()[0] == "step"
    if width >= 80:
        assert "65536/65536" in lines[1]


def test_what_80_columns_show() -> None:
    (heading, _) = shown(row(ess=1.0, clip_fraction=0.0, kl_to_reference=0.0), width=80)
    assert heading.split() == [
        *("step", "reward", "trained", "wrong/mix/right", "cut", "eff", "entropy"),
        *("clip", "kl", "grad", "secs"),
    ]  # fmt: skip


def test_offline_rows_show_loss_and_learning_rate() -> None:
    """Their rewards, entropies and sampled tokens are those of the file at every step."""
    heading, line = shown(row(), offline=True)
    assert not {"reward", "entropy", "sampled", "wrong/mix/right", "margin"} & set(heading.split())
    cells = dict(zip(heading.split(), line.split(), strict=False))
    assert (cells["loss"], cells["lr"]) == ("0.6931", "1e-05")
    heading, line = shown(row(preference_margin=0.125, preference_accuracy=0.75), offline=True)
    assert "0.125" in line
    assert "75.0%" in line


def test_headings_come_again_where_columns_change() -> None:
    rows = [row(n) for n in range(1, 22)]
    assert len(shown(*rows)) == 21 + 2  # at the start and after 20 lines
    assert len(shown(row(1), row(2), row(3, kl_to_reference=0.5), row(4))) == 4 + 2
    table = StepTable()
    assert table.lines(row(1), offline=False, width=80)[0]
    assert table.lines(row(2), offline=False, width=80)[0] is None
    assert table.lines(row(3), offline=True, width=80)[0]
    assert table.lines(row(4), offline=True, width=60)[0]
    assert table.lines(row(5, samples=10**12), offline=True, width=60)[0]


def test_what_is_left_counts_phases_and_cycles() -> None:
    """a: 3 steps of 10 s, b: 2 of 100 s, twice; an evaluation of 7 s after each of 4 phases."""
    cycles = [("a", 3), ("b", 5), ("a", 8), ("b", 10)]
    forecast = Forecast(cycles)
    assert forecast.left(0) is None
    forecast.evaluated(7.0)
    forecast.step(1, {"update": 10.0})
    # b is taken to be like a: 9 steps of 10 s, 4 evaluations
    assert forecast.left(1) == pytest.approx(9 * 10 + 4 * 7)
    forecast.step(2, {"update": 10.0})
    forecast.step(3, {"update": 10.0, "evaluate": 5.0, "kl": 2.0})
    forecast.step(4, {"update": 100.0})
    assert forecast.left(4) == pytest.approx(100 + 3 * 10 + 2 * 100 + 3 * 7)
    forecast.step(10, {"update": 100.0})
    assert forecast.left(10) == 0.0


def test_one_slow_step_does_not_change_what_is_left() -> None:
    forecast = Forecast([("", 100)], every=4)
    for step in range(1, 8):
        forecast.step(step, {"sample": 2.0, "evaluate": 3.0 * (step == 4)})
    before = forecast.left(7)
    # 93 steps; evaluations after 8, 12, ... 100: 24
    assert before == pytest.approx(93 * 2 + 24 * 3)
    forecast.step(8, {"sample": 3600.0, "evaluate": 3.0})
    assert forecast.left(8) == pytest.approx(before - 2 - 3)
    odd = Forecast([("", 10)], every=4)
    odd.step(1, {"sample": 2.0})
    odd.evaluated(3.0)
    assert odd.left(1) == pytest.approx(9 * 2 + 3 * 3)  # evaluations after 4, 8 and the last


def test_durations() -> None:
    seconds = (0, 42.4, 187, 3723, 2 * 86400 + 3 * 3600)
    assert [duration(s) for s in seconds] == ["0:00", "0:42", "3:07", "1:02:03", "2 d 3:00:00"]


def terminal(clock: Clock, **how: Any) -> tuple[Terminal, io.StringIO]:
    file = io.StringIO()
    return Terminal(Console(file=file, highlight=False, markup=False, **how), clock), file


START = RunStart(Path("a"), "train", {"eval": {"size": 8, "every": 0}}, first_step=1, last_step=3)


def test_a_file_hears_of_each_stage_once_and_then_every_half_minute() -> None:
    clock = Clock()
    observer, file = terminal(clock)
    observer.on_start(START)
    observer.on_progress(StageProgress("load model", 0, 1))
    clock.now += 5
    for done in range(3):
        observer.on_progress(StageProgress("sample", done, 16))
    for _ in range(24):  # two minutes in which no event comes
        clock.now += 5
        observer.beat()
    observer.on_step(StepEnd(1, row(seconds={**SECONDS, "sample": 120.0})))
    clock.now += 29
    observer.on_progress(StageProgress("sample", 3, 16))
    lines = file.getvalue().splitlines()
    assert lines[:6] == [
        "step 0/3: loading the model (0:00)",
        "step 1/3: sampling 0/16 (0:05)",
        *(f"step 1/3: sampling 2/16 ({at})" for at in ("0:35", "1:05", "1:35", "2:05")),
    ]
    assert len(lines) == 8  # and headings and line of the step
    clock.now += 1
    observer.beat()
    # two steps of 120 + 1 + 3 s, less the second since the next has begun
    assert file.getvalue().splitlines()[8] == "step 2/3: sampling 3/16 (2:35, about 4:07 left)"
    observer.on_end(RunEnd(Path("a"), "done"))
    assert file.getvalue().splitlines()[9:] == ["1 step in 2:35"]
    assert "\x1b" not in file.getvalue()


def test_accuracies_by_difficulty_are_broken_at_words_below_their_step() -> None:
    observer, file = terminal(Clock(), force_terminal=True, width=60, color_system=None)
    observer.on_start(START)
    rates = {f"a kind of number {number}": number / 10 for number in range(9)}
    observer.on_step(StepEnd(1, row(success_by_difficulty=rates)))
    first, *rest = file.getvalue().splitlines()[2:]
    assert first.startswith("      a kind of number 0: 0%  a")
    assert len(rest) > 2
    assert all(line.startswith(" " * 8) and not line.startswith(" " * 9) for line in rest)
    assert max(map(len, [first, *rest])) <= 60
    told = " ".join(" ".join([first, *rest]).split())
    assert told == " ".join(f"{label}: {rate:.0%}" for label, rate in rates.items())


def test_other_commands_say_something_only_when_they_take_long() -> None:
    clock = Clock()
    observer, file = terminal(clock)
    observer.on_progress(StageProgress("select", 0, 100))
    clock.now += 20
    observer.on_progress(StageProgress("select", 50, 100))
    assert file.getvalue() == ""
    clock.now += 20
    observer.on_progress(StageProgress("select", 80, 100))
    assert file.getvalue() == "selecting 80/100 (0:40, about 0:10 left)\n"


def test_the_live_line_has_step_stage_and_times() -> None:
    clock = Clock()
    observer, file = terminal(clock, force_terminal=True, width=80)
    with observer:
        observer.on_start(START)
        observer.on_step(StepEnd(1, row()))
        clock.now += 98.2
        observer.on_progress(StageProgress("evaluate", 0, 8))
        clock.now += 1.8
        observer.on_progress(StageProgress("evaluate", 3, 8))
        observer._bar.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "step 1/3: evaluating 3/8" in text
    # two steps of 4 s would be over; 5 of 8 prompts of the evaluation are not, 0.6 s each
    assert "1:40, about 0:03 left" in text


def test_nothing_is_said_to_be_left_where_it_takes_longer_than_expected() -> None:
    clock = Clock()
    standing = Standing(clock)
    standing.begin(START)
    standing.step(StepEnd(1, row()))
    clock.now += 100
    assert standing.times() == "1:40"


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [
        ({}, 1),
        ({"eval": {"patience": 2}}, 2),
        ({"eval": {"patience": 2, "test_size": 0}}, 1),
        ({"checkpoint": {"average": 0.5}}, 2),
        ({"checkpoint": {"average": 0.5}, "eval": {"size": 0}}, 0),
        ({"lora": {"rank": 8, "merge": True}}, 2),
    ],
)
def test_what_is_left_counts_the_last_evaluations(
    settings: dict[str, Any], evaluations: int
) -> None:
    """One step of 10 s, one of 7 s for each; resumed, so none has been seen yet."""
    standing = Standing(Clock())
    how = {"first_step": 3, "last_step": 4, "resumed": True}
    seconds = 0.0 if settings.get("eval") == {"size": 0} else 7.0
    standing.begin(RunStart(Path("a"), "train", settings, evaluation=seconds, **how))
    standing.step(StepEnd(3, row(seconds={"update": 10.0})))
    assert standing.left() == duration(10 + 7 * evaluations)


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"samples": 256}, 2),  # two steps of 64 are made
        ({"samples": 250, "seconds": 0.0}, 2),
        ({"samples": 257}, 3),
        ({"tokens": 1500, "samples": 1000}, 1),  # of two steps of 500
        ({"updates": 4}, 0),
        ({"seconds": 55.0}, 4),
        ({"samples": 10**9}, 98),
        ({}, 98),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_left_ends_with_the_budget(
    budget: dict[str, float], steps: int, resumed: bool
) -> None:
    """Of 100 steps of 10 s two are made, before it was resumed or since; an evaluation of 7 s."""
    one = {"samples": 64, "tokens_sampled": 500, "updates": 2, "seconds": {"update": 10.0}}
    spent = {"samples": 64, "tokens": 500, "updates": 2, "seconds": 10.0} if resumed else {}
    first = 2 if resumed else 1
    standing = Standing(Clock())
    how = {"first_step": first, "last_step": 100, "spent": spent, "resumed": resumed}
    standing.begin(RunStart(Path("a"), "train", {"budget": budget}, **how))
    standing.evaluated(Evaluation(0, 0.5, 0.5, 0.4, 0.6, 8, 8, 0, {}, 7.0))
    for step in range(first, 3):
        standing.step(StepEnd(step, row(step, **one)))
    assert standing.left() == (duration(10 * steps + 7) if steps else None)


def test_what_broke_the_pipe_is_raised_where_it_is_heard() -> None:
    observer, _ = terminal(Clock())
    observer._gone = BrokenPipeError()
    with pytest.raises(BrokenPipeError):
        observer.on_progress(StageProgress("update", 0, 1))


def test_evaluations_show_the_mean_reward_and_are_broken_at_words() -> None:
    result = Evaluation(2, 0.5, 0.625, 0.4, 0.6, 8, 8, 0, {}, 1.0)
    observer, file = terminal(Clock(), force_terminal=True, width=40, color_system=None)
    observer.on_evaluation(result)
    assert "mean reward 0.625" in " ".join(file.getvalue().split())
    assert max(map(len, file.getvalue().splitlines())) <= 40


def test_a_pipe_is_as_wide_as_COLUMNS_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def widest() -> int:
        observer, file = terminal(Clock())
        observer.on_step(StepEnd(1, row()))
        observer.on_note(Note("a note of many words " * 8))
        return max(map(len, file.getvalue().splitlines()))

    monkeypatch.delenv("COLUMNS", raising=False)
    assert widest() > 140
    monkeypatch.setenv("COLUMNS", "80")
    assert widest() <= 80


@pytest.mark.parametrize(
    ("evaluation", "seconds"),
    [({"every": 1}, 3 * 10 + 3 * 7), ({"every": 1, "size": 0}, 3 * 10 + 7), ({}, 3 * 10 + 7)],
)
def test_what_is_left_counts_evaluations_of_the_default_size(
    evaluation: dict[str, int], seconds: int
) -> None:
    """3 steps of 10 s are left, and an evaluation of 7 s after each, or after the last alone."""
    standing = Standing(Clock())
    standing.begin(RunStart(Path("a"), "train", {"eval": evaluation}, first_step=1, last_step=4))
    standing.evaluated(Evaluation(0, 0.5, 0.5, 0.4, 0.6, 8, 8, 0, {}, 7.0))
    standing.step(StepEnd(1, row(seconds={"update": 10.0})))
    assert standing.left() == duration(seconds)
