"""`[prompts]`: where prompts come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.schema.base import Section, listed
from winnow.config.schema.bounds import Count, Name, Range, Size


class PromptsConfig(Section):
    """Where prompts come from. `prompts = "x"` is short for `prompts.source = "x"`."""

    source: Name = Field(
        "arithmetic",
        description="'arithmetic', a .jsonl or .parquet file, 'hub:NAME[:CONFIG]', 'gym:TASK'.",
    )
    split: Name = Field("train", description="Split of a hub data set.")
    prompt_column: Name = Field("prompt", description="Column with the question (or messages).")
    answer_column: Name = Field(
        "answer",
        description="Column with the answer that verifiers use, or COLUMN.FIELD of a struct.",
    )
    difficulty_column: Name | None = Field(None, description="Column to break success down by.")
    template: Name | None = Field(
        None, description="Prompt text with {column} filled in; {{ and }} are braces."
    )
    chat: bool = Field(False, description="Send the prompt through the model's chat template.")
    system: str | None = Field(None, description="System message, with `chat`.")
    limit: Count | None = Field(None, description="Most training prompts to use.")
    operations: list[Literal["+", "-", "*"]] = Field(
        ["+"], min_length=1, description="Arithmetic operations."
    )
    digits: list[Annotated[int, Range(1, 12)]] = Field(
        [2], min_length=1, description="Arithmetic operand lengths, mixed evenly."
    )
    size: Size = Field(10_000, description="Training prompts to generate.")

    _one = field_validator("operations", "digits", mode="before")(listed)

    @field_validator("system")
    @classmethod
    def _needs_chat(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and not others.data.get("chat"):
            remedy = "set it, or leave prompts.system out (--set prompts.system= does)"
            raise PydanticCustomError("no_chat", "needs prompts.chat = true", {"remedy": remedy})
        return value
