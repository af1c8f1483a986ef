"""`[algorithm]`: a row of the table, and cells over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, field_validator

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.base import Section, listed
from winnow.config.schema.bounds import CoefficientOrNone, Name, Times, TimesOrNone
from winnow.errors import UserError, nearest

OWN = "own:"
"""Before the recorded name of an algorithm that was made in Python and no cells can restore."""

_OFFLINE = "to train on a file of completions use 'rft' with samples_file (docs/samples.md)"
_OTHERS = {"sft": _OFFLINE}
"""What stands for an algorithm that is no row, where the nearest name of a row misleads."""


class AlgorithmConfig(Section):
    """A row of the table, and cells over it. `algorithm = "x"` is short for `algorithm.name`."""

    name: Name = Field("raft++", description="A row of `winnow algorithms`.")
    select: list[Name] | None = Field(
        None, min_length=1, description="Rules in order, e.g. ['correct']."
    )
    advantage: Name | None = Field(None, description="What a survivor counts for, e.g. 'centred'.")
    reward_scale: Literal["0/1", "-1/+1"] | None = Field(None, description="Rewards r, or 2 r - 1.")
    loss: Name | None = Field(None, description="E.g. 'clipped(low=0.2, high=0.28)'.")
    denominator: Name | None = Field(None, description="E.g. 'sample-means'.")
    resample: Literal["every-step", "once"] | None = Field(
        None, description="Sample every step, or once at the start."
    )
    epochs: Times | None = Field(None, description="Passes over each set of samples.")
    kl: Name | None = Field(
        None, description="E.g. 'none', 'in-reward(0.05)', 'in-loss(0.04, k3)'."
    )
    entropy: CoefficientOrNone | None = Field(None, description="Coefficient of the entropy bonus.")
    critic: Name | None = Field(
        None, description="E.g. 'none', 'value(clip=0.2, coefficient=0.5)'."
    )
    refill: TimesOrNone | None = Field(
        None, description="Times to sample more prompts for those without survivors."
    )

    _one_rule = field_validator("select", mode="before")(listed)

    @property
    def made_in_python(self) -> bool:
        """Whether it is an algorithm that only Python code can pass again."""
        return self.name.startswith(OWN)

    def build(self, table: Mapping[str, Algorithm] = ALGORITHMS) -> Algorithm:
        """The algorithm: the named row with these cells over it, or a new row made of all cells.

        Raises:
            UserError: an unknown row, or a cell that does not parse.
        """
        if self.made_in_python:
            problem = f"{self.name.removeprefix(OWN)!r} was made in Python, not in a recipe"
            remedy = "pass it again: winnow.train(resume=..., algorithm=...)"
            raise UserError("algorithm", problem, remedy)
        cells = self.model_dump(exclude={"name"})
        if None not in cells.values():
            return table.get(self.name, Algorithm(self.name)).with_cells(cells)
        if self.name not in table:
            remedy = _OTHERS.get(self.name.casefold()) or nearest(self.name, table)
            remedy = f"{remedy} (`winnow algorithms` prints them all)"
            raise UserError("algorithm", f"unknown algorithm {self.name!r:.60}", remedy)
        given = {key: value for key, value in cells.items() if value is not None}
        return table[self.name].with_cells(given)
