"""What a step has spent, by its row of metrics.jsonl, and where a budget will end a run. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_ASIDE = ("evaluate", "kl", "checkpoint")
"""Stages that measure and save: how often they are made changes nothing of the training."""


def cost_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What a step has spent, by kind of budget; `row` is its row of metrics.jsonl.

    Later passes over the same samples make none.
    """
    fresh = bool(row["tokens_sampled"])
    return {
        "samples": row["samples"] if fresh else 0,
        "tokens": row["tokens_sampled"],
        "updates": row["updates"],
        "seconds": seconds_of(row["seconds"]),
    }


def seconds_of(stages: Mapping[str, float]) -> float:
    """Seconds of sampling, scoring and learning."""
    # rounded as in the row: a run that is resumed must count what this one does
    return sum(round(value, 3) for name, value in stages.items() if name not in _ASIDE)


def last_step(step: int, last: int, limits: Mapping[str, float], spent: Mapping[str, float]) -> int:
    """The step that a run will end with, if the steps to come spend what those before did.

    Args:
        step: Steps done, at least 1.
        last: The last step without a budget.
        limits: The budgets, by kind.
        spent: By these steps, by kind.
    """
    ends = [
        step + max(0, math.ceil(step * (limit / spent[kind] - 1) - 1e-9))
        for kind, limit in limits.items()
        if spent.get(kind)
    ]
    return min([last, *ends])
