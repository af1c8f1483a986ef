"""`[budget]`: what a run may spend; it ends with the first step that has spent it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import CountOrNone, Range

KINDS = ("samples", "tokens", "updates", "seconds")


class BudgetConfig(Section):
    """What a run may spend. `steps` ends it too, whichever comes first."""

    samples: CountOrNone = Field(
        0, description="End with the step that reaches so many training samples; 0: no budget."
    )
    tokens: Annotated[int, Range(0, 10**15)] = Field(
        0, description="The same of sampled tokens, held-out ones aside."
    )
    updates: CountOrNone = Field(0, description="The same of updates.")
    seconds: Annotated[float, Range(0.001, 1e8, zero=True)] = Field(
        0.0, description="The same of seconds, without evaluations and checkpoints."
    )

    @property
    def limits(self) -> dict[str, float]:
        """The budgets that are set, by their kind."""
        return {kind: getattr(self, kind) for kind in KINDS if getattr(self, kind)}
