"""The terms of an objective, and their factors over a mini-batch. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

from winnow.algorithms.denominators import Denominator, Totals
from winnow.algorithms.losses import Loss, Span
from winnow.algorithms.own import checked_numbers, own_code
from winnow.algorithms.registry import DENOMINATORS, LOSSES
from winnow.algorithms.spec import Function, Takes
from winnow.errors import UserError
from winnow.types import Group


def check_coefficient(field: str, given: object) -> None:
    """Raise a `UserError` if a coefficient is no finite number."""
    if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
        raise UserError(field, f"must be a finite number (got {given!r:.60})")


@dataclass(frozen=True)
class Term:
    """One summand of the objective: coefficient x denominator-mean of a loss over its span."""

    loss: Takes[Loss | Function, Loss] = Takes(LOSSES.adopt)
    denominator: Takes[Denominator | Function, Denominator] = Takes(DENOMINATORS.adopt)
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        check_coefficient("algorithm.coefficient", self.coefficient)

    @property
    def reads(self) -> tuple[str, ...]:
        return self.loss.reads

    @property
    def span(self) -> Span:
        return self.loss.span

    @property
    def tempered(self) -> bool:
        """Whether its log-probs are those at the sampling temperature."""
        return self.loss.tempered

    @property
    def refers(self) -> bool:
        """Whether it compares with the reference."""
        return not {"ref", "kl"}.isdisjoint(self.reads)

    def covers(self, group: Group) -> tuple[int, ...]:
        """Numbers of the samples of a group that it runs over."""
        samples = range(len(group.samples))
        if self.loss.covers == "nonzero":
            return tuple(i for i in samples if group.has_advantage(i))
        if self.loss.covers == "counted" and self.denominator.counts == "samples":
            return tuple(i for i in samples if group.valid[i])
        return group.survivors

    def factor(self, length: int, siblings: int, totals: Totals) -> float:
        """What a token's, a sample's or a group's loss is multiplied by."""
        if self.span == "group":
            siblings = 1
        length = length if self.span == "token" else 1
        with own_code(self.denominator, "denominator"):
            found = self.denominator(length, siblings, totals)
        return self.coefficient * float(checked_numbers(self.denominator, "denominator", found, ()))


def learned_from(group: Group, terms: Sequence[Term]) -> tuple[int, ...]:
    """Numbers of the samples of a group that some term runs over; the others cost nothing."""
    return tuple(sorted({i for term in terms for i in term.covers(group)}))


def totals(groups: Sequence[Group]) -> Totals:
    """Counts of a mini-batch; samples without a score are in none of them."""
    survivors = [group.samples[i] for group in groups for i in group.survivors]
    valid = [
        sample
        for group in groups
        for sample, is_valid in zip(group.samples, group.valid, strict=True)
        if is_valid
    ]
    return Totals(
        prompts=sum(any(group.valid) for group in groups),
        samples=len(valid),
        survivors=len(survivors),
        tokens=sum(len(sample.token_ids) for sample in valid),
        survivor_tokens=sum(len(sample.token_ids) for sample in survivors),
        groups=sum(bool(group.survivors) for group in groups),
    )


def factors(group: Group, term: Term, counts: Totals) -> list[float]:
    """What multiplies the loss of each sample, its tokens or its group; 0 if not covered."""
    siblings = len(group.survivors)
    covered = set(term.covers(group))
    return [
        term.factor(len(sample.token_ids), siblings, counts) if number in covered else 0.0
        for number, sample in enumerate(group.samples)
    ]
