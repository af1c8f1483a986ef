"""Rewards in processes of their own, closed when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from winnow.rewards.factory import Reward, make_reward
from winnow.types import Prompt, Score

PROMPT = Prompt("p1", "question", "19")

Make = Callable[..., Reward]


@contextmanager
def making(time_limit: float) -> Iterator[Make]:
    """make_reward, closing what it made."""
    made: list[Reward] = []

    def build(reward: Any, **kwargs: Any) -> Reward:
        made.append(make_reward(reward, **{"time_limit": time_limit, "workers": 1, **kwargs}))
        return made[-1]

    yield build
    for reward in made:
        reward.close()


def scores(reward: Reward, *completions: str) -> list[Score]:
    return reward.score([(PROMPT, completion) for completion in completions])
