"""Several rewards as one: their weighted sum, and what each gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from winnow.rewards.base import AnyReward, SampleReward, scores_of
from winnow.types import Prompt, Sample, Score


@dataclass(frozen=True)
class Part:
    """One of several rewards.

    Attributes:
        label: What it is called in metrics, files and messages.
        weight: What its score is multiplied by in the sum.
    """

    label: str
    weight: float
    reward: AnyReward


class WeightedSum(SampleReward):
    """The sum of weight x score over the parts. An error of any part is the sample's error.

    Args:
        right_by: The label of the part whose score decides which samples are right; ``None``: the
            sum does.
    """

    def __init__(self, parts: Sequence[Part], right_by: str | None) -> None:
        self.name = " + ".join(part.label for part in parts)
        self.parts = tuple(parts)
        self._right_by = right_by

    def score_samples(self, items: Sequence[tuple[Prompt, Sample]]) -> list[Score]:
        """One score an item, in order. An error names the part that failed."""
        by_part = [scores_of(part.reward, items) for part in self.parts]
        return [self._sum(own) for own in zip(*by_part, strict=True)]

    def close(self) -> None:
        """Close the parts."""
        for part in self.parts:
            part.reward.close()

    def _sum(self, scores: Sequence[Score]) -> Score:
        """The score of a sample from those of its parts."""
        pairs = list(zip(self.parts, scores, strict=True))
        found = tuple((part.label, s.value) for part, s in pairs if s.value is not None)
        wrong = [of_part(part.label, s.error) for part, s in pairs if s.error is not None]
        if wrong:
            return Score(None, "; ".join(wrong), found)
        # exact until it is rounded once, so that the order of the parts changes no bit
        try:
            total = Score.of(math.fsum(part.weight * (s.value or 0.0) for part, s in pairs))
        except (OverflowError, ValueError):
            total = Score.failed("the sum of its parts is larger than any number")
        if total.value is None:
            return replace(total, parts=found)
        decides = None if self._right_by is None else dict(found)[self._right_by]
        return Score(total.value, None, found, decides)


_PART = "part "


def of_part(label: str, error: str) -> str:
    """The error of a part, as the sample has it."""
    return f"{_PART}{label!r}: {error}"


def without_part(error: str) -> str:
    """An error without the part that it is of, where it is of one."""
    return error.partition(": ")[2] if error.startswith(f"{_PART}'") else error
