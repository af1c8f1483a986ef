"""Every row teaches the tiny model, and shuffled rewards teach it nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

import winnow
from tests import tiny
from winnow.store import RunStore
from winnow.types import Prompt, Score

SETTINGS = {
    "prompts_per_step": 25,
    "samples_per_prompt": 16,
    "minibatch_prompts": 25,
    "steps": 40,
    "sampling": {"max_tokens": 4},
    "optimiser": {"lr": 3e-3},
    "eval": {"size": 0},
    "checkpoint": {"every": 100},
    "threads": 1,
}
ROWS = {
    **{name: {"algorithm": name} for name in winnow.ALGORITHMS},
    # offline: one round of many draws, then many passes over the survivors
    "rft": {"algorithm": {"name": "rft", "epochs": 25}, "samples_per_prompt": 64, "steps": 2},
    # pi* itself must be right nine times in ten: at the rows' own beta it is so six times in ten
    "gibbs": {
        "algorithm": {"name": "gibbs", "select": ["gibbs(beta=0.1, r_max=1)"], "epochs": 25},
        "samples_per_prompt": 64,
        "steps": 2,
    },
    "snis": {
        "algorithm": {"name": "snis", "advantage": "softmax(0.1)", "epochs": 25},
        "samples_per_prompt": 64,
        "steps": 2,
    },
    "dapo": {"algorithm": "dapo", "steps": 22},  # it draws up to four times as much a step
    "ppo": {"algorithm": "ppo", "steps": 20, "optimiser": {"lr": 1e-3}, "critic": {"lr": 3e-3}},
    # offline, one pair a prompt: many prompts, few passes
    "dpo": {
        "algorithm": {"name": "dpo", "epochs": 5},
        "steps": 30,
        "optimiser": {"lr": 5e-4, "schedule": "linear"},
    },
}

PLATEAU = {"dpo": 0.75}
"""A row that stays below nine in ten, and what it does pass. Pairs drawn once teach DPO to order
nearly all of them (see the test), but only differences count: both answers may become unlikely,
and what they lose goes to answers that were never drawn. It reached .83 to .87 with beta .1 to .5,
3 to 5 passes and 30 to 60 rounds, .64 to .71 with beta 1 and 3, or with 100 rounds."""


class Shuffled:
    """The true verdicts, dealt out to other draws of the step."""

    name = "shuffled"

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        values = [float(completion == prompt.answer) for prompt, completion in items]
        random.Random(len(items)).shuffle(values)
        return [Score(value) for value in values]

    def close(self) -> None: ...


def accuracy(model: Path, out: Path) -> float:
    """Sampled at temperature 1 on all 25 problems, 40 draws each: a standard error below 1.6 %."""
    result = winnow.evaluate(
        model=str(model),
        prompts=tiny.problems(),
        reward="exact",
        out=out,
        quiet=True,
        sampling={"max_tokens": 4},
        eval={"samples": 40},
    )
    assert result.accuracy is not None
    return result.accuracy


def run(model: Path, out: Path, name: str, reward: object) -> Path:
    settings = {**SETTINGS, **ROWS[name]}
    result = winnow.train(
        model=str(model), prompts=tiny.problems(), reward=reward, out=out, quiet=True, **settings
    )
    return result.checkpoint


@pytest.fixture(scope="module")
def start(tiny_model, tmp_path_factory) -> float:
    return accuracy(tiny_model, tmp_path_factory.mktemp("start") / "eval")


@pytest.mark.parametrize("name", winnow.ALGORITHMS)
def test_row_learns(tiny_model, tmp_path, start, name):
    assert start < 0.4
    trained = run(tiny_model, tmp_path / "run", name, "exact")
    assert accuracy(trained, tmp_path / "eval") > PLATEAU.get(name, 0.9)
    if name in PLATEAU:
        last = RunStore.open(tmp_path / "run").lines("metrics.jsonl")[-20:]
        assert min(row["preference_accuracy"] for row in last) > 0.9
        assert min(row["preference_margin"] for row in last) > 0.3


@pytest.mark.parametrize("name", winnow.ALGORITHMS)
def test_row_does_not_learn_from_shuffled_rewards(tiny_model, tmp_path, start, name):
    trained = run(tiny_model, tmp_path / "run", name, Shuffled())
    assert accuracy(trained, tmp_path / "eval") < 0.4
