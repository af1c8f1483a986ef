"""What a run has gained on the held-out prompts: after against before, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winnow.reporting.metrics import rates_of
from winnow.storage.run_folder import Counted, RunStore
from winnow.theory.intervals import paired_difference


@dataclass(frozen=True)
class Gain:
    """Accuracy after minus accuracy before, with its 95 % interval.

    Attributes:
        value: Mean over the prompts that have a score both times of the difference of their rates.
        low, high: `theory.intervals.paired_difference`; ``None`` for fewer than two such prompts.
    """

    value: float
    low: float | None
    high: float | None


def gain_between(store: RunStore, first: Mapping[str, Any], last: Mapping[str, Any]) -> Gain | None:
    """The gain between two evaluations; ``None`` where their samples are not there any more.

    Args:
        first, last: Their rows of evals.jsonl.
    """
    before, after = (_place(row) for row in (first, last))
    if before == after:
        return None if first["accuracy"] is None else Gain(0.0, 0.0, 0.0)  # the model it began with
    counted = [store.counted(split, step) for split, step in (before, after)]
    if counted[0] is None or counted[1] is None:
        return None
    return gain(counted[0], counted[1])


def gain(before: Sequence[Counted], after: Sequence[Counted]) -> Gain | None:
    """The gain over the prompts with a valid sample in both.

    ``None`` if there is none, or if the two are of other prompts (they may change on resuming).
    """
    if [one.prompt for one in before] != [one.prompt for one in after]:
        return None
    pairs = zip(before, after, strict=True)
    both = [(one, other) for one, other in pairs if one.valid and other.valid]
    if not both:
        return None
    (rates, blocks), (later, later_blocks) = (
        rates_of([(side.right, side.valid) for side in sides]) for sides in zip(*both, strict=True)
    )
    return Gain(*paired_difference(rates, later, (blocks, later_blocks)))


def _place(row: Mapping[str, Any]) -> tuple[Any, int]:
    return row.get("split", "eval"), int(row["step"])
