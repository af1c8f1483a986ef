"""What an algorithm must be told of samples beside their scores, asked of the learner.

Nothing is asked that no cell of the row reads, and only of the samples for which it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from winnow.algorithms.advantages import referred
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.kl import InReward
from winnow.engines.base import Learner
from winnow.types import Group


@dataclass(frozen=True)
class Annotator:
    """Fills in the annotations of selected groups.

    Attributes:
        temperature: Of the sampler.
    """

    algorithm: Algorithm
    learner: Learner
    temperature: float

    def fill(self, groups: Sequence[Group], *, for_advantages: bool) -> list[Group]:
        """The groups with what advantages (where they are yet to be computed) and updates read."""
        filled = list(groups)
        if "ref" in self.algorithm.needs:
            asked = [self._referred(group, for_advantages) for group in filled]
            filled = self._ask(filled, asked, "ref_logprobs", self.reference_temperature)
        if "values" in self.algorithm.needs and for_advantages:
            kept = [group.survivors for group in filled]
            filled = self._ask(filled, kept, "values", self.temperature)
        return filled

    @property
    def reference_temperature(self) -> float:
        """That at which the row compares with the reference."""
        return self.temperature if self.algorithm.refers_tempered else 1.0

    def _ask(
        self, groups: list[Group], asked: list[tuple[int, ...]], wants: str, heat: float
    ) -> list[Group]:
        if not any(asked):
            return groups
        return self.learner.evaluate(groups, asked, wants, heat)

    def _referred(self, group: Group, for_advantages: bool) -> tuple[int, ...]:
        asked: set[int] = set()
        if for_advantages and isinstance(self.algorithm.kl, InReward):
            asked.update(referred(group, self.algorithm.advantage))
        for term in self.algorithm.objective:
            if "ref" in term.reads:
                # What has an advantage is among the survivors, and is not known before.
                counted = term.loss.covers == "counted"
                asked.update(term.covers(group) if counted else group.survivors)
        return tuple(sorted(asked))


def kl_to_reference(groups: Sequence[Group]) -> tuple[float, int] | None:
    """Mean over samples of log pi_old(y) - log pi_ref(y), nats an answer (k1), and of how many."""
    found = [
        float(np.sum(sample.logprobs) - np.sum(group.annotation(number).ref_logprobs))
        for group in groups
        for number, sample in enumerate(group.samples)
        if group.annotation(number).ref_logprobs and sample.logprobs
    ]
    return (float(np.mean(found)), len(found)) if found else None
