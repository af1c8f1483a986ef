"""References: an earlier state of the policy, its EMA, or a model."""

from __future__ import annotations

from dataclasses import dataclass

from winnow.algorithms.spec import Cell, Vocabulary, parse


@dataclass(frozen=True)
class EMA(Cell):
    """A reference that follows: average <- decay average + (1 - decay) policy, each update."""

    decay: float = 0.99
    cell = "ema"

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError("the decay must be from 0 to below 1")


def ema_decay(reference: str) -> float | None:
    """The decay in `ema(0.99)`; ``None`` of any other reference.

    Raises:
        UserError: the decay is not from 0 to below 1.
    """
    if not reference.lstrip().startswith("ema("):
        return None
    return parse("reference", reference, Vocabulary("reference", [EMA])).decay


def names_model(reference: str) -> bool:
    """Whether `reference` names another model, not a state of the policy.

    Raises:
        UserError: as `ema_decay`.
    """
    return reference not in ("start", "phase") and ema_decay(reference) is None
