"""Winnow post-trains language models by keeping their good samples.

Names are loaded when first used, so that `import winnow` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "train": "api",
    "evaluate": "api",
    "Result": "training.run",
    "load_run": "training.loaded",
    "Run": "training.loaded",
    "compare": "api",
    "Comparison": "studies.running",
    "sample": "api",
    "select": "rollouts.select",
    "best_of": "evaluation.best_of",
    "overoptimisation": "evaluation.overoptimisation",
    "run_overoptimisation": "evaluation.overoptimisation",
    "fit_reward": "engines.reward_models.fit",
    "ALGORITHMS": "algorithms.table",
    "Algorithm": "algorithms.algorithm",
    "Term": "algorithms.objective",
    "Prompt": "types",
    "Sample": "types",
    "Score": "types",
    "Outcome": "types",
    "Group": "types",
    "SampleView": "algorithms.predicates",
    "Config": "config.schema",
    "Observer": "reporting.observer",
    "RunStart": "reporting.events",
    "StepEnd": "reporting.events",
    "Evaluation": "reporting.metrics",
    "CheckpointSaved": "reporting.events",
    "Note": "reporting.events",
    "SamplesScored": "reporting.events",
    "Alarm": "reporting.events",
    "StageProgress": "reporting.events",
    "RunEnd": "reporting.events",
    "UserError": "errors",
    "WinnowError": "errors",
}

__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from winnow.algorithms.algorithm import Algorithm as Algorithm
    from winnow.algorithms.objective import Term as Term
    from winnow.algorithms.predicates import SampleView as SampleView
    from winnow.algorithms.table import ALGORITHMS as ALGORITHMS
    from winnow.api import compare as compare
    from winnow.api import evaluate as evaluate
    from winnow.api import sample as sample
    from winnow.api import train as train
    from winnow.config.schema import Config as Config
    from winnow.engines.reward_models.fit import fit_reward as fit_reward
    from winnow.errors import UserError as UserError
    from winnow.errors import WinnowError as WinnowError
    from winnow.evaluation.best_of import best_of as best_of
    from winnow.evaluation.overoptimisation import overoptimisation as overoptimisation
    from winnow.evaluation.overoptimisation import run_overoptimisation as run_overoptimisation
    from winnow.reporting.events import Alarm as Alarm
    from winnow.reporting.events import CheckpointSaved as CheckpointSaved
    from winnow.reporting.events import Note as Note
    from winnow.reporting.events import RunEnd as RunEnd
    from winnow.reporting.events import RunStart as RunStart
    from winnow.reporting.events import SamplesScored as SamplesScored
    from winnow.reporting.events import StageProgress as StageProgress
    from winnow.reporting.events import StepEnd as StepEnd
    from winnow.reporting.metrics import Evaluation as Evaluation
    from winnow.reporting.observer import Observer as Observer
    from winnow.rollouts.select import select as select
    from winnow.studies.running import Comparison as Comparison
    from winnow.training.loaded import Run as Run
    from winnow.training.loaded import load_run as load_run
    from winnow.training.run import Result as Result
    from winnow.types import Group as Group
    from winnow.types import Outcome as Outcome
    from winnow.types import Prompt as Prompt
    from winnow.types import Sample as Sample
    from winnow.types import Score as Score


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'winnow' has no attribute {name!r}")
    return getattr(import_module(f"winnow.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
