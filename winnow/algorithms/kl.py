"""KL to a reference: none, in the reward, or in the loss. Pure.

An estimator of KL(pi || pi_ref) is named by its value, but what it does follows from its gradient,
which depends on where it is used (`winnow.theory.ESTIMATORS`; on samples of the policy itself):

    in the reward, k1 of the sequence   that of KL(pi || pi_ref): leads to pi*
    in the loss, k1                     0 in expectation
    in the loss, k2 of the sequence     that of KL(pi || pi_ref): leads to pi*
    in the loss, k3 of the sequence     that of KL(pi_ref || pi)
    in the loss, k2 or full by token    that of KL(pi || pi_ref), less its effect on later tokens
    in the loss, k3 by token            that of KL(pi_ref || pi) of each next token, after prefixes
                                        sampled from pi
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from winnow.algorithms.losses import Loss, Span, sample_sums
from winnow.algorithms.spec import Cell
from winnow.theory.checks import Array
from winnow.theory.divergence import ESTIMATORS

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 0.2
"""How far one step may change an adaptive coefficient, as a share (1909.08593, section 2.2)."""


@dataclass(frozen=True)
class NoKL(Cell):
    """No reference model."""

    cell = "none"


@dataclass(frozen=True)
class InReward(Cell):
    """r - beta x (estimate of KL(pi || pi_ref) from the sampled tokens): RLHF (1909.08593).

    With a critic's advantages each token bears its own part, else the whole sample their sum. pi is
    the policy that sampled. With a ``target`` (nats a sample) beta follows the KL over ``horizon``
    samples: beta <- beta (1 + clip(KL/target - 1, +-0.2) min(samples/horizon, 1)).
    """

    beta: float = 0.05
    estimator: Literal["k1", "k2", "k3"] = "k1"
    target: float = 0.0
    horizon: float = 10_000.0
    cell = "in-reward"
    seldom = frozenset({"target", "horizon"})

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta must be above 0 and finite")
        if self.estimator not in ESTIMATORS:
            raise ValueError("the estimator must be k1, k2 or k3")
        if not 0 <= self.target < math.inf or not 0 < self.horizon < math.inf:
            raise ValueError(
                "target (0: beta is fixed) and horizon must be finite and not negative"
            )

    def __call__(self, logp: Array, ref: Array) -> Array:
        """What is taken from the reward at each token, shape (tokens,)."""
        return self.beta * ESTIMATORS[self.estimator].value(logp, ref)

    def adapted(self, beta: float, kl: float, samples: int) -> float:
        """The next coefficient, after so many samples of this mean KL."""
        if not self.target:
            return beta
        error = min(max(kl / self.target - 1, -_MOST), _MOST)
        return beta * (1 + error * min(samples / self.horizon, 1.0))


@dataclass(frozen=True)
class InLoss(Cell):
    """+ beta x (estimate of KL to the reference), under the row's own denominator.

    By ``token``, or of the log-ratio of the whole ``sequence``. `full` is no estimate but the KL of
    the next-token distributions over the whole vocabulary; it reads the reference once more for
    each update. It runs over the samples that the row's denominator counts.
    """

    beta: float = 0.04
    estimator: Literal["k1", "k2", "k3", "full"] = "k3"
    over: Literal["token", "sequence"] = "token"
    cell = "in-loss"

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta must be above 0 and finite")
        if self.estimator not in (*ESTIMATORS, "full"):
            raise ValueError("the estimator must be k1, k2, k3 or full")
        if self.over not in ("token", "sequence"):
            raise ValueError("over must be token or sequence")
        if self.estimator == "full" and self.over == "sequence":
            raise ValueError("full must be over tokens: sequences cannot be enumerated")

    @property
    def loss(self) -> KL:
        return KL(self.estimator, self.over)


@dataclass(frozen=True)
class KL(Loss):
    """An estimate of KL to the reference as a loss: see `InLoss`."""

    estimator: Literal["k1", "k2", "k3", "full"]
    over: Literal["token", "sequence"]
    tempered = True
    covers = "counted"

    @property
    def reads(self) -> tuple[str, ...]:
        if self.estimator == "full":
            return ("kl",)
        return ("logp", "ref") if self.over == "token" else ("logp", "ref", "sample")

    @property
    def span(self) -> Span:
        return "token" if self.over == "token" else "sample"

    @property
    def formula(self) -> str:
        what = "pi, pi_ref" if self.over == "token" else "pi(y), pi_ref(y)"
        return f"{'KL' if self.estimator == 'full' else self.estimator}({what})"

    def __call__(self, *given: Tensor) -> Tensor:
        if self.estimator == "full":
            return given[0]
        ratio = given[0] - given[1]
        ratio = ratio if self.over == "token" else sample_sums(ratio, given[2])
        if self.estimator == "k1":
            return ratio
        return ratio**2 / 2 if self.estimator == "k2" else (-ratio).expm1() + ratio

    def measure(self, *given: Tensor) -> Mapping[str, Tensor]:
        return {"kl_term": self(*given)}
