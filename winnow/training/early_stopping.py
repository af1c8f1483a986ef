"""Early stopping: when the held-out reward has been no better for some evaluations.

The best of several evaluations on the same prompts overstates the model that had it, so that one is
tested on prompts of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from winnow.storage.run_folder import RunStore
from winnow.theory.checks import rounding_of


@dataclass(frozen=True)
class BestSoFar:
    """The best evaluation so far.

    Attributes:
        step: Its step, the earliest of equals; ``None`` before the first.
        reward: Its mean held-out reward.
        stale: Evaluations since.
        number: Evaluations with a reward, among which it is the best.
        last: The step of the last one.
    """

    step: int | None = None
    reward: float = float("-inf")
    stale: int = 0
    number: int = 0
    last: int | None = None


def best_of_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> BestSoFar:
    """The best of the rows of evals.jsonl, in order; one without a reward is never better.

    Nor is one that is above by rounding alone, as means of the same scores in another order are.
    """
    found = BestSoFar()
    for row in evaluations:
        if row.get("split", "eval") != "eval":
            continue
        reward = row.get("reward")
        number, step = found.number + (reward is not None), int(row["step"])
        if reward is not None and (found.step is None or _above(reward, found.reward)):
            found = BestSoFar(step, float(reward), number=number, last=step)
        else:
            found = BestSoFar(found.step, found.reward, found.stale + 1, number, step)
    return found


def _above(reward: float, other: float) -> bool:
    return reward - other > rounding_of(np.array([reward, other]))


def stopped_early(evaluations: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether a run with these rows of evals.jsonl has stopped by its patience."""
    return 0 < patience <= best_of_evaluations(evaluations).stale


def chosen_checkpoint(store: RunStore, patience: int) -> tuple[Path, int]:
    """The checkpoint that a run ends with, and its step: the best with patience, else the last."""
    best = best_of_evaluations(store.lines("evals.jsonl")).step if patience else None
    found = dict(store.checkpoints())
    step = best if best in found else max(found)
    return found[step], step


@dataclass(frozen=True)
class Reported:
    """The evaluations that a run reports, as rows of evals.jsonl.

    Attributes:
        before, after: Of the start and of the model that the run ends with, on the same prompts.
        tested: Whether nothing was chosen by those prompts.
        selected: Of the checkpoint that was chosen, on the prompts that it was chosen by; ``None``
            where none was chosen.
        number: Evaluations among which that was the best.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    tested: bool = True
    selected: Mapping[str, Any] | None = None
    number: int | None = None


def reported(evaluations: Sequence[Mapping[str, Any]], patience: int, step: int) -> Reported | None:
    """What a run reports: with early stopping, the test of the checkpoint that it chose.

    Args:
        evaluations: The rows of evals.jsonl, in order.
        step: Of the checkpoint that the run ends with.

    Returns:
        ``None`` without any evaluation. Without test prompts, or before the test, the rows by which
        the checkpoint was chosen.
    """
    if not evaluations:
        return None
    if not patience:
        return Reported(evaluations[0], evaluations[-1])
    found: dict[str, list[Mapping[str, Any]]] = {"eval": [], "test": [], "final": []}
    for row in evaluations:
        found[row.get("split", "eval")].append(row)
    number = best_of_evaluations(evaluations).number
    selected = _at(step, found["eval"])
    first, last = _at(0, found["test"]), _at(step, found["test"])
    if first is not None and last is not None:
        return Reported(first, last, True, selected, number)
    made = [*found["final"], selected or found["eval"][-1]]
    return Reported(found["eval"][0], made[0], False, selected, number)


def _at(step: int, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((row for row in rows if row["step"] == step), None)
