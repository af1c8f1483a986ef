"""One set of draws, from prompts to weighed groups on the disk.

prompts -> draw -> score -> select -> (what else is wanted) -> weigh -> store
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from winnow.algorithms.advantages import weigh
from winnow.algorithms.kl import InReward
from winnow.algorithms.selection import select
from winnow.config.phases import Phase
from winnow.engines.base import Sampler
from winnow.prompts.loading import PromptSet
from winnow.reporting.observer import Progress
from winnow.reporting.timing import Stopwatch
from winnow.rewards.base import Reward
from winnow.rollouts.annotate import Wanted, kl_to_reference
from winnow.rollouts.generate import draw, lots, requests, sampling_params
from winnow.rollouts.scoring import Patience, score
from winnow.storage.run_folder import RunStore
from winnow.types import Batch, Group, Prompt, Verdict


class Rollout:
    """Makes the weighed groups of a step, or finds them on the disk where they were made before.

    Args:
        sampler: Who draws, asked for when something is to be drawn.
    """

    stages = ("draw", "score", "select", "signals", "store")

    def __init__(
        self,
        phase: Phase,
        sampler: Callable[[], Sampler],
        *,
        prompts: PromptSet,
        reward: Reward,
        wanted: Wanted,
        store: RunStore,
        watch: Stopwatch,
        progress: Progress,
    ) -> None:
        self._phase, self._config, self._algorithm = phase, phase.config, phase.algorithm
        other = self._config.draws_from if phase.algorithm.draws == "once" else None
        self._sampler, self._model = sampler, other or self._config.model
        self._prompts, self._reward, self._wanted = prompts, reward, wanted
        self._store, self._watch, self._progress = store, watch, progress
        self._patience = Patience(f"winnow train --resume {store.folder}")
        penalty = phase.algorithm.kl
        self._penalty = penalty if isinstance(penalty, InReward) else None
        self._taken: int | None = None

    def make(self, step: int, *, signals: bool = True) -> Batch:
        """The groups of a step, weighed; every draw is on the disk when this returns.

        Args:
            signals: Whether what weighing and updates read beside scores is asked for.
        """
        refill, count = self._algorithm.refill, self._config.prompts_per_step
        first = self._phase.first_prompt + (step - self._phase.before - 1) * count
        first = first if self._taken is None else self._taken
        found = self._store.groups_drawn("train", step)
        prompts = self._prompts.between(first, first + max(found, count), self._config.seed)
        recorded = self._recorded(step, prompts)
        groups = list(recorded)
        while True:
            groups = self._scored(self._drawn(step, prompts, groups))
            chosen = self._selected(step, groups)
            full = [place for place, group in enumerate(chosen) if group.survivors]
            if len(full) >= count or len(chosen) >= (1 + refill) * count:
                break
            prompts = self._prompts.between(first, first + len(chosen) + count, self._config.seed)
        if refill:
            self._taken = first + len(chosen)
            chosen = [_surplus(g) if i in full[count:] else g for i, g in enumerate(chosen)]
        if signals:
            with self._watch("signals"):
                chosen = self._wanted.fill(chosen, weighing=True)
        with self._watch("select"):
            row = self._algorithm
            weighed = weigh(chosen, row.advantage, row.reward_scale, self._penalty)
        with self._watch("store"):
            self._keep(step, recorded, weighed)
        self._patience((score for group in weighed for score in group.scores), step)
        trained = full[:count] if refill else None
        return Batch(weighed, True, trained, measures=self._measures(weighed))

    def _recorded(self, step: int, prompts: Sequence[Prompt]) -> Sequence[Group]:
        with self._watch("draw"):
            right_at = self._config.reward.bound
            return self._store.read_draws("train", step, prompts, right_at) or ()

    def _drawn(self, step: int, prompts: Sequence[Prompt], groups: list[Group]) -> list[Group]:
        """A group for each prompt: those that are there, and new ones, at once on the disk."""
        if len(groups) == len(prompts):
            return groups
        with self._watch("draw"):
            asked = requests(
                prompts[len(groups) :],
                self._config.samples_per_prompt,
                sampling_params(self._config),
                seed=self._config.seed,
                split="train",
                step=step,
                first=len(groups),
            )
            new = draw(self._sampler(), asked, self._model, self._progress)
            every = [*(group.with_(verdicts=(), weights=()) for group in groups), *new]
            self._store.write_draws("train", step, every)  # a kill while scoring loses none
        return every

    def _scored(self, groups: Sequence[Group]) -> list[Group]:
        with self._watch("score"):
            self._progress("score", 0, 1)
            return score(groups, self._reward, self._config.reward.bound)

    def _selected(self, step: int, groups: Sequence[Group]) -> list[Group]:
        with self._watch("select"):
            rng = lots(self._config.seed, "select", step)
            return [select(group, self._algorithm.select, rng) for group in groups]

    def _keep(self, step: int, recorded: Sequence[Group], weighed: Sequence[Group]) -> None:
        """Write what was found out; what an earlier run made of other verdicts is set aside."""
        if list(recorded) == list(weighed):
            return
        if recorded and recorded[0].scores and self._algorithm.draws == "every-step":
            said = [
                [(group.scores, group.verdicts) for group in some] for some in (recorded, weighed)
            ]
            if said[0] != said[1]:
                # From here on the policy is another than the one that drew.
                self._store.set_aside(step)
        self._store.write_draws("train", step, weighed)

    def _measures(self, groups: Sequence[Group]) -> dict[str, float | None]:
        """How far the policy is from the reference; what that costs from the next step on."""
        measures: dict[str, float | None] = {}
        if self._algorithm.refill:
            measures["prompts_refilled"] = len(groups) - self._config.prompts_per_step
        if self._algorithm.refers_tempered:
            found = kl_to_reference(groups)
            measures["kl_to_reference"] = found[0] if found else None
            if self._penalty is not None:
                measures["kl_beta"] = beta = self._penalty.beta
                if found:
                    self._penalty = replace(self._penalty, beta=self._penalty.adapted(beta, *found))
        return measures

    def state(self) -> dict[str, Any]:
        """What the next step depends on beside its number."""
        beta = None if self._penalty is None else self._penalty.beta
        return {"prompts_taken": self._taken, "kl_beta": beta}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._taken = state.get("prompts_taken")
        if self._penalty is not None and state.get("kl_beta"):
            self._penalty = replace(self._penalty, beta=state["kl_beta"])

    def release(self) -> None:
        """No more draws will be made: let go of the sampler, which may be a model of its own."""
        self._sampler = _released


def _surplus(group: Group) -> Group:
    """A group that came up when the batch was full already."""
    return group.with_(
        verdicts=tuple(
            Verdict(False, "the batch was full") if verdict.kept else verdict
            for verdict in group.verdicts
        )
    )


def _released() -> Sampler:
    raise RuntimeError("all draws of this run were made before")
