"""STUDY.toml, typed: `[study]`, `[base]` and a `[variants.NAME]` for each variant."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from winnow.config.messages import complaint
from winnow.config.schema.base import Section
from winnow.config.schema.bounds import Name, Parallel, ParallelOrNone, Range, Score, Seed
from winnow.config.schema.budget import BudgetConfig
from winnow.errors import UserError, nearest, no_file

Metric = Literal["accuracy", "reward"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,59}")
_MOST = 1000
"""Seeds; variants."""


def _plain(text: str) -> Any:
    """A message as it is: braces in a name are no places for values."""
    return text.replace("{", "(").replace("}", ")")


class StudyTable(Section):
    """`[study]`: what is run, and how it is compared."""

    name: Name = Field("study", description="Its name. Default: the file's.")
    seeds: list[Seed] = Field(
        list(range(5)), description="So many from 0 on, or a list: each variant runs with each."
    )
    parallel: Parallel = Field(1, description="Runs at a time.")
    threads: ParallelOrNone = Field(
        0, description="CPU threads of each run; 0: this machine's, shared among those at a time."
    )
    metric: Metric = Field("accuracy", description="What variants are compared by: held out.")
    reference: Name | None = Field(
        None, description="Variant that the others are compared with. Default: the first."
    )
    level: Annotated[float, Range(0.5, 0.9999)] = Field(0.95, description="Of all intervals.")
    power: Annotated[float, Range(0.05, 0.9999)] = Field(
        0.8, description="How often the number of seeds that is named finds such a difference."
    )
    margin: Annotated[float, Range(1e-9, 1e9, zero=True)] = Field(
        0.0,
        description="Two variants are equal if they differ by less, in the metric; 0: none are.",
    )
    reach: Score | None = Field(
        None, description="Level of the metric to be reached. Default: half of the way up."
    )
    axis: Literal["samples", "tokens", "updates", "seconds"] | None = Field(
        None, description="What the curves run over. Default: the budget, else samples."
    )
    budget: BudgetConfig = BudgetConfig()

    @field_validator("name")
    @classmethod
    def _folder(cls, value: str) -> str:
        if Path(value).name != value or value == "..":
            remedy = {"remedy": "leave out / and .."}
            raise PydanticCustomError("unreadable", "must be the name of a folder", remedy)
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= _MOST:
                raise PydanticCustomError("out_of_range", f"must be from 1 to {_MOST:,}")
            return list(range(value))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if not value or len(value) > _MOST:
            raise PydanticCustomError("out_of_range", f"must be from 1 to {_MOST:,} of them")
        if len(set(value)) < len(value):
            raise PydanticCustomError("twice", "a seed is named twice")
        return value

    @model_validator(mode="after")
    def _one_budget(self) -> StudyTable:
        if len(self.budget.limits) > 1:
            problem = f"budget has {' and '.join(self.budget.limits)}"
            raise PydanticCustomError("unreadable", problem, {"remedy": "a study is held to one"})
        return self

    @property
    def over(self) -> str:
        """The kind of budget that is the curves' x axis."""
        return self.axis or next(iter(self.budget.limits), "samples")


class StudyFile(Section):
    """A whole STUDY.toml."""

    study: StudyTable = StudyTable()
    base: dict[str, Any] = Field({}, description="`recipe`, and any settings over it.")
    variants: dict[str, dict[str, Any]] = Field(
        description="Settings of each variant, over those of base; or a list of algorithms."
    )

    @field_validator("variants", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            if len(set(value)) < len(value):
                raise PydanticCustomError("twice", "a variant is named twice")
            return {name: {"algorithm": name} for name in value}
        return value

    @field_validator("variants")
    @classmethod
    def _some(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not 1 <= len(value) <= _MOST:
            raise PydanticCustomError("out_of_range", f"must be from 1 to {_MOST:,} of them")
        return value

    @model_validator(mode="after")
    def _reference(self) -> StudyFile:
        name = self.study.reference
        if name is not None and name not in self.variants:
            problem = _plain(f"study.reference: {name!r:.60} is no variant")
            remedy = nearest(name, self.variants)
            raise PydanticCustomError("unreadable", problem, {"remedy": remedy})
        return self

    @property
    def reference(self) -> str:
        """The variant that the others are compared with."""
        return self.study.reference or next(iter(self.variants))


def study_of(values: Mapping[str, Any], name: str = "study") -> StudyFile:
    """A study from nested values; the first thing wrong becomes one line.

    Args:
        name: Its name, if it has none of its own.
    """
    table = values.get("study", {})
    if isinstance(table, Mapping):
        values = {**values, "study": {"name": name, **table}}
    if "variants" not in values:
        remedy = 'write [variants.NAME] tables, or variants = ["raft", "grpo"]'
        raise UserError("variants", "there are none to compare", remedy)
    for variant in values["variants"] if isinstance(values["variants"], Mapping | list) else ():
        if _NAME.fullmatch(str(variant)) is None:
            problem = f"a variant's name is that of a folder, and {str(variant)!r:.60} is none"
            raise UserError("variants", problem, "use letters, digits and + . _ -")
    try:
        return StudyFile.model_validate(dict(values))
    except ValidationError as error:
        raise complaint(error, StudyFile) from error


def read_study(path: Path) -> StudyFile:
    """A study from its file.

    Raises:
        UserError: there is none, or it is no study.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserError("study", no_file(str(path)), "name a STUDY.toml") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError("study", f"cannot read {path}: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise UserError("study", f"{path} is not valid TOML: {error}") from error
    return study_of(values, path.stem)


def variant_pairs(names: Sequence[str], reference: str) -> list[tuple[str, str]]:
    """All pairs (a, b) of variants; the reference is always a, and its pairs come first."""
    others = [name for name in names if name != reference]
    return [
        *((reference, name) for name in others),
        *((a, b) for place, a in enumerate(others) for b in others[place + 1 :]),
    ]
