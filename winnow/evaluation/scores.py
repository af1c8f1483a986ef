"""Samples of a file, and the scores that a scorer gives them, by default the recorded ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from winnow.errors import UserError
from winnow.reporting.observer import Observers
from winnow.rewards.given import RewardFunction
from winnow.rollouts.rewards import columns_of, rescoring
from winnow.rollouts.scoring import rescore
from winnow.rollouts.select import OF_PROMPT
from winnow.storage.paths import Paths, paths_of
from winnow.storage.policies import many
from winnow.storage.sample_table import SampleTable, read_samples

RECORDED = "verifier"
"""The scorer that stands for the recorded rewards."""


def scored_samples(
    samples: Paths,
    columns: Sequence[str],
    scorers: Sequence[str | RewardFunction],
    right_at: float | None,
    pool: bool,
    why: str,
) -> SampleTable:
    """Samples of files, with these columns and those that the scorers read of prompts.

    Raises:
        UserError: they have no scores, or are of several policies and not to be pooled.
    """
    others = [scorer for scorer in scorers if scorer != RECORDED]
    read = set[str]().union(*(columns_of(rescoring(scorer)) for scorer in others))
    table = read_samples(
        paths_of(samples),
        [*columns, *sorted(read), "reward", *(["prompt"] if others else [])],
        why=why,
        optional=OF_PROMPT if others else (),
        right_at=right_at,
    )
    table.need_scores(samples)
    policies = table.policies()
    if len(policies) > 1 and not pool:
        problem = f"samples of {many(policies)} do not say what n samples of one buy"
        raise UserError("samples", problem, "give --pool to take them as one set")
    return table


def scores(
    table: SampleTable, scorer: str | RewardFunction, observers: Observers
) -> NDArray[np.float64]:
    """The score of every row, in the order of the files; NaN for an error."""
    if scorer == RECORDED:
        found = np.full(table.rows, np.nan)
        for number, group in enumerate(table.only(())):
            values = [np.nan if s.value is None else s.value for s in group.scores]
            found[table.rows_of(number)] = values
        return found
    return rescore(table, scorer, progress=observers.progress).rewards
