"""One set of samples, from prompts to selected groups on the disk.

prompts -> sample -> score -> select -> annotate -> advantages -> store
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.graded import graded
from winnow.algorithms.kl import InReward
from winnow.algorithms.selection import select
from winnow.config.phases import Phase
from winnow.engines.base import Sampler
from winnow.rollouts.annotate import Annotator, kl_to_reference
from winnow.rollouts.context import Context
from winnow.rollouts.generate import random_stream, requests, sample, sampling_params
from winnow.rollouts.remarks import MAX_TOKENS, cut_off
from winnow.rollouts.reward_errors import failures_of
from winnow.rollouts.scoring import Patience, score
from winnow.types import Batch, Group, Outcome, Prompt


class Rollout:
    """Makes the selected groups of a step; samples that are on the disk are not made again."""

    stages = ("sample", "score", "select", "annotate", "store")

    def __init__(self, phase: Phase, context: Context, annotator: Annotator) -> None:
        self._phase, self._config, self._algorithm = phase, phase.config, phase.algorithm
        self._prompts, self._reward, self._annotator = context.prompts, context.reward, annotator
        self._store, self._watch = context.store, context.watch
        self._progress, self._note = context.observers.progress, context.observers.note
        self._once = context.once
        self._patience = Patience(f"winnow train --resume {context.store.folder}")
        penalty = phase.algorithm.kl
        self._penalty = penalty if isinstance(penalty, InReward) else None
        self._taken: int | None = None

    def make(self, step: int, sampler: Sampler, *, whole: bool = True) -> Batch:
        """The groups of a step with advantages; every sample is on the disk when this returns.

        Args:
            sampler: Is asked for what is not on the disk.
            whole: Whether the step is all that is learned from at a time. Else token annotations
                are left for later, and an advantage over a set for `together`.
        """
        refill, count = self._algorithm.refill, self._config.prompts_per_step
        first = self._phase.first_prompt + (step - self._phase.before - 1) * count
        first = first if self._taken is None else self._taken
        found = self._store.groups_sampled("train", step)
        prompts = self._prompts.between(first, first + max(found, count), self._config.seed)
        recorded = self._recorded(step, prompts)
        groups = list(recorded)
        while True:
            groups = self._scored(self._sampled(sampler, step, prompts, groups))
            chosen = self._selected(step, groups)
            full = [place for place, group in enumerate(chosen) if group.survivors]
            if len(full) >= count or len(chosen) >= (1 + refill) * count:
                break
            prompts = self._prompts.between(first, first + len(chosen) + count, self._config.seed)
        if refill:
            self._taken = first + len(chosen)
            chosen = [_surplus(g) if i in full[count:] else g for i, g in enumerate(chosen)]
        if whole:
            with self._watch("annotate"):
                chosen = self._annotator.fill(chosen, for_advantages=True)
        groups = chosen
        if whole or self._algorithm.advantage.over != "set":
            groups = self._with_advantages(chosen)
        with self._watch("store"):
            self._keep(step, recorded, groups)
        self._patience((score for group in groups for score in group.scores), step)
        if failed := failures_of(groups):
            self._note(f"step {step}: {failed}")
        self._once("graded", graded(groups, self._algorithm))
        longest, alarm = self._config.sampling.max_tokens, self._config.alarms.thresholds
        cut = cut_off(groups, MAX_TOKENS, longest, told_from=alarm.get("cut_off"))
        self._once("cut off", cut and f"step {step}: {cut}")
        trained = full[:count] if refill else None
        return Batch(groups, True, trained, measures=self._measures(groups))

    def together(self, steps: Mapping[int, Sequence[Group]]) -> list[Group]:
        """The groups of several steps with advantages over the set of all; stored by step.

        Args:
            steps: What `make` gave for each.
        """
        made = {step: list(groups) for step, groups in steps.items()}
        if self._algorithm.advantage.over == "set":
            every = iter(self._with_advantages([g for groups in made.values() for g in groups]))
            made = {step: [next(every) for _ in groups] for step, groups in made.items()}
            with self._watch("store"):
                for step, groups in made.items():
                    if groups != steps[step]:
                        self._store.write_samples("train", step, groups)
        return [group for groups in made.values() for group in groups]

    def _with_advantages(self, groups: Sequence[Group]) -> list[Group]:
        with self._watch("select"):
            row = self._algorithm
            return assign_advantages(groups, row.advantage, row.reward_scale, self._penalty)

    def _recorded(self, step: int, prompts: Sequence[Prompt]) -> Sequence[Group]:
        with self._watch("sample"):
            right_at = self._config.reward.bound
            return self._store.read_samples("train", step, prompts, right_at) or ()

    def _sampled(
        self, sampler: Sampler, step: int, prompts: Sequence[Prompt], groups: list[Group]
    ) -> list[Group]:
        """A group for each prompt: those that are there, and new ones, now on the disk."""
        if len(groups) == len(prompts):
            return groups
        with self._watch("sample"):
            asked = requests(
                prompts[len(groups) :],
                self._config.samples_per_prompt,
                sampling_params(self._config),
                seed=self._config.seed,
                split="train",
                step=step,
                first=len(groups),
            )
            new = sample(sampler, asked, self._phase.sampled_from, self._progress)
            every = [*(group.with_(outcomes=(), advantages=()) for group in groups), *new]
            self._store.write_samples("train", step, every)  # a kill while scoring loses none
        return every

    def _scored(self, groups: Sequence[Group]) -> list[Group]:
        with self._watch("score"):
            self._progress("score", 0, 1)
            return score(groups, self._reward, self._config.reward.bound)

    def _selected(self, step: int, groups: Sequence[Group]) -> list[Group]:
        with self._watch("select"):
            rng = random_stream(self._config.seed, "select", step)
            return [select(group, self._algorithm.select, rng) for group in groups]

    def _keep(self, step: int, recorded: Sequence[Group], groups: Sequence[Group]) -> None:
        """Write the groups; set aside what an earlier run made of other scores."""
        if list(recorded) == list(groups):
            return
        if recorded and recorded[0].scores and self._algorithm.resample == "every-step":
            said = [
                [(group.scores, [outcome.survived for outcome in group.outcomes]) for group in some]
                for some in (recorded, groups)
            ]
            if said[0] != said[1]:
                # Later samples are of another policy than will come of these scores.
                self._store.set_aside(step)
        self._store.write_samples("train", step, groups)

    def _measures(self, groups: Sequence[Group]) -> dict[str, float | None]:
        """Metrics of sampling; adapts the penalty's beta for the next step."""
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
        """What the next step depends on, apart from its number."""
        beta = None if self._penalty is None else self._penalty.beta
        return {"prompts_taken": self._taken, "kl_beta": beta}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._taken = state.get("prompts_taken")
        if self._penalty is not None and state.get("kl_beta"):
            self._penalty = replace(self._penalty, beta=state["kl_beta"])


def _surplus(group: Group) -> Group:
    """A group whose survivors are rejected, as the batch was full."""
    return group.with_(
        outcomes=tuple(
            Outcome(False, "the batch was full") if outcome.survived else outcome
            for outcome in group.outcomes
        )
    )
