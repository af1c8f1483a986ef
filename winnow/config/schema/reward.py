"""`[reward]`: how a completion is scored."""

from __future__ import annotations

from typing import Any

import tomli_w
from pydantic import Field, field_validator

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Gib, Name, Parallel, Score, Seconds


class RewardConfig(Section):
    """How a completion is scored. `reward = "x"` is short for `reward.name = "x"`."""

    name: Name = Field(
        "number", description="A built-in verifier, 'module:function' or 'FILE.py:function'."
    )
    options: dict[str, Any] = Field({}, description="Options of the built-in verifier.")
    time_limit: Seconds = Field(10.0, description="Seconds a verifier may take per sample.")
    workers: Parallel = Field(2, description="Verifier processes.")
    import_seconds: Seconds = Field(
        60.0, description="Seconds that importing the verifier may take, in each process."
    )
    memory_gib: Gib | None = Field(
        None, description="GiB a verifier process may use. Default: 4 on Linux, else no limit."
    )
    probe: bool = Field(
        True, description="Score one prompt before a model is loaded, and end if that fails."
    )
    right_at: Score | None = Field(
        None, description="From this reward on a sample is right. Default: as a file says, else 1."
    )

    @property
    def bound(self) -> float:
        """The least reward of a right sample, where no file of samples says so."""
        return 1.0 if self.right_at is None else self.right_at

    @field_validator("options")
    @classmethod
    def _can_be_recorded(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            tomli_w.dumps(value)
        except TypeError as error:
            raise ValueError(f"must be what TOML can hold: {error}") from error
        return value
