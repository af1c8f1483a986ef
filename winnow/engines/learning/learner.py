"""A learner: AdamW on a module, and on its critic if there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from winnow.algorithms.denominators import Totals
from winnow.algorithms.objective import Term
from winnow.config.schema.critic import CriticConfig
from winnow.engines.base import AuxiliaryBatch, LearnerPlan, PerToken, Weights
from winnow.engines.devices import lacks_order, reproducible, room
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.learning.microbatches import ALONE
from winnow.engines.learning.optimizer import learning_rate, master_of, zeros_like_each
from winnow.engines.learning.state_files import read
from winnow.engines.learning.token_values import Compute, logprobs, per_token
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.distributions import Frozen, frozen
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.engines.models.policy import Policy
from winnow.engines.models.precision import mixed
from winnow.engines.models.reference import Reference
from winnow.engines.models.rounding import rounded
from winnow.storage.checkpoints import OPTIMIZER
from winnow.types import Group, StepStats, Sums

_SMALLER = "lower microbatch_tokens, or use dtype = 'bfloat16' or lora.rank"


class AdamLearner:
    """AdamW on a module. For bfloat16 weights it steps a float32 copy.

    A kind of engine whose processes hold parts of a module says what is stepped, how gradients come
    together and how the state is written.
    """

    def __init__(
        self,
        policy: Policy,
        plan: LearnerPlan,
        critic: LocalCritic | None = None,
        reference: Reference | None = None,
    ) -> None:
        self.version = plan.version
        self.forward = policy.forward()
        self.reference = reference
        self._policy, self._plan, self._config = policy, plan, plan.optimizer
        self._mixed = plan.optimizer.precision == "mixed"
        self._critic = critic
        self._critic_config = critic.config if critic is not None else CriticConfig()
        own = critic.trained() if critic is not None else []
        self._hooks: list[Any] = []
        self._masters = self._stepped(policy)
        self._critic_masters = [master_of(p, self._hooks) for p in own]
        masters = zip(
            [*policy.trained(), *own], [*self._masters, *self._critic_masters], strict=True
        )
        self._copied = [
            (weight, master) for weight, master in masters if weight.dtype != master.dtype
        ]
        self._updates = 0
        self._begun = 0
        """Updates before the optimizer was last renewed."""
        self._ordered = True
        """Whether every operation of the model can add up a GPU's gradients in one order."""
        self._adam = self._new_adam()

    rank = ALONE
    """Which part of a mini-batch is this process's."""

    def _stepped(self, policy: Policy) -> list[Tensor]:
        """What the optimizer steps, for each trained parameter of the policy."""
        return [master_of(p, self._hooks) for p in policy.trained()]

    def reference_logprobs(
        self, groups: Sequence[Group], asked: Sequence[Sequence[int]], temperature: float
    ) -> PerToken:
        assert self.reference is not None
        with self.reference.used() as forward:
            return self._per_token(forward, logprobs(forward, temperature), groups, asked)

    def values(self, groups: Sequence[Group], asked: Sequence[Sequence[int]]) -> PerToken:
        critic, forward = self._critic, self.forward
        assert critic is not None

        def values(pieces: Sequence[Piece]) -> Tensor:
            return critic.values(lambda: forward.contexts(pieces), pieces)

        return self._per_token(forward, values, groups, asked)

    @room(_SMALLER)
    def _per_token(
        self,
        forward: PolicyForward,
        compute: Compute,
        groups: Sequence[Group],
        asked: Sequence[Sequence[int]],
    ) -> PerToken:
        with mixed(self.forward.device, self._mixed):
            return per_token(
                compute,
                groups,
                asked,
                share=forward.shares_prefix,
                microbatch_tokens=self._plan.microbatch_tokens,
                rank=self.rank,
            )

    @room(_SMALLER)
    def step(
        self,
        groups: Sequence[Group],
        terms: Sequence[Term],
        totals: Totals,
        temperature: float,
        auxiliary: AuxiliaryBatch | None = None,
    ) -> StepStats:
        """Make one update; none if loss or gradient are not finite.

        While the critic warms up, only its own terms count and only its own weights move.

        Raises:
            ValueError: no term runs over any sample, warm-up aside.
        """
        self._forget()
        warming = self._critic is not None and self._updates < self._critic_config.warmup
        if self._critic is not None:
            self._critic.detached = warming
        if warming:
            terms, auxiliary = [term for term in terms if "value" in term.reads], None
        batch = (groups, terms, totals, temperature, auxiliary)
        try:
            done = self._gradient(*batch)
        except RuntimeError as error:
            if not self._ordered or not lacks_order(error):
                raise
            self._ordered = False
            self._forget()
            done = self._gradient(*batch)
        if done.samples == 0 and not warming:
            raise ValueError(
                "no sample of this mini-batch has an advantage: there is nothing to learn"
            )
        norm, critic_norm = self._clipped(self._masters), self._clipped(self._critic_masters)
        lr = self._rates()
        finite = all(map(math.isfinite, (norm, critic_norm, done.loss)))
        if finite:
            self._policy.change()
            self._adam.step()
            self._copy_back()
            self.version += not warming  # the policy has not moved
            self._updates += 1
            if self.reference is not None:
                self.reference.follow(self._masters)
        self._forget()
        if self._critic is not None:
            done.measures["critic_grad_norm"] = (critic_norm, 1)
        clipped = norm > self._config.max_grad_norm
        return StepStats(**vars(done), applied=finite, grad_norm=norm, lr=lr, grad_clipped=clipped)

    def _forget(self) -> None:
        """Drop the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Let go of the module, so that another learner can train it."""
        for hook in self._hooks:
            hook.remove()
        self._adam.state.clear()
        self._adam.param_groups.clear()
        self._masters, self._critic_masters, self._copied = [], [], []
        self._critic = self.reference = None

    def restart(self, weights: Weights) -> None:
        self._policy.put(self._policy.weights(weights))
        self._refresh_masters()
        self._adam = self._new_adam()
        self._begun = self._updates

    def save(self, folder: Path) -> None:
        self._policy.save(folder)
        self._write(folder)
        if self._critic is not None:
            self._critic.save(folder)

    def _write(self, folder: Path) -> None:
        """Write the optimizer's state."""
        with (folder / OPTIMIZER).open("wb") as file:
            torch.save(self._state(), file)

    def _state(self) -> dict[str, Any]:
        """What the next update depends on, weights aside."""
        state: dict[str, Any] = {
            "adam": self._adam.state_dict(),
            "version": self.version,
            "updates": self._updates,
        }
        if self._rounded():
            state["masters"] = [*self._masters, *self._critic_masters]
        if self.reference is not None and self.reference.state():
            state["reference"] = self.reference.state()
        return state

    def _rounded(self) -> bool:
        """Whether the weights that are saved are not all that the optimizer steps."""
        return bool(self._copied)

    def _read(self, folder: Path) -> dict[str, Any]:
        """What `_write` wrote."""
        return read(folder, self._adam.state_dict()["param_groups"])

    def load(self, folder: Path) -> None:
        if self._critic is not None:
            self._critic.load(folder)
        state = self._read(folder)
        self._adam.load_state_dict(state["adam"])
        self.version, self._updates = int(state["version"]), int(state["updates"])
        self._refresh_masters()
        masters = [*self._masters, *self._critic_masters]
        self._policy.change()  # which some of them are
        with torch.no_grad():
            for master, saved in zip(masters, state.get("masters", ()), strict=False):
                master.copy_(saved)
        if self.reference is not None and "reference" in state:
            self.reference.load_state(state["reference"])

    def _gradient(
        self,
        groups: Sequence[Group],
        terms: Sequence[Term],
        totals: Totals,
        temperature: float,
        beside: AuxiliaryBatch | None,
    ) -> Sums:
        # In mixed precision it saves no memory, and takes a fortieth longer.
        stepped = [] if self._mixed else [*self._masters, *self._critic_masters]
        models = Models(self.forward, self._critic, self._distributions, stepped)
        limit, rank = self._plan.microbatch_tokens, self.rank
        device = self.forward.device
        with torch.enable_grad(), reproducible(device, self._ordered), mixed(device, self._mixed):
            done = self._of_all(
                accumulate(models, groups, terms, totals, temperature, limit, self.version, rank)
            )
            if beside is not None:
                batch = beside.groups, beside.terms, beside.totals
                other = self._of_all(accumulate(models, *batch, 1.0, limit, None, rank))
                done.measures["anchor_loss"] = (other.loss / beside.terms[0].coefficient, 1)
                done.loss += other.loss
        return done

    def _of_all(self, done: Sums) -> Sums:
        """The sums of every process."""
        return done

    def _distributions(self, pieces: Sequence[Piece]) -> Frozen:
        assert self.reference is not None
        with self.reference.used() as forward:
            return frozen(forward, pieces)

    def _clipped(self, masters: Sequence[Tensor]) -> float:
        """Clip the gradient; return its norm before that."""
        if not masters:
            return 0.0
        limit = self._config.max_grad_norm
        return float(nn.utils.clip_grad_norm_(masters, limit, foreach=True))

    def _rates(self) -> float:
        """Set the learning rates of this update; return that of the policy."""
        warming = self._critic_config.warmup if self._critic is not None else 0
        number = self._updates - max(warming, self._begun)
        lr = learning_rate(self._config, max(0, number), self._plan.updates - warming)
        for group, rate in zip(self._adam.param_groups, (lr, self._critic_config.lr), strict=False):
            group["lr"] = rate
        return lr if number >= 0 else 0.0

    def _new_adam(self) -> torch.optim.AdamW:
        config = self._config
        groups = [{"params": own} for own in (self._masters, self._critic_masters) if own]
        adam = torch.optim.AdamW(
            groups,
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
        for group in groups:
            own = group["params"]
            for weight, first, second in zip(
                own, *(zeros_like_each(own) for _ in range(2)), strict=True
            ):
                step = torch.zeros((), device=weight.device)
                adam.state[weight] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        return adam

    @torch.no_grad()
    def _refresh_masters(self) -> None:
        for weight, master in self._copied:
            master.copy_(weight)

    @torch.no_grad()
    def _copy_back(self) -> None:
        for weight, master in self._copied:
            weight.copy_(rounded(master, weight.dtype))
