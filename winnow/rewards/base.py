"""The reward protocol: (prompt, completion) -> a number, or an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from winnow.types import Prompt, Score


class Reward(Protocol):
    """Scores completions. Implementations never turn a failure into a number."""

    name: str

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score an item, in order. A failure is that item's ``Score.failed``."""
        ...

    def close(self) -> None:
        """Release workers. Safe to call twice."""
        ...
