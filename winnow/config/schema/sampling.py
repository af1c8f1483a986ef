"""`[sampling]`: how completions are sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from winnow.config.schema.base import Section, listed
from winnow.config.schema.bounds import Gib, Mass, Size, SizeOrNone, Temperature, Tokens


class SamplingConfig(Section):
    """How completions are sampled."""

    temperature: Temperature = Field(
        1.0, description="Sampling temperature; 0: always the likeliest token (greedy)."
    )
    top_k: SizeOrNone = Field(0, description="Keep the k likeliest tokens; 0: all.")
    top_p: Mass = Field(1.0, description="Keep the nucleus of this mass; 1: all.")
    max_tokens: Tokens = Field(256, description="Longest completion, in tokens.")
    stop: list[str] = Field([], description="A completion ends before any of these.")
    batch: Size = Field(256, description="Most completions in progress at a time.")
    cache_gib: Gib = Field(2.0, description="GiB for their KV cache; where short, fewer at a time.")

    dtype: Literal["float32", "bfloat16", "auto"] | None = Field(
        None, description="Sample from a copy of the weights in it. Default: from the weights."
    )

    _one = field_validator("stop", mode="before")(listed)

    @field_validator("stop")
    @classmethod
    def _not_empty(cls, value: list[str]) -> list[str]:
        if "" in value:
            raise ValueError("an empty stop string would end every completion")
        return value

    @property
    def truncated(self) -> bool:
        return self.top_k > 0 or self.top_p < 1
