"""The sentences of a verdict, by cases whose answer is plain."""

from __future__ import annotations

from typing import Any

import pytest

from winnow.reporting.page.verdict import duration, verdict
from winnow.reporting.page.view import Measure, View, columns_of

BEFORE = {"accuracy": 0.1, "low": 0.05, "high": 0.2, "prompts": 50, "step": 0}
AFTER = {"accuracy": 0.4, "low": 0.3, "high": 0.5, "prompts": 50, "step": 9}


def step(number: int, **other: Any) -> dict[str, Any]:
    row = {"step": number, "prompts": 4, "samples": 8, "errors": 0, "cut_off_rate": 0.0}
    kinds = {"prompts_all_wrong": 3, "prompts_mixed": 1, "prompts_all_right": 0}
    tokens = {"tokens_sampled": 100, "tokens_trained": 25, "seconds": {"sample": 2.0, "update": 1}}
    tokens["updates"] = 1
    return {**row, **kinds, **tokens, **other}


def view(**other: Any) -> View:
    return View("run", "runs/run", "run", **other)


def said(of: View) -> list[str]:
    return [one.text for one in verdict(of)]


@pytest.mark.parametrize(
    ("gain", "tone", "begins"),
    [
        (Measure(0.3, 0.1, 0.5), "good", "It learned: "),
        (Measure(-0.3, -0.5, -0.1), "bad", "It got worse: "),
        (Measure(0.3, -0.1, 0.5), "plain", "No clear change: "),
        (Measure(0.3), "plain", "No clear change: "),
    ],
)
def test_what_is_called_learning(gain: Measure, tone: str, begins: str) -> None:
    (one,) = verdict(view(before=BEFORE, after=AFTER, gain=gain))
    assert (one.tone, one.text[: len(begins)]) == (tone, begins)


def test_the_outcome_has_both_intervals_and_the_paired_one() -> None:
    (text,) = said(view(before=BEFORE, after=AFTER, gain=Measure(0.31, 0.2, 0.41)))
    assert text == (
        "It learned: held-out accuracy went from 10.0% [5.0%, 20.0%] to 40.0% [30.0%, 50.0%], "
        "+31.0 points [+20.0, +41.0] on the same 50 prompts."
    )
    (text,) = said(view(before=BEFORE, after=AFTER, gain=Measure(0.31, 0.2, 0.41), tested=False))
    assert text.endswith("the checkpoint was chosen by these prompts, so it is too high.")


def test_a_gain_names_only_the_prompts_that_it_is_of() -> None:
    one, other = {**BEFORE, "reward": 0.2}, {**AFTER, "reward": 0.6}
    gains = {"gain": Measure(0.25), "reward_gain": Measure(0.3)}
    for text in said(view(before=one, after=other, **gains, left_out=20)):
        assert text.endswith(" on the same 30 prompts that have a score both times.")


def test_work_is_summed_over_steps() -> None:
    rows = [step(1), step(2, prompts_all_wrong=0, prompts_mixed=2, prompts_all_right=2)]
    assert said(view(metrics=rows)) == [
        "2 steps in 6 s: 16 samples to train on, 200 tokens sampled and 50 trained on (25%).",
        "Prompts all wrong / mixed / all right: 3 / 1 / 0 in the first step, 0 / 2 / 2 in the "
        "last.",
    ]


def test_a_graded_reward_is_judged_by_its_mean() -> None:
    before, after = {**BEFORE, "reward": 0.2}, {**AFTER, "reward": 0.5}
    made = verdict(
        view(
            before=before,
            after=after,
            gain=Measure(0.0, -0.1, 0.1),
            reward_gain=Measure(0.3, 0.1, 0.5),
        )
    )
    assert [one.tone for one in made] == ["good", "plain"]
    assert made[0].text == (
        "It learned: held-out mean reward went from 0.200 to 0.500, +0.300 [+0.100, +0.500] on "
        "the same 50 prompts."
    )
    assert made[1].text.startswith("Right by reward.right_at: held-out accuracy went from 10.0%")


def test_that_nothing_was_trained_is_said() -> None:
    (one, _) = verdict(view(metrics=[step(1, updates=0), step(2, updates=0)]))
    assert one.tone == "warn"
    assert one.text.startswith("Nothing was trained: no step had an update")


def test_bad_news_is_said() -> None:
    rows = [step(n, errors=2, cut_off_rate=0.5) for n in (1, 2)]
    alarms = [
        {"step": 2, "text": "No signal.", "advice": "Try easier prompts."},
        {"step": 1, "text": "Gone.", "cleared": 2},
    ]
    made = verdict(view(metrics=rows, alarms=alarms, damaged=["train-000001.parquet"]))
    texts = " ".join(one.text for one in made if one.tone in ("bad", "warn"))
    assert "50% of the completions were cut off at sampling.max_tokens" in texts
    assert "The verifier failed on 4 of 16 samples" in texts
    assert "Alarm at step 2: No signal. Try easier prompts." in texts
    assert "Gone." not in texts
    assert "1 file cannot be read and is not shown: train-000001.parquet." in texts


def test_what_has_cleared_is_told_as_such() -> None:
    def row(step: int, name: str, text: str, cleared: bool = False) -> dict[str, Any]:
        advice = "" if cleared else f"Try {name}."
        return {"step": step, "name": name, "text": text, "advice": advice, "cleared": cleared}

    alarms = [
        row(2, "a", "Away."),
        row(3, "b", "Bad."),
        row(9, "a", "share: 2%", cleared=True),
        row(9, "b", "share: 3%", cleared=True),
        row(12, "b", "Bad again."),
    ]
    made = verdict(view(alarms=alarms))
    assert [(one.tone, one.text) for one in made] == [
        ("warn", "Alarm at step 2, cleared at step 9: Away."),
        ("bad", "Alarm at step 12, the last of 2: Bad again. Try b."),
    ]


def test_the_alarm_of_samples_cut_off_says_it_alone() -> None:
    rows = [step(n, cut_off_rate=0.9) for n in (1, 2)]
    alarms = [{"step": 1, "name": "cut_off", "text": "90% were cut off.", "cleared": False}]
    assert sum("cut off" in text for text in said(view(metrics=rows, alarms=alarms))) == 1


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ({"status": "running", "step": 3, "steps": 9}, "It is running at step 3 of 9."),
        ({"status": "failed", "error": "no memory"}, "It failed: no memory."),
        ({"status": "stopped", "step": 3, "steps": 9}, "It stopped at step 3 of 9."),
        (
            {"status": "cut short", "step": 3, "steps": 9},
            "It was cut short at step 3 of 9, by a kill or a power cut; it can be resumed.",
        ),
        (
            {"status": "done"},
            "No held-out prompts were scored, so what it learned is unknown.",
        ),
    ],
)
def test_how_it_ended(progress: dict[str, Any], text: str) -> None:
    assert said(view(progress=progress)) == [text]


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.6, 61, 3600, 7509)] == [
        "0 s",
        "1 min 0 s",
        "1 min 1 s",
        "1 h 0 min",
        "2 h 5 min",
    ]


def test_columns_keep_their_rows() -> None:
    rows = [{"step": 1, "seconds": {"a": 1}}, {"step": 2, "seconds": {"b": 2}, "late": 5}]
    assert columns_of(rows) == {
        "step": [1, 2],
        "seconds/a": [1, None],
        "seconds/b": [None, 2],
        "late": [None, 5],
    }
    assert columns_of([]) == {}
