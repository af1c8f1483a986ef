"""What numbers and names may be: one vocabulary for all settings, each range in its message.

The ends are far beyond what anybody trains with, and within what the code behind them can hold: no
value leads to an overflow, to hours of waiting without a word, or to nothing at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included.

    Attributes:
        zero: 0 is allowed too, although it is below `low`; it stands for "none" or "no limit".
        below: `high` itself is not allowed.
    """

    low: float
    high: float
    zero: bool = False
    below: bool = False

    def __str__(self) -> str:
        end = f"to below {_plain(self.high)}" if self.below else f"to {_plain(self.high)}"
        return f"{'0, or ' if self.zero else ''}from {_plain(self.low)} {end}"

    def __contains__(self, value: float) -> bool:
        if value == 0 and math.copysign(1, value) < 0:  # -0.0: 1 / x and sign(x) are not those of 0
            return False
        inside = self.low <= value <= self.high and not (self.below and value == self.high)
        return inside or (self.zero and value == 0)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: float) -> float:
        if value not in self:
            raise PydanticCustomError("out_of_range", f"must be {self}")
        return value


def _plain(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


Count = Annotated[int, Range(1, 10**9)]
"""What comes one after another: steps, updates, tokens of a pass."""
CountOrNone = Annotated[int, Range(0, 10**9)]
Size = Annotated[int, Range(1, 10**6)]
"""What is held in memory together: prompts of a step, samples of a prompt."""
SizeOrNone = Annotated[int, Range(0, 10**6)]
Times = Annotated[int, Range(1, 1000)]
"""How often something is done again with the same samples or phases."""
TimesOrNone = Annotated[int, Range(0, 1000)]
Tries = Annotated[int, Range(0, 100)]
Parallel = Annotated[int, Range(1, 1000)]
"""Processes, threads or connections at a time."""
ParallelOrNone = Annotated[int, Range(0, 1000)]
Port = Annotated[int, Range(1, 65_535, zero=True)]
Tokens = Annotated[int, Range(1, 10**7)]
"""Of one completion."""
Rank = Annotated[int, Range(0, 4096)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
"""What TOML and torch can hold."""
Rate = Annotated[float, Range(1e-20, 10.0, zero=True)]
"""A learning rate."""
Decay = Annotated[float, Range(0, 1, below=True)]
"""Of an average."""
Share = Annotated[float, Range(0, 1, below=True)]
WeightDecay = Annotated[float, Range(0, 100)]
Mass = Annotated[float, Range(1e-6, 1)]
"""Of probability."""
Temperature = Annotated[float, Range(0.001, 1000.0, zero=True)]
"""0 takes the likeliest token."""
Epsilon = Annotated[float, Range(1e-20, 1)]
"""Added to a denominator."""
Coefficient = Annotated[float, Range(1e-9, 1e9)]
CoefficientOrNone = Annotated[float, Range(1e-9, 1e9, zero=True)]
PerExample = Annotated[float, Range(0.001, 1000.0)]
"""So many for each of something else."""
Score = Annotated[float, Range(-1e9, 1e9)]
Weight = Annotated[float, Range(-1e9, 1e9)]
"""Of a part in a sum."""
Gib = Annotated[float, Range(0.001, 100_000.0)]
Seconds = Annotated[float, Range(0.001, 86_400.0)]
PerMinute = Annotated[float, Range(0.1, 1e6, zero=True)]


def _filled(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("empty", "must not be empty")
    return value


Name = Annotated[str, AfterValidator(_filled)]
"""Of a model, file, column, row of the table: never empty, nor blanks alone."""
