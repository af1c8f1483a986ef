"""The reward protocols: (prompt, completion) or (prompt, sample) -> a number, or an error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from winnow.types import Prompt, Sample, Score


class Reward(Protocol):
    """Scores completions. Implementations never turn a failure into a number."""

    name: str

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score an item, in order. A failure is that item's ``Score.failed``."""
        ...

    def close(self) -> None:
        """Release workers. Safe to call twice."""
        ...


class SampleReward(ABC):
    """Scores samples: it sees their length and how they ended, beside the text."""

    name: str

    @abstractmethod
    def score_samples(self, items: Sequence[tuple[Prompt, Sample]]) -> list[Score]:
        """One score an item, in order. A failure is that item's ``Score.failed``."""

    @abstractmethod
    def close(self) -> None:
        """Release what it holds. Safe to call twice."""


AnyReward = Reward | SampleReward


def scores_of(reward: AnyReward, items: Sequence[tuple[Prompt, Sample]]) -> list[Score]:
    """One score a sample, in order, by a reward of either kind."""
    if isinstance(reward, SampleReward):
        return reward.score_samples(items)
    return reward.score([(prompt, sample.text) for prompt, sample in items])
