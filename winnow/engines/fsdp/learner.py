"""AdamW on one process's part of a model: of every parameter some rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from winnow.algorithms.denominators import Totals
from winnow.algorithms.objective import Term
from winnow.engines.base import AuxiliaryBatch, LearnerPlan, PerToken
from winnow.engines.fsdp.policy import ShardedPolicy
from winnow.engines.fsdp.sharding import local, settle
from winnow.engines.fsdp.states import Parts
from winnow.engines.learning.gradients import together
from winnow.engines.learning.learner import AdamLearner
from winnow.engines.learning.token_values import Compute, merged
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.distributions import Frozen, frozen
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.engines.models.policy import Policy
from winnow.engines.models.reference import Reference
from winnow.types import Group, Sums


class ShardedLearner(AdamLearner):
    """The learner of each process. All are given the same, and do their part of it.

    Norms and statistics are those of all parts. A critic's head is whole in every process.
    """

    def __init__(
        self,
        policy: ShardedPolicy,
        plan: LearnerPlan,
        critic: LocalCritic | None = None,
        reference: Reference | None = None,
    ) -> None:
        self._team, self._sharded = policy.team, policy
        self.rank = policy.team.rank
        super().__init__(policy, plan, critic, reference)

    def _stepped(self, policy: Policy) -> list[Tensor]:
        return policy.tensors()

    def _per_token(
        self,
        forward: PolicyForward,
        compute: Compute,
        groups: Sequence[Group],
        asked: Sequence[Sequence[int]],
    ) -> PerToken:
        found = super()._per_token(forward, compute, groups, asked)
        settle(self.forward.module)
        return merged(self._team.everyone(found))

    def _gradient(
        self,
        groups: Sequence[Group],
        terms: Sequence[Term],
        totals: Totals,
        temperature: float,
        beside: AuxiliaryBatch | None,
    ) -> Sums:
        done = super()._gradient(groups, terms, totals, temperature, beside)
        settle(self.forward.module)
        for parameter, own in zip(self._sharded.trained(), self._masters, strict=True):
            own.grad = None if parameter.grad is None else local(parameter.grad)
        for own in self._critic_masters:
            if own.grad is None:
                own.grad = torch.zeros_like(own)
            self._team.summed(own.grad)
        return done

    def _of_all(self, done: Sums) -> Sums:
        return together(self._team.everyone(done))

    def _forget(self) -> None:
        super()._forget()
        for parameter in self._sharded.trained():
            parameter.grad = None

    def _distributions(self, pieces: Sequence[Piece]) -> Frozen:
        assert self.reference is not None
        with self.reference.used() as forward:
            return frozen(forward, pieces, copy=True)

    def _clipped(self, masters: Sequence[Tensor]) -> float:
        if masters is self._critic_masters:
            return super()._clipped(masters)
        grads = [own.grad for own in masters if own.grad is not None]
        squares = torch.zeros((), device=self._team.device, dtype=torch.float64)
        for each in torch._foreach_norm(grads) if grads else ():
            squares += each.to(squares.device).double() ** 2
        norm = math.sqrt(float(self._team.summed(squares)))
        if math.isfinite(norm) and grads:
            most: float = self._config.max_grad_norm / (norm + 1e-6)  # as `clip_grad_norm_` has it
            torch._foreach_mul_(grads, min(1.0, most))
        return norm

    def save(self, folder: Path) -> None:
        self._policy.save(folder)
        if self._critic is not None and self._team.leads:
            self._critic.save(folder)
        self._write(folder)

    def close(self) -> None:
        """What is learned next begins with the weights that a checkpoint has: with rounded ones."""
        super().close()
        if self._rounded():
            self._sharded.put(self._sharded.rounded(self._sharded.tensors()))

    def _write(self, folder: Path) -> None:
        self._parts().write(folder, self._state())

    def _read(self, folder: Path) -> dict[str, Any]:
        return self._parts().read(folder, self._adam.state_dict()["param_groups"])

    def _parts(self) -> Parts:
        return Parts(self._team, self._sharded.trained())

    def _rounded(self) -> bool:
        return self._sharded.dtype != "float32"
