"""A penalty for long completions: DAPO's soft overlong punishment."""

from __future__ import annotations

from collections.abc import Sequence

from winnow.rewards.base import SampleReward
from winnow.types import Prompt, Sample, Score

CACHE_SHARE = 5
"""Default of `max` / `cache`: the paper has a cache of 4,096 tokens in 20,480."""


def overlong(length: int, most: int, cache: int) -> float:
    """The penalty for a completion of so many tokens, from -1 to 0.

    Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13: 0 up to ``most - cache`` tokens, from there on
    linear down to -1 at ``most``, and -1 beyond.

    Args:
        length: Tokens of the completion, its end token included.
        most: L_max, tokens: the longest completion.
        cache: L_cache, tokens: the stretch before it in which the penalty grows.
    """
    free = most - cache
    if length <= free:
        return 0.0
    return (free - length) / cache if length <= most else -1.0


class LengthPenalty(SampleReward):
    """`overlong` of each sample's length.

    Args:
        most: See `overlong`.
        cache: Default: a fifth of ``most``, as in the paper, and at least 1.

    Raises:
        ValueError: not 1 <= cache <= most.
    """

    name = "length"

    def __init__(self, most: int, cache: int | None = None) -> None:
        cache = max(1, most // CACHE_SHARE) if cache is None else cache
        if not 1 <= cache <= most:
            raise ValueError(f"must be from 1 to max, which is {most} (got {cache})")
        self._most, self._cache = most, cache

    def score_samples(self, items: Sequence[tuple[Prompt, Sample]]) -> list[Score]:
        """One score an item, in order."""
        return [Score(overlong(sample.length, self._most, self._cache)) for _, sample in items]

    def close(self) -> None:
        """Nothing to release."""
