"""What a run of a study has come to: its curve, its final metric, what it spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from winnow.config.recipe import load_folder
from winnow.storage.run_folder import RunStore
from winnow.studies.schema import Metric
from winnow.training.budget import spent_by
from winnow.training.early_stopping import chosen_checkpoint, reported, stopped_early

Row = Mapping[str, Any]
QUANTITIES = ("entropy", "distinct_right", "kl", "pass_at_k")
"""What is looked at beside the metric."""
_SAMPLED = ("entropy", "distinct_right")
"""Those of training samples: of the policy that sampled them, which is that of the step before."""


@dataclass(frozen=True)
class Point:
    """An evaluation on the way.

    Attributes:
        spent: By then, by kind of budget.
        quantities: Of the same policy, those that are known.
    """

    step: int
    spent: Mapping[str, float]
    metric: float
    quantities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A run that has ended.

    Attributes:
        final: Its metric, of the model that it ends with.
        last: Quantities as it ends: of its last step's samples, of its last evaluation.
        k: Of `pass_at_k`, the largest; ``None`` with one sample a prompt.
        temperature: At which training samples, and with them the entropy, are.
        stopped: Whether an alarm ended it.
        early: Whether `eval.patience` did.
    """

    points: Sequence[Point]
    final: float
    last: Mapping[str, float]
    k: int | None
    temperature: float
    steps: int
    spent: Mapping[str, float]
    stopped: bool = False
    early: bool = False


def outcome_of(folder: Path, metric: Metric, *, stopped: bool = False) -> Outcome | None:
    """What a run that has ended came to; ``None`` if no evaluation of it has a score.

    Raises:
        UserError: a file of it is damaged.
    """
    store, config = RunStore.open(folder), load_folder(folder)
    steps, evaluations = store.lines("metrics.jsonl"), store.lines("evals.jsonl")
    spent = {0: dict.fromkeys(("samples", "tokens", "updates", "seconds"), 0.0)}
    spent |= {row["step"]: total for row, total in zip(steps, spent_by(steps), strict=True)}
    by_step = {row["step"]: row for row in steps}
    points = [
        Point(
            row["step"],
            spent[row["step"]],
            float(row[metric]),
            _quantities(row, by_step.get(row["step"] + 1)),
        )
        for row in evaluations
        if row.get("split", "eval") == "eval" and row[metric] is not None
    ]
    step = chosen_checkpoint(store, config.eval.patience)[1] if config.eval.patience else 0
    told = reported(evaluations, config.eval.patience, step)
    if not points or told is None or told.after[metric] is None:
        return None
    last = {**_quantities({}, steps[-1] if steps else None), **_evaluated(evaluations[-1])}
    return Outcome(
        points=points,
        final=float(told.after[metric]),
        last=last,
        k=max((one["k"] for one in evaluations[-1].get("pass_at_k") or ()), default=None),
        temperature=config.sampling.temperature,
        steps=len(steps),
        spent=spent[max(spent)],
        stopped=stopped,
        early=stopped_early(evaluations, config.eval.patience),
    )


def _quantities(evaluation: Row, following: Row | None) -> dict[str, float]:
    """Of the policy that was evaluated, which made the samples of the step that follows."""
    own = _evaluated(evaluation)
    for name in _SAMPLED:
        if following is not None and following.get(name) is not None:
            own[name] = float(following[name])
    return own


def _evaluated(row: Row) -> dict[str, float]:
    made = {}
    if row.get("kl") and row["kl"].get("value") is not None:
        made["kl"] = float(row["kl"]["value"])
    passes = [one for one in row.get("pass_at_k") or () if one.get("value") is not None]
    if passes:
        made["pass_at_k"] = float(max(passes, key=lambda one: one["k"])["value"])
    return made
