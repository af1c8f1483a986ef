"""`[prompts]`: where prompts come from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.schema.base import Section, listed
from winnow.config.schema.bounds import Count, Name, Range, Size

_NOT_OF_TEMPLATES = (
    *("conversation", "messages", "tools", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation"),
    *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    "tokenizer_kwargs",
)
"""What decides what is rendered, and how: for Winnow and the tokenizer to say."""


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
    chat_template_options: dict[str, Any] = Field(
        {}, description="For the chat template, such as {enable_thinking = false}."
    )
    limit: Count | None = Field(None, description="Most training prompts to use.")
    operations: list[Literal["+", "-", "*"]] = Field(
        ["+"], min_length=1, description="Arithmetic operations."
    )
    digits: list[Annotated[int, Range(1, 12)]] = Field(
        [2], min_length=1, description="Arithmetic operand lengths, mixed evenly."
    )
    size: Size = Field(10_000, description="Training prompts to generate.")

    _one = field_validator("operations", "digits", mode="before")(listed)

    @field_validator("chat_template_options")
    @classmethod
    def _are_the_templates(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in _NOT_OF_TEMPLATES or not name.isidentifier():
                problem = f"has {name!r:.40}, which is no option of a template"
                raise PydanticCustomError("not_of_templates", problem, {"remedy": "leave it out"})
        try:
            tomli_w.dumps(value)
        except TypeError as error:
            raise ValueError(f"must be what TOML can hold: {error}") from error
        return value

    @field_validator("system")
    @classmethod
    def _needs_chat(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is not None and not others.data.get("chat"):
            remedy = "set it, or leave prompts.system out (--set prompts.system= does)"
            raise PydanticCustomError("no_chat", "needs prompts.chat = true", {"remedy": remedy})
        return value
