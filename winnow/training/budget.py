"""What a run has spent, and when that is its budget.

What is counted is what `metrics.jsonl` has, so a run that is resumed counts as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from winnow.config.schema.budget import KINDS, BudgetConfig
from winnow.reporting.cost import cost_of, seconds_of
from winnow.types import Batch, StepStats


def spent_by(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """What a run had spent after each of its steps; all of them are of one run, in order."""
    total = dict.fromkeys(KINDS, 0.0)
    made = []
    for row in rows:
        cost = cost_of(row)
        total = {kind: total[kind] + cost[kind] for kind in KINDS}
        made.append(total)
    return made


def budget_spent(rows: Sequence[Mapping[str, Any]], budget: BudgetConfig) -> bool:
    """Whether a run with these rows of metrics.jsonl ended because its budget was spent."""
    return bool(budget.limits) and Spending(budget, rows).over


class Spending:
    """What a run spends, step by step.

    Args:
        rows: Of metrics.jsonl, of the steps that are done.
    """

    def __init__(self, budget: BudgetConfig, rows: Sequence[Mapping[str, Any]]) -> None:
        self._limits = budget.limits
        self._total = spent_by(rows)[-1] if rows else dict.fromkeys(KINDS, 0.0)

    @property
    def over(self) -> bool:
        """Whether one of the budgets is spent."""
        return self._over() is not None

    def step(
        self,
        batch: Batch,
        updates: Sequence[tuple[object, StepStats]],
        seconds: Mapping[str, float],
    ) -> bool:
        """Count a step that is not in metrics.jsonl yet; whether a budget is now spent."""
        groups = batch.groups[: len(batch.groups) - batch.merged] if batch.fresh else []
        made = [sample for group in groups for sample in group.samples]
        self._total["samples"] += len(made)
        self._total["tokens"] += sum(len(sample.token_ids) for sample in made)
        self._total["updates"] += sum(stats.applied for _, stats in updates)
        self._total["seconds"] += seconds_of(seconds)
        return self.over

    def told(self) -> str | None:
        """Which budget has ended the run, in a line."""
        kind = self._over()
        if kind is None:
            return None
        limit, total = f"{self._limits[kind]:,.10g}", f"{self._total[kind]:,.0f}"
        if kind == "seconds":
            total = f"{self._total[kind]:,.1f}"
        return f"stopped: budget.{kind} = {limit} is spent ({total} {kind})"

    def _over(self) -> str | None:
        return next(
            (kind for kind, limit in self._limits.items() if self._total[kind] >= limit), None
        )
