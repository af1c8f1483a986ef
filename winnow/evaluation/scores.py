"""Draws of a file with the scores that a judge gives them: the recorded ones, or another's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from winnow.errors import UserError
from winnow.reporting.observer import Reporter
from winnow.rewards.factory import RewardFunction
from winnow.rollouts.scoring import rescore
from winnow.rollouts.select import OF_PROMPT
from winnow.storage.paths import Paths, paths_of
from winnow.storage.sample_table import DrawTable, read_draws

RECORDED = "verifier"
"""Stands for the reward that the draws carry."""


def scored_draws(
    draws: Paths,
    wanted: Sequence[str],
    judges: Sequence[str | RewardFunction],
    right_at: float | None,
    pool: bool,
    why: str,
) -> DrawTable:
    """Scored draws of one policy, with what the judges must know of the prompts.

    Raises:
        UserError: they are not.
    """
    others = [judge for judge in judges if judge != RECORDED]
    table = read_draws(
        paths_of(draws),
        [*wanted, "reward", *(["prompt"] if others else [])],
        why=why,
        optional=OF_PROMPT if others else (),
        right_at=right_at,
    )
    table.need_scores(draws)
    policies = table.policies()
    if len(policies) > 1 and not pool:
        named = "; ".join(policies[:3]) + (" and others" if len(policies) > 3 else "")
        problem = f"draws of {len(policies)} policies ({named}) do not say what n draws of one buy"
        raise UserError("draws", problem, "give --pool to take them as one set")
    return table


def scores(
    table: DrawTable, judge: str | RewardFunction, listener: Reporter
) -> NDArray[np.float64]:
    """The score of every row, in the order of the files; NaN beside an error."""
    if judge == RECORDED:
        found = np.full(table.rows, np.nan)
        for number, group in enumerate(table.only(())):
            values = [np.nan if s.value is None else s.value for s in group.scores]
            found[table.rows_of(number)] = values
        return found
    return rescore(table, judge, progress=listener.progress).rewards
