"""`[anchor]`: supervised examples in every update."""

from __future__ import annotations

from pydantic import Field

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Coefficient, Name, PerExample


class AnchorConfig(Section):
    """Supervised examples mixed into every update, so that other skills are kept."""

    source: Name | None = Field(None, description="A .jsonl or .parquet file, or 'hub:NAME'.")
    split: Name = Field("train", description="Split of a hub data set.")
    prompt_column: Name = Field("prompt", description="Column with the prompt.")
    completion_column: Name = Field(
        "completion", description="Column with the completion to learn."
    )
    template: Name | None = Field(None, description="As prompts.template.")
    ratio: PerExample = Field(0.25, description="Examples per prompt of an update, rounded up.")
    coefficient: Coefficient = Field(1.0, description="Of their mean -log pi per token.")
