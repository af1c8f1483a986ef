"""`[server]`: an OpenAI-compatible server that samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from winnow.config.schema.base import Section


class ServerConfig(Section):
    """An OpenAI-compatible server that samples instead of a model in this process."""

    url: str | None = Field(None, description="E.g. 'http://localhost:8000/v1'.")
    model: str | None = Field(None, description="Its name on the server. Default: `model`.")
    api: Literal["completions", "chat"] = Field("completions", description="Endpoint.")
    concurrency: int = Field(16, ge=1, description="Requests in flight.")
    requests_per_minute: float = Field(0.0, ge=0, description="0: no limit.")
    timeout: float = Field(120.0, gt=0, description="Seconds a request may take.")
    retries: int = Field(6, ge=0, description="Retries of a request, with back-off.")
    key_env: str | None = Field(
        None, description="Environment variable with the API key, if one is needed."
    )
