"""Losses per token, unreduced, and the denominators that reduce them. Pure.

A loss maps tensors of shape (tokens,) to a tensor of shape (tokens,). What makes a number of it is
one named denominator, computed from counts of the whole mini-batch, so that neither the size of a
micro-batch nor the number of machines changes a gradient. Only tensor methods are used: importing
this module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from winnow.cells import Cell, by_name

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Protocol):
    """A loss of the table."""

    @property
    def needs_old(self) -> bool:
        """Whether it reads the log-probs of the policy that drew (true probabilities)."""
        ...

    def __call__(self, logp: Tensor, old: Tensor, weight: Tensor) -> Tensor:
        """Loss of each token, shape (tokens,).

        Args:
            logp: log pi_theta of each token, shape (tokens,), nats. At the sampling temperature
                if ``needs_old``, else at temperature 1.
            old: log pi_old of the same tokens at the sampling temperature, shape (tokens,).
            weight: The draw's weight, repeated for each of its tokens, shape (tokens,).
        """
        ...


@dataclass(frozen=True)
class NLL(Cell):
    """-A log pi: negative log-likelihood; maximum likelihood of the survivors where A = 1."""

    cell: ClassVar[str] = "nll"
    needs_old: ClassVar[bool] = False
    formula: ClassVar[str] = "-A log pi"

    def __call__(self, logp: Tensor, old: Tensor, weight: Tensor) -> Tensor:
        return -weight * logp


@dataclass(frozen=True)
class Clipped(Cell):
    """-min(s A, clip(s, 1 - low, 1 + high) A), s = pi/pi_old of the token: PPO (1707.06347, eq. 7).

    Separate bounds are DAPO's clip-higher (2503.14476); 0.2 and 0.28 are those of 2504.11343.
    With A < 0 the minimum picks the lower bound: s = .5, A = -1, low = .2 gives +.8, no gradient.
    """

    low: float = 0.2
    high: float = 0.28
    cell: ClassVar[str] = "clipped"
    needs_old: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 or self.high < 0:
            raise ValueError("0 <= low <= 1 and high >= 0")

    @property
    def formula(self) -> str:
        return f"-min(s A, clip(s, {1 - self.low:g}, {1 + self.high:g}) A)"

    def __call__(self, logp: Tensor, old: Tensor, weight: Tensor) -> Tensor:
        ratio = (logp - old).exp()
        clipped = ratio.clamp(1 - self.low, 1 + self.high)
        return -(ratio * weight).minimum(clipped * weight)

    def clips(self, logp: Tensor, old: Tensor, weight: Tensor) -> Tensor:
        """Tokens whose gradient the clip has set to zero, shape (tokens,), bool."""
        ratio = (logp - old).exp()
        above = (weight > 0) & (ratio > 1 + self.high)
        return above | ((weight < 0) & (ratio < 1 - self.low))


@dataclass(frozen=True)
class Importance(Cell):
    """-s A: importance weighting without a clip."""

    cell: ClassVar[str] = "importance"
    needs_old: ClassVar[bool] = True
    formula: ClassVar[str] = "-s A"

    def __call__(self, logp: Tensor, old: Tensor, weight: Tensor) -> Tensor:
        return -(logp - old).exp() * weight


@dataclass(frozen=True)
class Truncated(Cell):
    """-min(s, cap) A log pi, the weight held constant: truncated importance sampling.

    Every token keeps a gradient, of bounded weight: no draw is thrown away for being stale. The
    bias is that of the weights above the cap (Ionides 2008; TIS, IMPALA 1802.01561; the same
    gradient as CISPO's without a lower bound, 2506.13585).
    """

    cap: float = 2.0
    cell: ClassVar[str] = "truncated"
    needs_old: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise ValueError("cap is above 0")

    @property
    def formula(self) -> str:
        return f"-const(min(s, {self.cap:g})) A log pi"

    def __call__(self, logp: Tensor, old: Tensor, weight: Tensor) -> Tensor:
        ratio = (logp - old).exp().clamp(max=self.cap).detach()
        return -ratio * weight * logp


LOSSES = by_name([NLL, Clipped, Importance, Truncated])


@dataclass(frozen=True)
class Totals:
    """Counts over one mini-batch, before anything is cut into micro-batches.

    Draws without a verdict are in none of them. ``prompts`` counts prompts with a valid draw;
    ``survivors`` the draws that selection kept, also where their weight is 0.
    """

    prompts: int
    draws: int
    survivors: int
    tokens: int
    survivor_tokens: int


class Denominator(Protocol):
    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        """What each token's loss of a draw is multiplied by.

        Args:
            length: Tokens of the draw, |a|.
            siblings: Survivors among the draws of the same prompt, this one included.
            totals: Counts of the mini-batch.
        """
        ...


@dataclass(frozen=True)
class DrawMeans(Cell):
    """Mean over a draw's tokens, then over all valid draws, the rejected ones included."""

    cell: ClassVar[str] = "draw-means"
    formula: ClassVar[str] = "1/draws sum_draws 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * totals.draws)


@dataclass(frozen=True)
class SurvivorMeans(Cell):
    """Mean over a draw's tokens, then over the survivors of the mini-batch."""

    cell: ClassVar[str] = "survivor-means"
    formula: ClassVar[str] = "1/survivors sum_survivors 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * totals.survivors)


@dataclass(frozen=True)
class PromptMeans(Cell):
    """Mean over a draw's tokens, over its prompt's survivors, then over all prompts.

    In expectation the gradient of a truncated log p: its coefficient on grad p is
    [1 - (1 - p)^n] / p for right answers of weight 1.
    """

    cell: ClassVar[str] = "prompt-means"
    formula: ClassVar[str] = "1/prompts sum_prompts 1/survivors_x sum 1/|a| sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (length * siblings * totals.prompts)


@dataclass(frozen=True)
class SurvivorSums(Cell):
    """Sum over a draw's tokens, mean over the survivors: log-likelihood of whole answers."""

    cell: ClassVar[str] = "survivor-sums"
    formula: ClassVar[str] = "1/survivors sum_survivors sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.survivors


@dataclass(frozen=True)
class Tokens(Cell):
    """Mean over the tokens of all valid draws: DAPO (2503.14476)."""

    cell: ClassVar[str] = "tokens"
    formula: ClassVar[str] = "1/tokens sum_draws sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.tokens


@dataclass(frozen=True)
class SurvivorTokens(Cell):
    """Mean over the tokens of the survivors: what a supervised trainer does with the kept file."""

    cell: ClassVar[str] = "survivor-tokens"
    formula: ClassVar[str] = "1/survivor tokens sum_survivors sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / totals.survivor_tokens


@dataclass(frozen=True)
class Constant(Cell):
    """Sum over tokens over a fixed length, mean over all valid draws: Dr. GRPO (2503.20783).

    Length 1 is the policy gradient itself: unbiased, no preference for short or long answers.
    """

    length: float
    cell: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise ValueError("the length is above 0")

    @property
    def formula(self) -> str:
        return f"1/draws sum_draws 1/{self.length:g} sum_t"

    def __call__(self, length: int, siblings: int, totals: Totals) -> float:
        return 1.0 / (self.length * totals.draws)


DENOMINATORS = by_name(
    [DrawMeans, SurvivorMeans, PromptMeans, SurvivorSums, Tokens, SurvivorTokens, Constant]
)


@dataclass(frozen=True)
class Term:
    """One summand of the loss: coefficient x denominator-mean of a loss over tokens."""

    loss: Loss
    denominator: Denominator
    coefficient: float = 1.0
    span: Literal["token"] = "token"
