"""`[eval]`: held-out prompts."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import (
    CountOrNone,
    Mass,
    Name,
    Size,
    SizeOrNone,
    Temperature,
    Tokens,
)

DEFAULT_SIZE = 512


class EvalConfig(Section):
    """Held-out prompts, never trained on."""

    source: Name | None = Field(
        None, description="Source of its own. Default: held out of `prompts`."
    )
    size: SizeOrNone | None = Field(
        None,
        description="Held-out prompts; 0: none. Default: 512, or a fifth of those of `prompts`.",
    )
    samples: Size = Field(1, description="Samples per prompt.")
    temperature: Temperature | None = Field(
        None, description="0: greedy. Default: sampling.temperature."
    )
    top_k: SizeOrNone | None = Field(None, description="Default: sampling.top_k.")
    top_p: Mass | None = Field(None, description="Default: sampling.top_p.")
    max_tokens: Tokens | None = Field(None, description="Default: sampling.max_tokens.")
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
        if not isinstance(values, dict) or not (values.get("patience") and "size" in values):
            return values
        return {"test_size": values["size"], **values}

    def sizes(self, families: int) -> tuple[int, int]:
        """How many prompts are held out, and how many more to test with.

        Args:
            families: Of how many, which differ in more than their wording.
        """
        most = DEFAULT_SIZE if self.size is None else self.size
        if self.size is None and self.source is None:
            most = min(most, max(1, families // 5))
        if not self.patience:
            return most, self.test_size or 0
        return most, most if self.test_size is None else self.test_size
