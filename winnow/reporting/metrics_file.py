"""Writes what is told of steps and evaluations to the run folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from winnow.reporting.events import StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer

if TYPE_CHECKING:
    from winnow.storage.run_folder import RunStore


class MetricsFile(Observer):
    """The rows of metrics.jsonl and evals.jsonl."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def on_step(self, step: StepEnd) -> None:
        self._store.append("metrics.jsonl", step.metrics)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._store.append("evals.jsonl", asdict(evaluation))
