"""`[engine]`: what samples and what trains."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Name, Parallel, PerMinute, Seconds, Tries
from winnow.config.secrets import NOT_A_NAME, NOT_BARE, is_bare, names_a_variable

_OPENAI = (
    "url",
    "served_model",
    "api",
    "concurrency",
    "requests_per_minute",
    "timeout",
    "retries",
    "key_env",
)
"""What only the sampler 'openai' reads."""


class EngineConfig(Section):
    """What samples and what trains; with sampler 'openai', the server that samples."""

    sampler: Literal["local", "openai"] = Field(
        "local",
        description="What samples: this process ('local'), an OpenAI-compatible server ('openai').",
    )
    learner: Literal["local"] = Field("local", description="What trains: this process ('local').")
    url: Name | None = Field(
        None, validate_default=True, description="E.g. 'http://localhost:8000/v1'."
    )
    served_model: Name | None = Field(
        None, description="The model's name on the server. Default: `model`."
    )
    api: Literal["completions", "chat"] = Field("completions", description="Endpoint.")
    concurrency: Parallel = Field(16, description="Requests in flight.")
    requests_per_minute: PerMinute = Field(0.0, description="0: no limit.")
    timeout: Seconds = Field(120.0, description="Seconds a request may take.")
    retries: Tries = Field(6, description="Retries of a request, with back-off.")
    key_env: Name | None = Field(
        None, description="Environment variable with the API key, if one is needed."
    )

    @field_validator(*_OPENAI)
    @classmethod
    def _is_read(cls, value: Any, others: ValidationInfo) -> Any:
        default = cls.model_fields[others.field_name or ""].default
        if others.data.get("sampler") == "local" and value != default:
            problem = "does nothing with engine.sampler = 'local'"
            remedy = "set engine.sampler = 'openai', or leave it out"
            raise PydanticCustomError("not_read", problem, {"remedy": remedy})
        return value

    @field_validator("url")
    @classmethod
    def _is_there(cls, value: str | None, others: ValidationInfo) -> str | None:
        if others.data.get("sampler") == "openai" and value is None:
            problem = "is missing, and engine.sampler = 'openai' needs it"
            remedy = "set it, such as 'http://localhost:8000/v1'"
            raise PydanticCustomError("no_url", problem, {"remedy": remedy})
        if value is not None and not is_bare(value):
            problem, remedy = NOT_BARE
            raise PydanticCustomError("secret", problem, {"remedy": remedy})
        return value

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not names_a_variable(value):
            problem, remedy = NOT_A_NAME
            raise PydanticCustomError("secret", problem, {"remedy": remedy})
        return value
