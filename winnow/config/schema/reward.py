"""`[reward]`: how a completion is scored, by one reward or by several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tomli_w
from pydantic import Field, field_validator, model_serializer
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Gib, Name, Parallel, Score, Seconds, Weight

SUM = "sum"
"""What `right_by` says where no part decides."""
_NEVER_RIGHT = ("length",)
"""Rewards that say nothing of right and wrong."""


class VerifierConfig(Section):
    """What one reward is."""

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

    @field_validator("options")
    @classmethod
    def _can_be_recorded(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            tomli_w.dumps(value)
        except TypeError as error:
            raise ValueError(f"must be what TOML can hold: {error}") from error
        return value


class PartConfig(VerifierConfig):
    """One of several rewards: a table `[[reward]]`."""

    name: Name = Field(description="As reward.name.")
    weight: Weight = Field(1.0, description="Its score times this is added to the reward.")
    label: Name | None = Field(None, description="Its name in metrics, files and messages.")

    @property
    def called(self) -> str:
        """Its label: by default what stands behind the last colon or slash of its name."""
        return self.label or self.name.rpartition(":")[2].rstrip("/").rpartition("/")[2]


class RewardConfig(VerifierConfig):
    """How a completion is scored. `reward = "x"` is short for `reward.name = "x"`.

    `reward = [...]` is short for `reward.parts = [...]`.
    """

    probe: bool = Field(
        True, description="Score one prompt before a model is loaded, and end if that fails."
    )
    right_at: Score | None = Field(
        None, description="From this reward on a sample is right. Default: as a file says, else 1."
    )
    parts: list[PartConfig] = Field(
        [], description="Several rewards, as [[reward]]: name, weight, label; docs/rewards.md."
    )
    right_by: Name | None = Field(
        None,
        description="The part that `right_at` is about, or 'sum'. Default: the first but 'length'.",
    )

    @property
    def bound(self) -> float:
        """The least reward of a right sample, where no file of samples says so."""
        return 1.0 if self.right_at is None else self.right_at

    @property
    def decides(self) -> str | None:
        """The label of the part that decides what is right; ``None``: the whole reward does."""
        if self.right_by is not None:
            return None if self.right_by == SUM else self.right_by
        return next((part.called for part in self.parts if part.name not in _NEVER_RIGHT), None)

    @property
    def each(self) -> list[tuple[str, VerifierConfig]]:
        """Every reward, with the key of its table."""
        if not self.parts:
            return [("reward", self)]
        return [(f"reward.parts.{n}", part) for n, part in enumerate(self.parts, start=1)]

    @field_validator("parts", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [{"name": part} if isinstance(part, str) else part for part in value]

    @field_validator("parts")
    @classmethod
    def _are_told_apart(cls, value: list[PartConfig]) -> list[PartConfig]:
        labels = [part.called for part in value]
        for label in labels:
            if labels.count(label) > 1 or label == SUM:
                problem = f"has two parts called '{label}'"
                problem = f"has a part called '{SUM}'" if label == SUM else problem
                remedy = 'give one a label of its own, such as label = "style"'
                raise PydanticCustomError("same_label", problem, {"remedy": remedy})
        return value

    @field_validator("right_by")
    @classmethod
    def _is_a_part(cls, value: str | None, others: ValidationInfo) -> str | None:
        labels = [part.called for part in others.data.get("parts", ())]
        if value is None or value in (*labels, SUM if labels else ""):
            return value
        remedy = f"use {', '.join((*labels, SUM))}" if labels else "leave it out"
        problem = "is no part's label" if labels else "is for several rewards, and there is one"
        raise PydanticCustomError("no_part", problem, {"remedy": remedy})

    @model_serializer(mode="wrap")
    def _what_is_read(self, written: Callable[[RewardConfig], dict[str, Any]]) -> dict[str, Any]:
        values = written(self)
        for key in VerifierConfig.model_fields if self.parts else ("parts",):
            values.pop(key, None)
        return values
