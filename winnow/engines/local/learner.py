"""The learner of this process."""

from __future__ import annotations

from winnow.engines.base import LearnerPlan
from winnow.engines.learning.learner import AdamLearner
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.policy import Policy
from winnow.engines.models.recompute import blocks_of, compute_again, keep_activations
from winnow.engines.models.reference import Reference


class LocalLearner(AdamLearner):
    """AdamW on a module that is whole in this process.

    Args:
        again: Whether the backward pass computes a block's activations again.
    """

    def __init__(
        self,
        policy: Policy,
        plan: LearnerPlan,
        critic: LocalCritic | None = None,
        reference: Reference | None = None,
        *,
        again: bool = False,
    ) -> None:
        super().__init__(policy, plan, critic, reference)
        trunk = critic.trunk if critic is not None else None
        modules = [module for module in (policy.forward().module, trunk) if module is not None]
        self._recomputed = []
        for module in modules if again else ():
            for block in blocks_of(module):
                compute_again(block, module)
                self._recomputed.append(block)

    def close(self) -> None:
        for block in self._recomputed:
            keep_activations(block)
        self._recomputed = []
        super().close()
