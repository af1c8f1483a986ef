"""Rejection sampling as selection rules. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from winnow.algorithms.dedup import first_of_each
from winnow.algorithms.selection import Index, Reasons, Rule, ScoreRule
from winnow.errors import UserError
from winnow.theory.checks import Array
from winnow.theory.rejection import accept, acceptance, rso
from winnow.types import Group


@dataclass(frozen=True)
class Gibbs(ScoreRule):
    """Exact rejection sampling from pi* = pi_ref exp(r / beta) / Z, the samples being pi_ref's.

    A sample is accepted when u < exp((r - r_max) / beta), u uniform (von Neumann 1951). That is
    exact only if no completion at all has a reward above `r_max`; with `r_max` = `sample`, the
    largest reward of the prompt's samples, it is not.
    """

    beta: float
    r_max: float | str = "sample"
    cell = "gibbs"
    one_policy = True

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta must be above 0 and finite")
        if self.r_max != "sample" and (
            isinstance(self.r_max, str) or not math.isfinite(self.r_max)
        ):
            raise ValueError("r_max must be a number that no reward exceeds, or sample")

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        """As all rules.

        Raises:
            UserError: a reward above `r_max`.
        """
        living = np.flatnonzero(alive)
        reasons: Reasons = [None] * len(alive)
        if living.size:
            accepted = accept(_rewards(group)[living], self.beta, self._bound(group, living), rng)
            for place, taken in zip(living.tolist(), accepted.tolist(), strict=True):
                reasons[place] = None if taken else "rejected at random"
        return reasons

    @property
    def leaves_one(self) -> bool:  # type: ignore[override]
        return self.r_max == "sample"  # the largest reward itself is accepted with certainty

    def keeps_all(self, n: int) -> bool:
        """Whether it accepts n samples of a prompt, whatever their rewards."""
        return n == 1 and self.leaves_one

    def chances(self, group: Group, alive: Sequence[bool]) -> Array:
        """With what probability each sample still alive is accepted; 0 for the others.

        Returns:
            Shape (samples,).

        Raises:
            UserError: a reward above `r_max`.
        """
        living, found = np.flatnonzero(alive), np.zeros(len(alive))
        if living.size:
            bound = self._bound(group, living)
            found[living] = acceptance(_rewards(group)[living], self.beta, bound)
        return found

    def _bound(self, group: Group, living: Index) -> float:
        largest = float(_rewards(group)[living].max())
        bound = largest if isinstance(self.r_max, str) else float(self.r_max)
        if largest > bound:
            problem = f"reward {largest:g} of prompt {group.prompt.id!r} is above r_max = {bound:g}"
            raise UserError(str(self), problem, "set r_max to the largest reward that there can be")
        return bound


def _rewards(group: Group) -> Array:
    """The reward of each sample, 0 for an error, shape (samples,)."""
    return np.array([0.0 if s.value is None else s.value for s in group.scores])


@dataclass(frozen=True)
class RSO(Rule):
    """k samples of each prompt by statistical rejection sampling as published (2309.06657, alg. 1).

    In sweeps over the candidates that are left, each is taken when u < exp((r - r_max) / beta),
    r_max being the largest reward left. Equal texts are one candidate. Not exact sampling from pi*.
    """

    beta: float
    k: int = 8
    cell = "rso"
    one_policy = leaves_one = True
    reads = frozenset({"text"})

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta must be above 0 and finite")
        if self.k < 1:
            raise ValueError("k must be at least 1")

    def keeps_all(self, n: int) -> bool:
        """Whether it takes n samples of a prompt, equal texts aside, whatever their rewards."""
        return n <= self.k

    def __call__(self, group: Group, alive: Sequence[bool], rng: Generator) -> Reasons:
        reasons = first_of_each(group, alive, str, "text")
        left = [i for i, lives in enumerate(alive) if lives and reasons[i] is None]
        values = [group.scores[i].value or 0.0 for i in left]
        chosen = {left[i] for i in rso(np.array(values), self.beta, self.k, rng).tolist()}
        for i in left:
            reasons[i] = None if i in chosen else f"not among the {self.k} taken"
        return reasons
