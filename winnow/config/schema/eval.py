"""`[eval]`: held-out prompts."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import CountOrNone, Name, Size, SizeOrNone, Temperature


class EvalConfig(Section):
    """Held-out prompts, never trained on."""

    source: Name | None = Field(
        None, description="Source of its own. Default: held out of `prompts`."
    )
    size: SizeOrNone = Field(512, description="Held-out prompts; 0: no evaluation.")
    samples: Size = Field(1, description="Samples per prompt.")
    temperature: Temperature | None = Field(None, description="Default: sampling.temperature.")
    every: CountOrNone = Field(0, description="Steps between evaluations; 0: first and last only.")
    patience: CountOrNone = Field(
        0, description="Stop after so many without a better reward, keep the best; 0: never."
    )
    test_size: SizeOrNone | None = Field(
        None,
        description="With patience: more prompts, to test the best with. Default: eval.size.",
    )
    kl_prompts: SizeOrNone = Field(
        32, description="So many of the prompts for KL to the start, at each; 0: none."
    )

    @model_validator(mode="before")
    @classmethod
    def _tested_on_as_many(cls, values: Any) -> Any:
        """A default that depends on others is written out: a run folder tells what held."""
        if not isinstance(values, dict) or not values.get("patience"):
            return values
        return {"test_size": values.get("size", cls.model_fields["size"].default), **values}
