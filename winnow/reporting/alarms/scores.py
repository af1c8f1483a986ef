"""The scores of a step's prompts, from its groups or from the files of samples alike."""

from __future__ import annotations

from collections.abc import Sequence

from winnow.reporting.alarms.history import PromptScores
from winnow.storage.counted import Counted
from winnow.storage.schema import PROMPT_KEY, clean, prompt_columns
from winnow.theory.ties import all_equal
from winnow.types import Group


def scores_of(groups: Sequence[Group]) -> list[PromptScores]:
    """The scores of a step's groups."""
    found = []
    for group in groups:
        columns = prompt_columns(group.prompt)
        key = tuple(columns[name] for name in PROMPT_KEY)
        difficulty = clean(group.prompt.difficulty)
        found.append(_scores(key, sum(group.right), group.values, difficulty))
    return found


def scores_counted(counted: Sequence[Counted]) -> list[PromptScores]:
    """The same of what the files of samples say."""
    return [_scores(one.prompt, one.right, one.rewards, one.difficulty) for one in counted]


def _scores(
    key: tuple[str | None, ...], right: int, rewards: Sequence[float], difficulty: str | None
) -> PromptScores:
    return PromptScores(key, right, len(rewards), all_equal(rewards), difficulty)
