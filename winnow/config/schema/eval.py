"""`[eval]`: held-out prompts."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from winnow.config.schema.base import Section


class EvalConfig(Section):
    """Held-out prompts, never trained on."""

    source: str | None = Field(
        None, description="Source of its own. Default: held out of `prompts`."
    )
    size: int = Field(512, ge=0, description="Held-out prompts; 0: no evaluation.")
    samples: int = Field(1, ge=1, description="Samples per prompt.")
    temperature: float | None = Field(None, gt=0, description="Default: sampling.temperature.")
    every: int = Field(0, ge=0, description="Steps between evaluations; 0: first and last only.")
    patience: int = Field(
        0, ge=0, description="Stop after so many without a better reward, keep the best; 0: never."
    )
    test_size: int | None = Field(
        None,
        ge=0,
        description="With patience: more prompts, to test the best with. Default: eval.size.",
    )
    kl_prompts: int = Field(
        32, ge=0, description="So many of the prompts for KL to the start, at each; 0: none."
    )

    @model_validator(mode="before")
    @classmethod
    def _tested_on_as_many(cls, values: Any) -> Any:
        """A default that depends on others is written out: a run folder tells what held."""
        if not isinstance(values, dict) or not values.get("patience"):
            return values
        return {"test_size": values.get("size", cls.model_fields["size"].default), **values}
