"""`reward.options` of `judge`: a model behind a server that scores completions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.messages import complaint
from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Name, Parallel, PerMinute, Score, Seconds, Tokens, Tries
from winnow.config.secrets import NOT_A_NAME, is_bare, names_a_variable
from winnow.errors import UserError, nearest


class JudgeConfig(Section):
    """How a judge is asked, and how its answer is read."""

    url: Name = Field(description="E.g. 'http://localhost:8000/v1'.")
    model: Name = Field(description="The model's name on the server.")
    template: Name = Field(description="What it is asked, {prompt}, {completion}, {answer} in it.")
    parse: Name | None = Field(None, description="A pattern whose group 1 is the score.")
    scores: dict[str, Score] = Field(
        {}, validate_default=True, description="The score of each word it may say."
    )
    max_tokens: Tokens = Field(256, description="Most tokens of its answer.")
    key_env: Name | None = Field(None, description="Environment variable with the API key.")
    concurrency: Parallel = Field(16, description="Requests in flight.")
    requests_per_minute: PerMinute = Field(0.0, description="0: no limit.")
    timeout: Seconds = Field(120.0, description="Seconds a request may take.")
    retries: Tries = Field(6, description="Retries of a request, with back-off.")

    @field_validator("url")
    @classmethod
    def _is_bare(cls, value: str) -> str:
        if not is_bare(value):
            problem = "it holds a password or a query ('@', '?' or '#')"
            remedy = "leave that out, and name the key's environment variable in key_env"
            raise PydanticCustomError("secret", problem, {"remedy": remedy})
        return value

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not names_a_variable(value):
            problem, remedy = NOT_A_NAME
            raise PydanticCustomError("secret", problem, {"remedy": remedy})
        return value

    @field_validator("template")
    @classmethod
    def _shows_the_completion(cls, value: str) -> str:
        if "{completion}" not in value:
            remedy = "write {completion} where the completion goes"
            problem = "it does not show the completion"
            raise PydanticCustomError("no_completion", problem, {"remedy": remedy})
        return value

    @field_validator("parse")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is None:
            return value
        try:
            groups = re.compile(value).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        if groups != 1:
            remedy = "put the score, and nothing else, in (...), and other groups in (?:...)"
            problem = f"must have one group, and it has {groups}"
            raise PydanticCustomError("groups", problem, {"remedy": remedy})
        return value

    @field_validator("scores")
    @classmethod
    def _can_be_read(cls, value: dict[str, float], others: ValidationInfo) -> dict[str, float]:
        if not value and others.data.get("parse", "") is None:
            remedy = "set parse = 'Score: (\\d+)', or scores = {yes = 1.0, no = 0.0}"
            problem = "is missing, as is parse, so that no answer could be read"
            raise PydanticCustomError("unreadable", problem, {"remedy": remedy})
        return value


def judge_config(options: Mapping[str, Any], key: str) -> JudgeConfig:
    """The options of a judge.

    Args:
        key: The table that has them, for messages.

    Raises:
        UserError: the first thing wrong with them.
    """
    at = f"{key}.options"
    for name in options:
        if name not in JudgeConfig.model_fields:
            problem = f"unknown option {name!r} of judge"
            raise UserError(at, problem, nearest(name, JudgeConfig.model_fields))
    try:
        return JudgeConfig.model_validate(dict(options))
    except ValidationError as error:
        wrong = complaint(error, JudgeConfig)
        raise wrong.with_(setting=f"{at}.{wrong.setting}") from error
