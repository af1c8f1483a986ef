"""`[eval]`: held-out prompts."""

from __future__ import annotations

from pydantic import Field

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
