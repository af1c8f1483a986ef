"""Whether a row of the table, or a rule, throws graded rewards away. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.selection import AsRecorded, Rule, ScoreRule
from winnow.algorithms.spec import show
from winnow.algorithms.table import ALGORITHMS
from winnow.types import Group


def between(group: Group) -> bool:
    """Whether it has rewards between 0 and 1."""
    return any(0 < value < 1 for value in group.values)


def partly_right(group: Group) -> bool:
    """Whether rewards between 0 and 1 count as wrong, by a `right_at` that nobody has lowered."""
    own = all(score.right_by is None for score in group.scores)
    return own and group.right_at >= 1 and between(group)


def right_alone(rules: Sequence[Rule]) -> list[str]:
    """The rules that read of a reward only whether it is right."""
    return [
        show(rule)
        for rule in rules
        if isinstance(rule, ScoreRule)
        and rule.right_alone
        and not rule.blind
        and not isinstance(rule, AsRecorded)
    ]


def graded(groups: Sequence[Group], algorithm: Algorithm) -> str | None:
    """That rewards between 0 and 1 are there, and the algorithm reads only which are right."""
    if algorithm.graded or not groups:
        return None
    if not any(map(between, groups)):
        return None
    others = [
        row.name for row in ALGORITHMS.values() if row.graded and row.resample == algorithm.resample
    ]
    apart = any(score.right_by is not None for group in groups for score in group.scores)
    what = "the part that decides what is right" if apart else "a reward"
    return (
        f"rewards between 0 and 1 seen; {algorithm.name} uses only whether {what} is "
        f">= {groups[0].right_at:g}; for graded rewards use {', '.join(others)}, or lower "
        f"reward.right_at (now {groups[0].right_at:g})"
    )
