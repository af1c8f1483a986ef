"""Writes what is told of steps, evaluations and alarms to the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from winnow.reporting.events import Alarm, StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer


class MetricsFile(Observer):
    """The rows of metrics.jsonl, evals.jsonl and alarms.jsonl.

    Args:
        append: Appends a row to the file of that name, for good.
    """

    def __init__(self, append: Callable[[str, Mapping[str, Any]], None]) -> None:
        self._append = append

    def on_step(self, step: StepEnd) -> None:
        self._append("metrics.jsonl", step.metrics)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._append("evals.jsonl", asdict(evaluation))

    def on_alarm(self, alarm: Alarm) -> None:
        self._append("alarms.jsonl", asdict(alarm))
