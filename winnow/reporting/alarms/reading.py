"""What a rule finds in a history: what it measures, and whether that is alarming. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["alarming", "between", "well"]
"""Between the two an alarm stays as it is: raised if it was, else not."""
_CLEARS = 0.8
"""Share of a threshold below which it is well again; of a lower bound, 1 / 0.8 times it."""


@dataclass(frozen=True)
class Reading:
    """What a rule finds.

    Attributes:
        value: What it measures.
        facts: Further numbers and names for its sentence, as they are printed.
        variant: Which of the alarm's sentences is true.
    """

    value: float
    state: State
    facts: Mapping[str, str] = field(default_factory=dict)
    variant: str = ""


def above(value: float, threshold: float, *, if_: bool = True) -> State:
    """Of what must not rise to a threshold; with `if_` false it is not alarming all the same."""
    if value >= threshold:
        return "alarming" if if_ else "between"
    return "well" if value <= _CLEARS * threshold else "between"


def below(value: float, threshold: float, *, if_: bool = True) -> State:
    """Of what must not fall to a threshold."""
    if value <= threshold:
        return "alarming" if if_ else "between"
    return "well" if value >= threshold / _CLEARS else "between"
