"""Denominators: what turns losses of tokens, draws or groups into one number. Pure.

Half of an algorithm: which mean is taken decides how prompts, short answers and hopeless groups
weigh. Each is computed from counts of the whole mini-batch, so that neither the size of a
micro-batch nor the number of machines changes a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from winnow.algorithms.spec import Cell

Counted = Literal["draws", "survivors"]
"""Whether a denominator counts all valid draws or survivors. A term that is not about rewards, a KL
to a reference say, runs over the draws that its denominator counts."""


@dataclass(frozen=True)
class Totals:
    """Counts over one mini-batch, before anything is cut into micro-batches.

    Draws without a verdict are in none of them. ``prompts`` counts prompts with a valid draw,
    ``groups`` those with a survivor; ``survivors`` the draws that selection kept, also where their
    weight is 0.
    """

    prompts: int
    draws: int
    survivors: int
    tokens: int
    survivor_tokens: int
    groups: int = 0


class Denominator(Cell):
    """What a term is divided by; a function of one's own is one with these defaults.

    Of a term over whole draws |a| is 1, of one over groups the number of survivors too.
    """

    counts: ClassVar[Counted] = "survivors"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        """What each token's loss of a draw is multiplied by.

        Args:
            length: Tokens of the draw, |a|.
            siblings: Survivors among the draws of the same prompt, this one included.
            totals: Counts of the mini-batch.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class DrawMeans(Denominator):
    """Mean over a draw's tokens, then over all valid draws, the rejected ones included."""

    cell = "draw-means"
    counts = "draws"
    formula = "1/draws sum_draws 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * totals.draws)


@dataclass(frozen=True)
class SurvivorMeans(Denominator):
    """Mean over a draw's tokens, then over the survivors of the mini-batch."""

    cell = "survivor-means"
    formula = "1/survivors sum_survivors 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * totals.survivors)


@dataclass(frozen=True)
class PromptMeans(Denominator):
    """Mean over a draw's tokens, over its prompt's survivors, then over all prompts.

    In expectation the gradient of a truncated log p: its coefficient on grad p is
    [1 - (1 - p)^n] / p for right answers of weight 1.
    """

    cell = "prompt-means"
    formula = "1/prompts sum_prompts 1/survivors_x sum 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * siblings * totals.prompts)


@dataclass(frozen=True)
class SurvivorSums(Denominator):
    """Sum over a draw's tokens, mean over the survivors: log-likelihood of whole answers."""

    cell = "survivor-sums"
    formula = "1/survivors sum_survivors sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.survivors


@dataclass(frozen=True)
class GroupMeans(Denominator):
    """Mean over a draw's tokens, over its prompt's survivors, then over prompts that have any.

    Of a loss over pairs: the mean over pairs.
    """

    cell = "group-means"
    formula = "1/groups sum_groups 1/survivors_x sum 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * siblings * totals.groups)


@dataclass(frozen=True)
class Tokens(Denominator):
    """Mean over the tokens of all valid draws: DAPO (2503.14476)."""

    cell = "tokens"
    counts = "draws"
    formula = "1/tokens sum_draws sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.tokens


@dataclass(frozen=True)
class SurvivorTokens(Denominator):
    """Mean over the tokens of the survivors: what a supervised trainer does with the kept file."""

    cell = "survivor-tokens"
    formula = "1/survivor tokens sum_survivors sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.survivor_tokens


@dataclass(frozen=True)
class Constant(Denominator):
    """Sum over tokens over a fixed length, mean over all valid draws: Dr. GRPO (2503.20783).

    Length 1 is the policy gradient itself: unbiased, no preference for short or long answers.
    """

    length: float
    cell = "constant"
    counts = "draws"

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise ValueError("the length must be above 0")

    @property
    def formula(self) -> str:
        return f"1/draws sum_draws 1/{self.length:g} sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (self.length * totals.draws)
