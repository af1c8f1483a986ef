"""A user's rule, advantage or loss that fails in a run, and what a result prints."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests import kills
from tests.kills import FIRST, KillAt, check_same
from tests.training.faked import settings
from winnow.algorithms.selection import Everything
from winnow.algorithms.table import ALGORITHMS
from winnow.errors import OwnCodeError, notes
from winnow.rollouts.collect import Sampled, SampleResult
from winnow.training.run import run

HERE = Path(__file__).name


@pytest.fixture
def given(tmp_path, monkeypatch) -> dict[str, Any]:
    return {key: v for key, v in settings(tmp_path, monkeypatch).items() if key != "algorithm"}


class Fails:
    """A rule of two: it fails from its n-th group on."""

    def __init__(self, after: float) -> None:
        self.after, self.asked = after, 0

    def __call__(self, group, alive, rng):
        self.asked += 1
        if self.asked > self.after:
            raise LookupError("gone")
        return [None] * len(alive)


def mine(after: float) -> winnow.Algorithm:
    return replace(ALGORITHMS["rloo"], name="mine", select=[Everything(), Fails(after)])


def test_what_is_on_the_disk_stays_and_a_fixed_rule_resumes(given, tmp_path) -> None:
    """Six prompts a step: the rule fails in the third step."""
    whole = winnow.train(**given, algorithm=mine(math.inf), out=tmp_path / "whole", quiet=True)
    line = next(
        n
        for n, text in enumerate(Path(__file__).read_text().splitlines(), 1)
        if "LookupError" in text
    )
    said = (
        r"^tests\.training\.test_own_code:Fails: the rule raised LookupError: gone "
        rf"\({HERE}:{line}\); fix it\n"
    )
    with pytest.raises(OwnCodeError, match=said) as caught:
        winnow.train(**given, algorithm=mine(14), out=tmp_path / "run", quiet=True)
    assert notes(caught.value) == [
        f"what was sampled is kept; resume: winnow.train(resume='{tmp_path / 'run'}', "
        "algorithm=...)"
    ]
    files = sorted(path.name for path in (tmp_path / "run/rollouts").glob("train-*"))
    assert files == [f"train-{step:06d}.parquet" for step in (1, 2, 3)]
    winnow.train(resume=tmp_path / "run", algorithm=mine(math.inf), quiet=True)
    check_same(whole.folder, tmp_path / "run")


def loses(logp, old, advantage):
    return (logp - old).exp() * advantage.nothing


def means(logp, old, advantage):
    return (-advantage * logp).mean()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("loses", rf"the loss raised AttributeError: .*nothing.* \({HERE}:\d+\); fix it\n"),
        (
            "means",
            r"the loss returned a tensor of shape \(\) for \d+ tokens; return one number for",
        ),
    ],
)
def test_a_loss(tiny_model, tmp_path, name, said) -> None:
    """From a recipe, in a model of torch."""
    cells = {"name": "raft++", "select": ["everything"], "loss": f"{__name__}:{name}"}
    config = kills.config(tiny_model, tmp_path, steps=1, algorithm=cells)
    with pytest.raises(OwnCodeError, match=said) as caught:
        run(config, out=tmp_path / "run", observers=KillAt(), reward=FIRST)
    assert notes(caught.value) == [
        f"what was sampled is kept; resume: winnow train --resume {tmp_path / 'run'}"
    ]


class TestWhatIsPrinted:
    def test_a_result(self, given, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        result = winnow.train(**given, algorithm="rloo", out="run", quiet=True)
        gain, rewards, model, samples = str(result).splitlines()
        low, high = (f"{100 * x:+.1f}" for x in (result.gain_low, result.gain_high))
        assert gain == (
            f"held-out accuracy: {result.before:.1%} before, {result.after:.1%} after: "
            f"{100 * result.gain:+.1f} points [{low}, {high}]"
        )
        assert rewards.startswith("held-out mean reward: ")
        assert model == "model:   run/checkpoints/step-4"
        kept = sum(row["survivors"] for row in result.metrics)
        said = rf"samples: run/rollouts \({4 * 6 * 8} in 4 steps, {kept} survived, 0:0\d\)"
        assert re.fullmatch(said, samples)
        assert repr(result) == str(result)

    def test_a_chosen_checkpoint_takes_one_line_more(self, given, tmp_path) -> None:
        given["eval"] = {**given["eval"], "patience": 3, "every": 1}
        result = winnow.train(**given, algorithm="rloo", out=tmp_path / "run", quiet=True)
        assert result.evaluations is not None
        assert len(str(result).splitlines()) == 5

    def test_without_held_out_prompts(self, given, tmp_path) -> None:
        given["eval"] = {"size": 0}
        result = winnow.train(**given, algorithm="rloo", out=tmp_path / "run", quiet=True)
        assert str(result).splitlines()[0] == "no held-out accuracy"
        assert len(str(result).splitlines()) == 3

    def test_an_evaluation_and_samples(self, given, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        given = {key: given[key] for key in ("model", "reward", "sampling", "eval", "prompts")}
        evaluation = winnow.evaluate(**given, quiet=True)
        assert re.match(r"held-out accuracy at step 0: [\d.]+%", str(evaluation))
        assert "\n" not in repr(evaluation)
        sampled = winnow.sample(**given, n=3, out="samples", quiet=True)
        first, second = str(sampled).splitlines()
        done = sampled.sampled
        right = f"{done.right / done.scored:.1%} of these right"
        assert first == f"{done.made} samples, {done.tokens} tokens; {right}"
        assert second == "samples: samples"

    def test_samples_that_were_there(self) -> None:
        there = SampleResult(Path("s"), Sampled(5, 5, 0, 0, 0, 0, 0))
        assert str(there) == "nothing to sample: all 5 samples are there\nsamples: s"
