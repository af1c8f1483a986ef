"""Notes on samples and updates: when they are made, and that they are made once."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import winnow
from tests import tiny
from tests.build import group, with_advantages
from winnow.algorithms.graded import graded
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config, from_dict
from winnow.rollouts.remarks import cut_off, no_update

RIGHT_ALONE = ("rft", "raft", "raft++")
"""Rows whose papers train on right samples, each counting 1."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_graded_rewards_that_a_row_throws_away(name) -> None:
    said = graded([group([0.0, 0.5, 1.0])], ALGORITHMS[name])
    assert (said is not None) == (name in RIGHT_ALONE)
    if said is not None:
        uses, _, lower = said.partition("for graded rewards use ")[2].partition(", or ")
        named = uses.split(", ")
        assert lower == "lower reward.right_at (now 1)"
        once = name == "rft"
        assert set(named) == ({"gibbs", "snis", "dpo"} if once else set(named) & ALGORITHMS.keys())
        assert not set(named) & set(RIGHT_ALONE)
        assert f"{name} uses only whether a reward is >= 1" in said
    assert graded([group([0.0, 1.0, None, 2.0, -0.5])], ALGORITHMS[name]) is None


@pytest.mark.parametrize(("cut", "told"), [(0, False), (1, False), (2, True), (4, True)])
def test_more_than_a_quarter_cut_off(cut, told) -> None:
    made = group([0.0] * 4)
    ended = ("length",) * cut + ("eos",) * (4 - cut)
    samples = [replace(s, finish_reason=e) for s, e in zip(made.samples, ended, strict=True)]
    said = cut_off([made.with_(samples=tuple(samples))], "sampling.max_tokens", 256)
    assert (said is not None) is told
    if told:
        assert f"{cut} of 4 samples were cut off at sampling.max_tokens = " in str(said)


def test_why_there_is_no_update() -> None:
    row = ALGORITHMS["raft++"]
    path = Path("a.parquet")
    said = no_update(with_advantages([group([0.0] * 8)] * 2, row), Config(), row, path)
    assert said.startswith("no update: all 16 samples have reward 0; try easier prompts, ")
    assert said.endswith("or look at the samples in a.parquet: is the reward what you mean?")
    assert ", algorithm.refill, " in said
    grpo = ALGORITHMS["grpo"]
    said = no_update(with_advantages([group([1.0] * 4)], grpo), Config(), grpo, path)
    assert said.startswith("no update: all 4 samples have reward 1; try harder prompts, ")
    assert ", algorithm.select = ['mixed'] with algorithm.refill, " in said  # alone it does nothing
    dapo = ALGORITHMS["dapo"]
    two = with_advantages([group([1.0, 1.0]), group([0.0, None])], dapo)
    said = no_update(two, from_dict({"algorithm": "dapo"}), dapo, path)
    assert "of 4 samples none counts (2 all right, 1 all wrong, 1 without a score)" in said
    assert "refill" not in said


def test_errors_of_many_kinds_are_one_reason_for_no_update() -> None:
    grpo = ALGORITHMS["grpo"]
    made = group([1.0, 1.0, None, None, None, None])
    scores = [
        score
        if score.error is None
        else replace(score, error=f"{n}: the judge failed, " + "x" * 80)
        for n, score in enumerate(made.scores)
    ]
    made = with_advantages([made.with_(scores=tuple(scores))], grpo)
    said = no_update(made, Config(), grpo, Path("a.parquet"))
    assert "of 6 samples none counts (4 without a score, 2 all rewards equal);" in said


class Notes(winnow.Observer):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, note: winnow.Note) -> None:
        self.texts.append(note.text)


def half(prompt: winnow.Prompt, completion: str) -> float:
    return 0.5


@pytest.mark.parametrize("off", [["nothing_kept", "cut_off"], []], ids=["notes", "alarms"])
def test_each_is_told_once_and_empty_steps_are_counted(tiny_model, tmp_path, off) -> None:
    """By notes, or by the alarms for them."""
    notes, alarms = Notes(), []
    notes.on_alarm = alarms.append  # type: ignore[method-assign]
    winnow.train(
        model=str(tiny_model),
        prompts=tiny.problems(),
        reward=half,
        out=tmp_path / "run",
        steps=5,
        prompts_per_step=4,
        minibatch_prompts=4,
        samples_per_prompt=2,
        sampling={"max_tokens": 1},
        eval={"size": 0},
        alarms={"off": off},
        callbacks=[notes],
        quiet=True,
    )
    told = [text for text in notes.texts if "no update" in text]
    assert told[0].startswith("step 1: no update: all 8 samples have reward 0.5; try easier")
    (file,) = re.findall(r"look at the samples in (\S+):", told[0])
    assert {row["step"] for row in pq.read_table(file).to_pylist()} == {1}
    again = [f"step {n}: no update again, {n} steps without one so far" for n in (2, 4)]
    assert told[1:] == (again if off else again[:1])
    assert sum("rewards between 0 and 1 seen; raft++" in text for text in notes.texts) == 1
    assert sum("cut off at sampling.max_tokens = 1;" in text for text in notes.texts) == bool(off)
    found = [(one.name, one.step) for one in alarms if one.name in ("cut_off", "nothing_kept")]
    assert found == ([] if off else [("cut_off", 1), ("nothing_kept", 3)])


def test_graded_rewards_are_told_of_after_the_first_evaluation(tiny_model, tmp_path) -> None:
    """Before the first step has sampled anything."""
    notes = Notes()
    steps: list[int] = []
    notes.on_step = lambda step: steps.append(len(notes.texts))  # type: ignore[method-assign]
    winnow.train(
        model=str(tiny_model),
        prompts=tiny.problems(),
        reward=lambda prompt, completion: 0.5 if prompt.text in HELD else 1.0,
        out=tmp_path / "run",
        steps=1,
        prompts_per_step=4,
        minibatch_prompts=4,
        samples_per_prompt=2,
        sampling={"max_tokens": 1},
        eval_prompts=[{"prompt": text, "answer": "0"} for text in HELD],
        callbacks=[notes],
        quiet=True,
    )
    (place,) = [i for i, text in enumerate(notes.texts) if "rewards between 0 and 1 seen" in text]
    assert place < steps[0]


HELD = ("0 + 0 =", "00 + 0 =")
