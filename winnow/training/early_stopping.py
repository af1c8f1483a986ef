"""Early stopping: when the held-out reward has been no better for some evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.storage.run_folder import RunStore


@dataclass(frozen=True)
class BestSoFar:
    """The best evaluation so far.

    Attributes:
        step: Its step, the earliest of equals; ``None`` before the first.
        reward: Its mean held-out reward.
        stale: Evaluations since.
    """

    step: int | None = None
    reward: float = float("-inf")
    stale: int = 0


def best_of_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> BestSoFar:
    """The best of the rows of evals.jsonl, in order; one without a reward is never better."""
    found = BestSoFar()
    for row in evaluations:
        if row.get("split", "eval") != "eval":
            continue
        reward = row.get("reward")
        if reward is not None and reward > found.reward:
            found = BestSoFar(int(row["step"]), float(reward))
        else:
            found = BestSoFar(found.step, found.reward, found.stale + 1)
    return found


def chosen_checkpoint(store: RunStore, patience: int) -> tuple[Path, int]:
    """The checkpoint that a run ends with, and its step: the best with patience, else the last."""
    best = best_of_evaluations(store.lines("evals.jsonl")).step if patience else None
    found = dict(store.checkpoints())
    step = best if best in found else max(found)
    return found[step], step
