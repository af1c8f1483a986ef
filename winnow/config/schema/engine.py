"""`[engine]`: what samples and what trains."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import (
    CoefficientOrNone,
    CountOrNone,
    Mass,
    Name,
    Parallel,
    ParallelOrNone,
    PerMinute,
    Port,
    Seconds,
    Tries,
)
from winnow.config.secrets import NOT_A_NAME, NOT_BARE, is_bare, names_a_variable

_READERS = {
    **dict.fromkeys(("url", "api", "concurrency", "requests_per_minute", "key_env"), ("openai",)),
    **dict.fromkeys(("served_model", "timeout", "retries"), ("openai", "vllm")),
    **dict.fromkeys(("urls", "servers", "transfer", "transfer_dir", "pause", "canary"), ("vllm",)),
    "vllm_dtype": ("vllm",),
}
"""Samplers that read a setting which others do not."""
_STARTED = (
    "start_timeout",
    "vllm_python",
    "vllm_memory",
    "vllm_context",
    "vllm_port",
    "vllm_devices",
    "vllm_args",
)
"""What only servers read that Winnow starts."""


class EngineConfig(Section):
    """What samples and what trains; with 'openai' or 'vllm', the servers that sample."""

    sampler: Literal["local", "openai", "vllm"] = Field(
        "local",
        description="What samples: this process, an OpenAI-compatible server, vLLM servers.",
    )
    learner: Literal["local", "fsdp"] = Field(
        "local",
        description="What trains: this process ('local'), all that torchrun started ('fsdp').",
    )
    activation_checkpointing: bool = Field(
        False, description="Keep no activations of a block, but compute them again."
    )
    cpu_offload: bool = Field(
        False, description="Keep weights and optimizer in the host's memory between passes."
    )
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
    urls: list[Name] = Field(
        [], description="vLLM servers that run already, e.g. ['http://localhost:8000']."
    )
    servers: ParallelOrNone = Field(
        0, validate_default=True, description="vLLM servers that Winnow starts and ends."
    )
    transfer: Literal["folder", "lora"] = Field(
        "folder", description="What travels to vLLM: all weights, or the adapters alone."
    )
    transfer_dir: Name | None = Field(
        None, description="Folder that the servers see too. Default: /dev/shm where it is."
    )
    pause: Literal["wait", "abort"] = Field(
        "wait", description="New weights let samples in progress end, or have them asked anew."
    )
    canary: CoefficientOrNone = Field(
        0.0, description="Most nats between log-probs of server and learner; 0: by dtype."
    )
    start_timeout: Seconds = Field(600.0, description="Seconds that a server may take to start.")
    vllm_python: Name | None = Field(
        None, validate_default=True, description="Python of the environment that vLLM is in."
    )
    vllm_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Data type that vLLM computes in, `urls` too. Default: `dtype`."
    )
    vllm_memory: Mass = Field(0.9, description="Share of its GPU's memory that a server takes.")
    vllm_context: CountOrNone = Field(
        0, description="Most tokens of prompt and completion; 0: the model's own context."
    )
    vllm_port: Port = Field(0, description="Port of the first server, others after it; 0: free.")
    vllm_devices: list[Name] = Field(
        [], description="GPUs of each server, e.g. ['1', '2,3']; without a GPU, cores."
    )
    vllm_args: list[Name] = Field([], description="More arguments of vLLM's server.")

    @field_validator(*_READERS, *_STARTED)
    @classmethod
    def _is_read(cls, value: Any, others: ValidationInfo) -> Any:
        name, sampler = others.field_name or "", others.data.get("sampler")
        readers = _READERS.get(name, ("vllm",))
        if value == cls.model_fields[name].default or sampler is None:
            return value
        if sampler not in readers:
            problem = f"does nothing with engine.sampler = '{sampler}'"
            named = " or ".join(f"'{reader}'" for reader in readers)
            remedy = f"set engine.sampler = {named}, or leave it out"
            raise PydanticCustomError("not_read", problem, {"remedy": remedy})
        if name in _STARTED and not others.data.get("servers", 1):
            problem = "does nothing with servers that run already"
            remedy = "set engine.servers, or leave it out"
            raise PydanticCustomError("not_read", problem, {"remedy": remedy})
        return value

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for url in value:
            if not is_bare(url):
                problem, _ = NOT_BARE
                raise PydanticCustomError("secret", problem, {"remedy": "leave that out"})
            if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
                remedy = "set addresses such as 'http://localhost:8000'"
                raise PydanticCustomError("no_url", "must be addresses", {"remedy": remedy})
        return value

    @field_validator("servers")
    @classmethod
    def _are_somewhere(cls, value: int, others: ValidationInfo) -> int:
        urls = others.data.get("urls", ())
        if others.data.get("sampler") == "vllm" and bool(value) == bool(urls):
            problem = "is missing, and engine.sampler = 'vllm' needs it or engine.urls"
            if urls:
                problem = "starts servers, and engine.urls names others"
            remedy = "set one of the two, such as engine.servers = 1"
            raise PydanticCustomError("no_servers", problem, {"remedy": remedy})
        return value

    @field_validator("vllm_python")
    @classmethod
    def _has_python(cls, value: str | None, others: ValidationInfo) -> str | None:
        if value is None and others.data.get("sampler") == "vllm" and others.data.get("servers"):
            problem = "is missing, and engine.servers needs it"
            remedy = "make an environment with vLLM (make vllm does) and set its bin/python"
            raise PydanticCustomError("no_python", problem, {"remedy": remedy})
        return value

    @field_validator("cpu_offload")
    @classmethod
    def _is_of_parts(cls, value: bool, others: ValidationInfo) -> bool:
        if value and others.data.get("learner") != "fsdp":
            problem = "does nothing with engine.learner = 'local'"
            remedy = "set engine.learner = 'fsdp', or leave it out"
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
