"""`[anchor]`: supervised examples in every update."""

from __future__ import annotations

from pydantic import Field

from winnow.config.schema.base import Section


class AnchorConfig(Section):
    """Supervised examples mixed into every update, so that other skills are kept."""

    source: str | None = Field(None, description="A .jsonl or .parquet file, or 'hub:NAME'.")
    split: str = Field("train", description="Split of a hub data set.")
    prompt_column: str = Field("prompt", description="Column with the prompt.")
    completion_column: str = Field("completion", description="Column with the completion to learn.")
    template: str | None = Field(None, description="As prompts.template.")
    ratio: float = Field(0.25, gt=0, description="Examples per prompt of an update, rounded up.")
    coefficient: float = Field(1.0, gt=0, description="Of their mean -log pi per token.")
