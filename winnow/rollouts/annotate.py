"""Token annotations of samples, asked of the learner.

Only those that some cell of the algorithm reads, of the samples for which it reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import referred
from winnow.algorithms.kl import InReward
from winnow.engines.base import Learner, PerToken
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
        """The groups with the annotations that updates (and advantages yet to come) read."""
        filled = list(groups)
        if "ref" in self.algorithm.needs:
            asked = [self._referred(group, for_advantages) for group in filled]
            if any(asked):
                heat = self.reference_temperature
                found = self.learner.reference_logprobs(filled, asked, heat)
                filled = _annotated(filled, "ref_logprobs", found)
        if "values" in self.algorithm.needs and for_advantages:
            asked = [group.survivors for group in filled]
            if any(asked):
                filled = _annotated(filled, "values", self.learner.values(filled, asked))
        return filled

    @property
    def reference_temperature(self) -> float:
        """The temperature at which the algorithm compares with the reference."""
        return self.temperature if self.algorithm.refers_tempered else 1.0

    def _referred(self, group: Group, for_advantages: bool) -> tuple[int, ...]:
        asked: set[int] = set()
        if for_advantages and isinstance(self.algorithm.kl, InReward):
            asked.update(referred(group, self.algorithm.advantage))
        for term in self.algorithm.objective:
            if "ref" in term.reads:
                # Which survivors have an advantage is not known yet.
                counted = term.loss.covers == "counted"
                asked.update(term.covers(group) if counted else group.survivors)
        return tuple(sorted(asked))


def _annotated(
    groups: Sequence[Group], name: Literal["ref_logprobs", "values"], found: PerToken
) -> list[Group]:
    """The groups with one more annotation of each sample."""
    return [
        group.with_(
            annotations=tuple(
                replace(group.annotation(number), **{name: own})
                for number, own in enumerate(numbers)
            )
        )
        for group, numbers in zip(groups, found, strict=True)
    ]


def kl_to_reference(groups: Sequence[Group]) -> tuple[float, int] | None:
    """Mean over samples of log pi_old(y) - log pi_ref(y) (k1), nats, and their number."""
    found = [
        float(np.sum(sample.logprobs) - np.sum(group.annotation(number).ref_logprobs))
        for group in groups
        for number, sample in enumerate(group.samples)
        if group.annotation(number).ref_logprobs and sample.logprobs
    ]
    return (float(np.mean(found)), len(found)) if found else None
