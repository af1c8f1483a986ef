"""Every row teaches the tiny model, and shuffled rewards teach it nothing.

Where a run ends is for rounding to decide, and so differs by processor and by version of torch. So
the start is data, the rates are gentle, and what is asserted lies far from what was ever reached:
with five seeds on three kinds of processor (``make test-learns``) no row ended below .95 (dpo: .91)
nor, with shuffled rewards, above .25. What each reached is printed after the tests. (A problem may
be lost: it is answered wrongly for certain, and gives no signal any more. Of 25 one costs .04.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import winnow
from tests import tiny
from winnow.storage.run_folder import RunStore
from winnow.types import Prompt, Score

pytestmark = pytest.mark.trains

SETTINGS: dict[str, Any] = {
    "prompts_per_step": 25,
    "samples_per_prompt": 32,
    "minibatch_prompts": 5,
    "steps": 40,
    "sampling": {"max_tokens": 4},
    "optimizer": {"lr": 3e-4},
    "eval": {"size": 0},
    "checkpoint": {"every": 100},
}
ONCE = {"samples_per_prompt": 64, "steps": 2, "optimizer": {"lr": 5e-4}}
"""Offline: one round of many samples, then many passes over the survivors."""
ROWS: dict[str, dict[str, Any]] = {
    **{name: {"algorithm": name} for name in winnow.ALGORITHMS},
    "rft": {"algorithm": {"name": "rft", "epochs": 25}, **ONCE},
    # pi* itself must be right nine times in ten: at the rows' own beta it is so five times in ten
    "gibbs": {
        "algorithm": {"name": "gibbs", "select": ["gibbs(beta=0.1, r_max=1)"], "epochs": 25},
        **ONCE,
    },
    "snis": {"algorithm": {"name": "snis", "advantage": "softmax(0.1)", "epochs": 25}, **ONCE},
    # four epochs of samples that age: fewer, gentler updates
    "ppo": {
        "algorithm": "ppo",
        "steps": 20,
        "minibatch_prompts": 25,
        "optimizer": {"lr": 2e-4},
        "critic": {"lr": 3e-3},
    },
    "dapo": {"algorithm": "dapo", "steps": 20},  # it samples up to four times as much a step
    # offline, one pair a prompt: many prompts, few passes
    "dpo": {
        "algorithm": {"name": "dpo", "epochs": 3},
        "samples_per_prompt": 16,
        "optimizer": {"lr": 2e-4, "schedule": "linear"},
    },
}


class Shuffled:
    """The true outcomes, dealt out to other samples of the step."""

    name = "shuffled"

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        values = [float(completion == prompt.answer) for prompt, completion in items]
        random.Random(len(items)).shuffle(values)
        return [Score(value) for value in values]

    def close(self) -> None: ...


def right(model: Path) -> float:
    """How often the policy is right at temperature 1: exact, and by nothing of Winnow's."""
    return float(tiny.right(AutoModelForCausalLM.from_pretrained(model)).mean())


def run(model: Path, out: Path, seed: int, reward: object, **settings: Any) -> float:
    result = winnow.train(
        model=str(model),
        prompts=tiny.problems(),
        reward=reward,
        out=out,
        quiet=True,
        seed=seed,
        **{**SETTINGS, **settings},
    )
    return right(result.checkpoint)


def test_the_start_is_poor_and_every_problem_has_a_signal(tiny_model):
    chances = tiny.right(AutoModelForCausalLM.from_pretrained(tiny_model))
    assert 0.1 < chances.min() < chances.max() < 0.25


@pytest.mark.parametrize("name", winnow.ALGORITHMS)
def test_row_learns(tiny_model, tmp_path, name, run_seed, reached):
    found = run(tiny_model, tmp_path / "run", run_seed, "exact", **ROWS[name])
    # dpo, of one pair a prompt, made once: a problem or two stay behind; ppo reached .91 once
    assert reached(f"{name} learned", found) > (0.75 if name in ("dpo", "ppo") else 0.9)
    assert not (tmp_path / "run/alarms.jsonl").exists()
    if name == "dpo":
        last = RunStore.open(tmp_path / "run").lines("metrics.jsonl")[-20:]
        ordered = min(row["preference_accuracy"] for row in last)
        assert reached("dpo, pairs in order", ordered) > 0.9
        margin = min(row["preference_margin"] for row in last)
        assert reached("dpo, margin of a pair", margin) > 0.3


@pytest.mark.parametrize("name", winnow.ALGORITHMS)
def test_row_does_not_learn_from_shuffled_rewards(tiny_model, tmp_path, name, run_seed, reached):
    settings = {**SETTINGS, **ROWS[name]}
    if settings["steps"] > 2:  # half as many: with the true rewards most rows have learned by then
        settings["steps"] //= 2
    found = run(tiny_model, tmp_path / "run", run_seed, Shuffled(), **settings)
    assert reached(f"{name} shuffled", found) < 0.35


def test_adapters_learn(tiny_model, tmp_path, run_seed, reached):
    lora = {"lora": {"rank": 4}, "optimizer": {"lr": 1e-3}}
    found = run(tiny_model, tmp_path / "run", run_seed, "exact", algorithm="grpo", **lora)
    assert reached("grpo with adapters learned", found) > 0.9
