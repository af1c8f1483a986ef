"""What the loop trains on: samples of every step and of earlier rounds, or samples made once.

A file of samples is another source, in `file_source.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from winnow.algorithms.assignment import remark
from winnow.config.phases import Phase
from winnow.engines.base import Engine
from winnow.engines.factory import check_prompts
from winnow.rollouts.annotate import Annotator
from winnow.rollouts.context import Context
from winnow.rollouts.generate import random_stream
from winnow.rollouts.rollout import Rollout
from winnow.types import Batch, Group


class Source(Protocol):
    """What the loop trains on. Steps are numbered through a run, from 1, its phases included."""

    @property
    def last(self) -> int:
        """Number of the last step."""
        ...

    @property
    def passes(self) -> int:
        """Passes over the groups of a step, within the step."""
        ...

    def groups(self, step: int) -> Batch:
        """The groups of a step, ready for updates."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What must be saved to resume a run."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class EveryStep:
    """New samples for every step, from the policy as it is then.

    With `rounds.merge`, samples of earlier rounds are trained on again, with the advantages they
    had then; the loss has to correct for the policy's changes since, which
    `sequence-importance` does exactly and ratios of tokens do to first order.
    """

    def __init__(self, phase: Phase, rollout: Rollout, context: Context) -> None:
        self.rollout, self.passes, self.last = rollout, phase.algorithm.epochs, phase.last
        self._context, self._before, self._merge = context, phase.before, phase.config.rounds.merge
        self._refilled = phase.algorithm.refill > 0
        self._earlier: dict[int, list[Group]] = {}

    def groups(self, step: int) -> Batch:
        own = self.rollout.make(step, self._context.sampler)
        if not self._merge:
            return own
        rounds = range(max(self._before + 1, step - self._merge), step)
        # A resumed run reads them again.
        self._earlier = {
            n: self._earlier[n] if n in self._earlier else self._read(n) for n in rounds
        }
        earlier = [group for number in rounds for group in self._earlier[number]]
        self._earlier[step] = [own.groups[i] for i in own.positions]
        last = len(own.groups)
        return replace(
            own,
            groups=own.groups + earlier,
            trained=[*own.positions, *range(last, last + len(earlier))],
            merged=len(earlier),
        )

    def _read(self, step: int) -> list[Group]:
        """What was trained on at an earlier step."""
        groups = self._context.store.groups("train", step)
        if not self._refilled:
            return groups
        return [group for group in groups if group.survivors]

    def state(self) -> Mapping[str, Any]:
        return self.rollout.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rollout.restore(state)


class Passes:
    """Passes over samples that are made once, each in an order of its own.

    Attributes:
        steps: Of one pass.
    """

    passes = 1

    def __init__(self, phase: Phase) -> None:
        self.steps = phase.steps // phase.algorithm.epochs
        self._seed, self._before, self.last = phase.config.seed, phase.before, phase.last

    def chosen(self, step: int, size: int, share: int) -> tuple[int, list[int]]:
        """The number of the pass that a step belongs to, and the positions of the step's groups.

        Args:
            size: Number of all groups.
            share: Number of those of a step; the last of a pass may have fewer.
        """
        epoch, place = divmod(step - self._before - 1, self.steps)
        order = random_stream(self._seed, "pass", epoch).permutation(size)
        return epoch, order[place * share : (place + 1) * share].tolist()

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Once(Passes):
    """All samples before the first update, then passes over them, as in RFT.

    Args:
        other: The engine of another model that samples, let go of afterwards; default: the policy.
    """

    def __init__(
        self,
        phase: Phase,
        rollout: Rollout,
        context: Context,
        annotator: Annotator,
        other: Engine | None,
    ) -> None:
        super().__init__(phase)
        self._rollout, self._context, self._annotator = rollout, context, annotator
        self._other, self._sampling = other, phase.config.sampling
        self._algorithm = phase.algorithm
        self._all: list[Group] = []

    def groups(self, step: int) -> Batch:
        if not self._all:
            self._all = self._sampled()
        epoch, chosen = self.chosen(step, len(self._all), len(self._all) // self.steps)
        with self._context.watch("annotate"):
            groups = self._annotator.fill([self._all[i] for i in chosen], for_advantages=False)
        return Batch(groups, epoch == 0)

    def _sampled(self) -> list[Group]:
        other, context = self._other, self._context
        if other is not None and not context.store.groups_sampled("train", self._before + 1):
            with context.watch("sample"):
                context.observers.progress("load samples_from", 0, 1)
                check_prompts(other, context.prompts.train, self._sampling.max_tokens)
                other.load()
        sampler = context.sampler if other is None else other.sampler(self._sampling)
        steps = range(self._before + 1, self._before + self.steps + 1)
        made = {step: self._rollout.make(step, sampler, whole=False).groups for step in steps}
        if other is not None:
            other.close()
        groups = self._rollout.together(made)
        said = remark(groups, self._algorithm.advantage, self._algorithm.reward_scale)
        if said is not None:
            context.observers.note(said)
        return groups
