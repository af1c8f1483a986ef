"""What a policy is compared with: a state of its own, a slow average of it, or a model."""

from __future__ import annotations

from dataclasses import dataclass

from winnow.algorithms.spec import Cell, Vocabulary, parse


@dataclass(frozen=True)
class Average(Cell):
    """A reference that follows: average <- decay average + (1 - decay) policy, each update."""

    decay: float = 0.99
    cell = "average"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError("the decay must be from 0 to below 1")


def average_decay(reference: str) -> float | None:
    """The decay in `average(0.99)`; ``None`` of any other reference.

    Raises:
        UserError: it is none between 0 and 1.
    """
    if not reference.lstrip().startswith("average("):
        return None
    return parse("reference", reference, Vocabulary([Average])).decay


def names_model(reference: str) -> bool:
    """Whether `reference` is a model of its own, not a state of the policy.

    Raises:
        UserError: as `average_decay`.
    """
    return reference not in ("start", "phase") and average_decay(reference) is None
