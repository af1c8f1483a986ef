"""Evaluations that a checkpoint counts on, or lacks as the last server was lost in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from winnow.engines.base import Engine
from winnow.errors import NoServer
from winnow.evaluation.held_out import evaluate
from winnow.reporting.metrics import Evaluation
from winnow.rollouts.context import Context
from winnow.storage.paths import shown
from winnow.storage.run_folder import RunStore
from winnow.training.context import Run

OWED = "evaluation_owed"
"""In the state of a checkpoint: its evaluation is still to be made."""
_EVALUATED = "evaluations"
"""Likewise: how many were told of in evals.jsonl, that of a final model aside."""


def evaluated(store: RunStore) -> dict[str, int]:
    """What a checkpoint's state says of them."""
    return {_EVALUATED: _number(store.lines("evals.jsonl"))}


def lost_rows(state: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int:
    """How many rows of evals.jsonl up to a checkpoint are gone since it was saved."""
    return max(0, int(state.get(_EVALUATED, 0)) - _number(rows))


def _number(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(row.get("split") != "final" for row in rows)


def held_out_accuracy(run: Run, step: int) -> Evaluation | None:
    """Evaluate on the held-out prompts; ``None`` after a step if nothing is left that samples.

    Then `run.lost` says so, for the loop to end with once the step is saved.
    """
    try:
        return evaluate(run.context, step=step, engine=run.engine, algorithm=run.phase.algorithm)
    except NoServer as error:
        say_how_to_resume(run, error)
        if step == 0:
            raise
        run.lost = error
        return None


def say_how_to_resume(run: Run, error: NoServer) -> None:
    """Add it to an error."""
    again = f"winnow train --resume {shown(run.context.store.folder)}"
    error.add_note(f"what was sampled is kept; resume: {again}")


def owes(store: RunStore, state: Mapping[str, Any]) -> bool:
    """Whether the evaluation of a checkpoint is still to be made, by its state and what is told."""
    rows = store.lines("evals.jsonl") if state.get(OWED) else ()
    made = any(row.get("split") == "eval" and row["step"] == state["step"] for row in rows)
    return bool(state.get(OWED)) and not made


def make_up(context: Context, engine: Engine, step: int, version: int) -> None:
    """Evaluate the present weights, which are those of a checkpoint."""
    context.sampler.load(engine.publish(version))
    evaluate(context, step=step, engine=engine)
    context.watch.read(())  # it is no part of the next step
