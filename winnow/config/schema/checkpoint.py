"""`[checkpoint]`: when weights are saved."""

from __future__ import annotations

from pydantic import Field

from winnow.config.schema.base import Section


class CheckpointConfig(Section):
    """When weights are saved. The last step always is."""

    every: int = Field(10, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Newest checkpoints kept.")
    average: float = Field(
        0.0, ge=0, lt=1, description="Share of the starting weights in the final model."
    )
