r"""Renderings of answers are right, near misses are wrong, and none is an error.

A thousand of each here; ten thousand of each in the night (`make verdicts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tests.rewards import renderings
from tests.rewards.renderings import Case
from winnow.rewards.factory import Reward, make_reward
from winnow.types import Prompt, Score

NAMES = ("number", "gsm8k", "math")


def numbers(count: int, *, right: bool) -> Iterator[Case]:
    make = renderings.a_right_number if right else renderings.a_wrong_number
    return (make(Random(f"number {seed} {right}")) for seed in range(count))


def formulas(count: int, *, right: bool) -> Iterator[Case]:
    rngs = (Random(f"formula {seed} {right}") for seed in range(count))
    return (renderings.a_formula(rng, right=right) for rng in rngs)


@pytest.fixture(scope="module")
def rewards() -> Iterator[dict[str, Reward]]:
    made = {name: make_reward(name, workers=1) for name in NAMES}
    yield made
    for reward in made.values():
        reward.close()


def check(rewards: dict[str, Reward], cases: list[Case], value: float) -> None:
    for name in NAMES:
        mine = [case for case in cases if name in case.rewards]
        assert len(mine) > len(cases) / 12
        scores = rewards[name].score([(Prompt("p", "", c.answer), c.completion) for c in mine])
        wrong = [(c, s) for c, s in zip(mine, scores, strict=True) if s != Score(value)]
        assert not wrong, (name, len(wrong), wrong[:5])


def check_all(rewards: dict[str, Reward], count: int, *, right: bool) -> None:
    cases = [*numbers(count * 7 // 10, right=right), *formulas(count * 3 // 10, right=right)]
    check(rewards, cases, float(right))


@pytest.mark.parametrize("right", [True, False], ids=["renderings", "near misses"])
def test_a_thousand(rewards: dict[str, Reward], right: bool) -> None:
    check_all(rewards, 1000, right=right)


@pytest.mark.verdicts
@pytest.mark.parametrize("right", [True, False], ids=["renderings", "near misses"])
def test_ten_thousand(rewards: dict[str, Reward], right: bool) -> None:
    check_all(rewards, 10_000, right=right)
