"""How many samples of a prompt are right, from the rows of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winnow.storage.schema import PROMPT_KEY
from winnow.types import Score


@dataclass(frozen=True)
class Counted:
    """How many samples of a prompt are right, and their rewards.

    Attributes:
        prompt: What tells it apart: `schema.PROMPT_KEY`.
        right, valid: Right samples, and those with a score.
        rewards: Of those with a score.
        difficulty: The prompt's label.
    """

    prompt: tuple[str | None, ...]
    right: int
    valid: int
    rewards: tuple[float, ...] = ()
    difficulty: str | None = None


def counted_of(rows: Sequence[Mapping[str, Any]]) -> Counted:
    """Of the rows of one prompt: their difficulty, rewards, right_at, right_by and PROMPT_KEY."""
    bound = 1.0 if rows[0]["right_at"] is None else rows[0]["right_at"]
    scores = [
        Score(row["reward"], right_by=row["right_by"]) for row in rows if row["reward"] is not None
    ]
    right = sum(score.right(bound) for score in scores)
    rewards = tuple(score.value for score in scores if score.value is not None)
    prompt, difficulty = tuple(rows[0][key] for key in PROMPT_KEY), rows[0]["difficulty"]
    return Counted(prompt, right, len(scores), rewards, difficulty)
