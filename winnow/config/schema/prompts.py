"""`[prompts]`: where prompts come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.schema.base import Section, listed


class PromptsConfig(Section):
    """Where prompts come from. `prompts = "x"` is short for `prompts.source = "x"`."""

    source: str = Field(
        "arithmetic",
        description="'arithmetic', a .jsonl or .parquet file, 'hub:NAME[:CONFIG]', 'gym:TASK'.",
    )
    split: str = Field("train", description="Split of a hub data set.")
    prompt_column: str = Field("prompt", description="Column with the question (or messages).")
    answer_column: str = Field(
        "answer",
        description="Column with the answer that verifiers use, or COLUMN.FIELD of a struct.",
    )
    difficulty_column: str | None = Field(None, description="Column to break success down by.")
    template: str | None = Field(
        None, description="Prompt text with {column} filled in; {{ and }} are braces."
    )
    chat: bool = Field(False, description="Send the prompt through the model's chat template.")
    system: str | None = Field(None, description="System message, with `chat`.")
    limit: int | None = Field(None, ge=1, description="Most training prompts to use.")
    operations: list[Literal["+", "-", "*"]] = Field(
        ["+"], min_length=1, description="Arithmetic operations."
    )
    digits: list[Annotated[int, Field(ge=1, le=12)]] = Field(
        [2], min_length=1, description="Arithmetic operand lengths, mixed evenly."
    )
    size: int = Field(10_000, ge=1, description="Training prompts to generate.")

    _one = field_validator("operations", "digits", mode="before")(listed)

    @field_validator("system")
    @classmethod
    def _needs_chat(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and not others.data.get("chat"):
            remedy = "set it, or leave prompts.system out (--set prompts.system= does)"
            raise PydanticCustomError("no_chat", "needs prompts.chat = true", {"remedy": remedy})
        return value
