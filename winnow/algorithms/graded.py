"""Whether a row of the table throws graded rewards away. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.table import ALGORITHMS
from winnow.types import Group


def graded(groups: Sequence[Group], algorithm: Algorithm) -> str | None:
    """That rewards between 0 and 1 are there, and the algorithm reads only which are right."""
    if algorithm.graded or not groups:
        return None
    if not any(0 < value < 1 for group in groups for value in group.values):
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
