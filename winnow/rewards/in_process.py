"""Scoring in this process: for Winnow's own verifiers that cannot hang."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from winnow.rewards.worker import describe
from winnow.types import Prompt, Score

Verifier = Callable[[Prompt, str], float]
"""A function that scores one completion. What it raises is the sample's error."""


class InProcessReward:
    """Scores completions in this process. A :class:`winnow.rewards.base.Reward`."""

    def __init__(self, name: str, verifier: Verifier) -> None:
        self.name = name
        self._verifier = verifier

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score an item, in order. Whatever the verifier raises is that item's error."""
        return [self._score(prompt, completion) for prompt, completion in items]

    def close(self) -> None:
        """Nothing to release."""

    def _score(self, prompt: Prompt, completion: str) -> Score:
        try:
            return Score.of(self._verifier(prompt, completion))
        except Exception as error:  # noqa: BLE001 (a verifier's exception is its sample's error)
            return Score.failed(describe(error))
