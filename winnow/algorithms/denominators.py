"""Denominators, which turn losses of tokens, samples or groups into one number. Pure.

The mean that is taken decides how prompts, short completions and hopeless groups count. Each is
computed from counts of the whole mini-batch, so that the size of a micro-batch changes no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from winnow.algorithms.spec import Cell

Counted = Literal["samples", "survivors"]
"""Whether a denominator counts all valid samples or survivors. A term that is not about rewards,
such as a KL to a reference, runs over the samples that its denominator counts."""


@dataclass(frozen=True)
class Totals:
    """Counts over one mini-batch, before anything is cut into micro-batches.

    Samples without a score are in none of them. ``prompts`` counts prompts with a valid sample,
    ``groups`` those with a survivor; ``survivors`` includes samples of advantage 0.
    """

    prompts: int
    samples: int
    survivors: int
    tokens: int
    survivor_tokens: int
    groups: int = 0


class Denominator(Cell):
    """What a term is divided by; a user's function becomes one with these defaults.

    For a term over whole samples, |a| is 1; for one over groups, so is the number of survivors.
    """

    declares: ClassVar[Mapping[str, Sequence[str]]] = {"counts": get_args(Counted)}
    counts: ClassVar[Counted] = "survivors"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        """What each token's loss of a sample is multiplied by.

        Args:
            length: Tokens of the sample, |a|.
            siblings: Survivors among the samples of the same prompt, this one included.
            totals: Counts of the mini-batch.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class SampleMeans(Denominator):
    """Mean over a sample's tokens, then over all valid samples, the rejected ones included."""

    cell = "sample-means"
    counts = "samples"
    formula = "1/samples sum_samples 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * totals.samples)


@dataclass(frozen=True)
class SurvivorMeans(Denominator):
    """Mean over a sample's tokens, then over the survivors of the mini-batch."""

    cell = "survivor-means"
    formula = "1/survivors sum_survivors 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * totals.survivors)


@dataclass(frozen=True)
class PromptMeans(Denominator):
    """Mean over a sample's tokens, over its prompt's survivors, then over all prompts.

    In expectation the gradient of a truncated log p: its coefficient on grad p is
    [1 - (1 - p)^n] / p for right samples of advantage 1.
    """

    cell = "prompt-means"
    formula = "1/prompts sum_prompts 1/survivors_x sum 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * siblings * totals.prompts)


@dataclass(frozen=True)
class SurvivorSums(Denominator):
    """Sum over a sample's tokens, mean over the survivors: log-likelihood of whole completions."""

    cell = "survivor-sums"
    formula = "1/survivors sum_survivors sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.survivors


@dataclass(frozen=True)
class GroupMeans(Denominator):
    """Mean over a sample's tokens, over its prompt's survivors, then over prompts that have any.

    For a loss over pairs: the mean over pairs.
    """

    cell = "group-means"
    formula = "1/groups sum_groups 1/survivors_x sum 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * siblings * totals.groups)


@dataclass(frozen=True)
class Tokens(Denominator):
    """Mean over the tokens of all valid samples: DAPO (2503.14476)."""

    cell = "tokens"
    counts = "samples"
    formula = "1/tokens sum_samples sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.tokens


@dataclass(frozen=True)
class SurvivorTokens(Denominator):
    """Mean over the tokens of the survivors: what supervised training on them does."""

    cell = "survivor-tokens"
    formula = "1/survivor tokens sum_survivors sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.survivor_tokens


@dataclass(frozen=True)
class Constant(Denominator):
    """Sum over tokens over a fixed length, mean over all valid samples: Dr. GRPO (2503.20783).

    Length 1 is the policy gradient itself: unbiased, no preference for short or long completions.
    """

    length: float
    cell = "constant"
    counts = "samples"

    def __post_init__(self) -> None:
        if not 0 < self.length < math.inf:
            raise ValueError("the length must be above 0 and finite")

    @property
    def formula(self) -> str:
        return f"1/samples sum_samples 1/{self.length:g} sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (self.length * totals.samples)
