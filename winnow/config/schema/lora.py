"""`[lora]`: train low-rank adapters instead of all weights."""

from __future__ import annotations

from pydantic import Field, field_validator

from winnow.config.schema.base import Section, listed
from winnow.config.schema.bounds import Coefficient, Name, Rank


class LoraConfig(Section):
    """Low-rank adapters (2106.09685) instead of all weights, by peft."""

    rank: Rank = Field(0, description="Rank of the adapters; 0: train all weights.")
    alpha: Coefficient = Field(16.0, description="Adapter output is scaled by alpha / rank.")
    targets: list[Name] = Field(
        ["all-linear"], min_length=1, description="Layer names, or 'all-linear'."
    )
    merge: bool = Field(False, description="At the end, write a model with the adapters merged in.")

    _one = field_validator("targets", mode="before")(listed)
