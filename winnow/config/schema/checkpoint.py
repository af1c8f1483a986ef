"""`[checkpoint]`: when weights are saved."""

from __future__ import annotations

from pydantic import Field

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Count, Share


class CheckpointConfig(Section):
    """When weights are saved. The last step always is."""

    every: Count = Field(10, description="Steps between checkpoints.")
    keep: Count = Field(2, description="Newest checkpoints kept.")
    keep_optimizer: bool = Field(
        True,
        description="Keep the optimizer's state when the run is done: with it steps can be raised.",
    )
    average: Share = Field(0.0, description="Share of the starting weights in the final model.")
