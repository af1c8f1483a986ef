"""The engine of one process, made by hand for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests import tiny
from winnow.algorithms.objective import Term, totals
from winnow.config.schema import from_dict
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.engines.base import AuxiliaryBatch, Learner, LearnerPlan
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.policy import LocalPolicy
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.forward import PolicyForward
from winnow.types import Group, StepStats


class InMemory(LocalPolicy):
    """A module that is in no folder."""

    def __init__(self, forward: PolicyForward) -> None:
        self._forward, self._module, self._adapters = forward, forward.module, None
        self._kept, self._aside, self._unchanged = {}, {}, set()
        self.tokenizer = tiny.tokenizer()


def engine(model: Path, **settings: Any) -> LocalEngine:
    return LocalEngine(from_dict({"model": str(model), "device": "cpu", **settings}))


def plan(
    microbatch_tokens: int = 1024, reference: str | None = None, **optimizer: Any
) -> LearnerPlan:
    return LearnerPlan(OptimizerConfig(**optimizer), 10, microbatch_tokens, reference=reference)


def learner(
    forward: PolicyForward, critic: LocalCritic | None = None, tokens: int = 1024, **optimizer: Any
) -> LocalLearner:
    return LocalLearner(InMemory(forward), plan(tokens, **optimizer), critic)


def step(
    learner: Learner,
    groups: Sequence[Group],
    terms: Sequence[Term],
    temperature: float = 1.0,
    auxiliary: AuxiliaryBatch | None = None,
) -> StepStats:
    """An update on a whole mini-batch."""
    return learner.step(groups, terms, totals(groups), temperature, auxiliary)


def weights(engine: LocalEngine) -> list[torch.Tensor]:
    """A copy of those that are trained."""
    return [p.detach().clone() for p in engine.trained()]
