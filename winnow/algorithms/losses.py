"""Losses, unreduced. Pure.

A loss maps tensors to one number for each token, sample or group: its span. A denominator
(`denominators.py`) makes one number of them. Only tensor methods are used: importing this module
does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from winnow.algorithms.spec import Cell

if TYPE_CHECKING:
    from torch import Tensor

Span = Literal["token", "sample", "group"]
Covers = Literal["nonzero", "survivors", "counted"]
"""Which samples a term runs over: those whose advantage is not 0, all survivors, or all that its
denominator counts."""


class Loss(Cell):
    """A loss of the table; a user's function becomes one with these defaults.

    It is given what it ``reads``, in that order, each of shape (tokens,) unless said otherwise;
    nothing else is computed for it:

        logp       log pi_theta of each token, nats; at the sampling temperature if the loss is
                   ``tempered``, else at temperature 1
        old        log pi_old of the same tokens, at the sampling temperature
        advantage  what the token counts for, mostly the same for all tokens of a sample
        ref        log pi_ref, at the temperature of ``logp``
        entropy    of the next-token distribution, nats
        kl         KL(pi || pi_ref) of the next-token distributions over the whole vocabulary, nats
        value      what the critic expects before the token; ``old_value``: what it did when the
                   samples were made; ``returns``: what it should
        sample     number of the token's sample
        group      number of a sample's group, shape (samples,)
    """

    declares: ClassVar[Mapping[str, Sequence[str]]] = {
        "reads": (
            "logp", "old", "advantage", "ref", "entropy", "kl", "value", "old_value", "returns",
            "sample", "group",
        ),
        "span": get_args(Span),
        "covers": get_args(Covers),
    }  # fmt: skip
    covers: ClassVar[Covers] = "nonzero"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("logp", "old", "advantage")

    @property
    def span(self) -> Span:
        """Whether it gives one number for each token, sample or group."""
        return "token"

    @property
    def needs_old(self) -> bool:
        """Whether it uses the log-probs of the policy that sampled (true probabilities)."""
        return "old" in self.reads

    @property
    def tempered(self) -> bool:
        return self.needs_old

    def __call__(self, *given: Any, **named: Any) -> Tensor:
        """The loss of each token, sample or group."""
        raise NotImplementedError

    def measure(self, *given: Any, **named: Any) -> Mapping[str, Tensor]:
        """Metrics of the same span, by name."""
        return {}

    def clips(self, *given: Any, **named: Any) -> Tensor | None:
        """Tokens whose gradient a clip has set to zero, shape (tokens,), bool; None: no clip."""
        return None


@dataclass(frozen=True)
class NLL(Loss):
    """-A log pi: negative log-likelihood; maximum likelihood of the survivors where A = 1."""

    cell = "nll"
    needs_old = False
    formula = "-A log pi"

    def __call__(self, logp: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        return -advantage * logp


@dataclass(frozen=True)
class TemperedNLL(NLL):
    """-A log pi_T: the likelihood of the distribution that was sampled from, at temperature T.

    On new samples its mean gradient is the policy gradient at T: with equal rewards it is 0, where
    that of `nll` moves the policy towards pi_T, further each round.
    """

    cell = "nll-tempered"
    tempered = True
    formula = "-A log pi_T"


@dataclass(frozen=True)
class Clipped(Loss):
    """-min(s A, clip(s, 1 - low, 1 + high) A), s = pi/pi_old of the token: PPO (1707.06347, eq. 7).

    Separate bounds are DAPO's clip-higher (2503.14476); 0.2 and 0.28 are those of 2504.11343.
    With A < 0 the minimum picks the lower bound: s = .5, A = -1, low = .2 gives +.8, no gradient.
    """

    low: float = 0.2
    high: float = 0.28
    cell = "clipped"

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1 or self.high < 0:
            raise ValueError("needs 0 <= low <= 1 and high >= 0")

    @property
    def formula(self) -> str:
        return f"-min(s A, clip(s, {1 - self.low:g}, {1 + self.high:g}) A)"

    def __call__(self, logp: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        ratio = (logp - old).exp()
        clipped = ratio.clamp(1 - self.low, 1 + self.high)
        return -(ratio * advantage).minimum(clipped * advantage)

    def clips(self, logp: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        """Tokens whose gradient the clip has set to zero, shape (tokens,), bool."""
        ratio = (logp - old).exp()
        above = (advantage > 0) & (ratio > 1 + self.high)
        return above | ((advantage < 0) & (ratio < 1 - self.low))


@dataclass(frozen=True)
class Importance(Loss):
    """-s A: importance weights of tokens, without a clip.

    Summed over a sample right to first order in the distance of pi from pi_old: the ratios of its
    other tokens are left out (Kakade & Langford 2002; TRPO 1502.05477, eq. 3 and 4).
    """

    cell = "importance"
    formula = "-s A"

    def __call__(self, logp: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        return -(logp - old).exp() * advantage


@dataclass(frozen=True)
class Capped(Loss):
    """-min(s, cap) A log pi, the ratio held constant: capped importance weights of tokens.

    Every token keeps a gradient, of bounded weight: no sample is thrown away for being stale. The
    bias is that of the ratios above the cap (Ionides 2008; TIS, IMPALA 1802.01561; the gradient is
    CISPO's without a lower bound, 2506.13585), and that of `Importance`, which leaves out the
    ratios of a sample's other tokens.
    """

    cap: float = 2.0
    cell = "capped"

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise ValueError("cap must be above 0")

    @property
    def formula(self) -> str:
        return f"-const(min(s, {self.cap:g})) A log pi"

    def __call__(self, logp: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        ratio = (logp - old).exp().clamp(max=self.cap).detach()
        return -ratio * advantage * logp


@dataclass(frozen=True)
class SequenceClipped(Loss):
    """Of a whole sample, -min(s A, clip(s, 1 - low, 1 + high) A): GSPO (2507.18071, eq. 5 to 7).

    s = (pi(y)/pi_old(y))^(1/|y|), the geometric mean of its tokens' ratios: all tokens of a sample
    are clipped together or not at all. The clip is far narrower than that of tokens.
    """

    low: float = 3e-4
    high: float = 4e-4
    cell = "sequence-clipped"
    reads = ("logp", "old", "advantage", "sample")
    span = "sample"

    def __post_init__(self) -> None:
        Clipped(self.low, self.high)  # the same bounds

    @property
    def formula(self) -> str:
        return f"-min(s_y A, clip(s_y, {1 - self.low:g}, {1 + self.high:g}) A)"

    def __call__(self, logp: Tensor, old: Tensor, advantage: Tensor, sample: Tensor) -> Tensor:
        ratio, own = sample_means(logp - old, sample).exp(), sample_means(advantage, sample)
        clipped = ratio.clamp(1 - self.low, 1 + self.high)
        return -(ratio * own).minimum(clipped * own)

    def clips(self, logp: Tensor, old: Tensor, advantage: Tensor, sample: Tensor) -> Tensor:
        """Tokens whose gradient the clip has set to zero, shape (tokens,), bool."""
        ratio, own = sample_means(logp - old, sample).exp(), sample_means(advantage, sample)
        above = (own > 0) & (ratio > 1 + self.high)
        return (above | ((own < 0) & (ratio < 1 - self.low)))[sample]


@dataclass(frozen=True)
class SequenceImportance(Loss):
    """Of a whole sample, -min(S, cap) A log pi(y), the ratio held constant; S = pi(y)/pi_old(y).

    Without a cap its gradient is, in expectation over samples of any pi_old that covers pi, that of
    -E_pi[A]: exact importance sampling of earlier policies' samples.
    """

    cap: float = math.inf
    cell = "sequence-importance"
    reads = ("logp", "old", "advantage", "sample")
    span = "sample"

    def __post_init__(self) -> None:
        Capped(self.cap)  # the same bounds

    @property
    def formula(self) -> str:
        ratio = "S" if self.cap == math.inf else f"min(S, {self.cap:g})"
        return f"-const({ratio}) A log pi(y)"

    def __call__(self, logp: Tensor, old: Tensor, advantage: Tensor, sample: Tensor) -> Tensor:
        ratio = sample_sums(logp - old, sample).exp().clamp(max=self.cap).detach()
        return -ratio * sample_means(advantage, sample) * sample_sums(logp, sample)


@dataclass(frozen=True)
class DPO(Loss):
    """Of a group, -log sigmoid(beta [log(pi/pi_ref)(better) - log(pi/pi_ref)(worse)]).

    Direct preference optimization (2305.18290, eq. 7). The better sample is the one of advantage
    above 0, the worse that below; log-likelihoods of whole completions at temperature 1.
    """

    beta: float = 0.1
    cell = "dpo"
    reads = ("logp", "ref", "advantage", "sample", "group")
    span = "group"

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise ValueError("beta must be above 0 and finite")

    @property
    def formula(self) -> str:
        return f"-log sigmoid({self.beta:g} sum_y sign(A) log pi/pi_ref(y))"

    def __call__(
        self, logp: Tensor, ref: Tensor, advantage: Tensor, sample: Tensor, group: Tensor
    ) -> Tensor:
        return minus_log_sigmoid(self._margin(logp, ref, advantage, sample, group))

    def measure(
        self, logp: Tensor, ref: Tensor, advantage: Tensor, sample: Tensor, group: Tensor
    ) -> Mapping[str, Tensor]:
        """The implicit reward's margin, and whether it prefers the better sample; per group."""
        margin = self._margin(logp, ref, advantage, sample, group)
        return {"preference_margin": margin, "preference_accuracy": (margin > 0).to(margin.dtype)}

    def _margin(
        self, logp: Tensor, ref: Tensor, advantage: Tensor, sample: Tensor, group: Tensor
    ) -> Tensor:
        signed = sample_means(advantage, sample).sign() * sample_sums(logp - ref, sample)
        return self.beta * sample_sums(signed, group)


def minus_log_sigmoid(margin: Tensor) -> Tensor:
    """-log sigmoid, shape of `margin`. Neither value nor gradient over- or underflows."""
    return (-margin).logaddexp(margin.new_zeros(()))  # log(1 + exp(-margin))


def sample_sums(values: Tensor, sample: Tensor) -> Tensor:
    """Sums by sample (or group), shape (samples,); `sample` is the number of each value's."""
    return values.new_zeros(int(sample.max()) + 1).index_add(0, sample, values)


def sample_means(values: Tensor, sample: Tensor) -> Tensor:
    """Means by sample, as `sample_sums`."""
    return sample_sums(values, sample) / sample_sums(values.new_ones(len(values)), sample)


@dataclass(frozen=True)
class Entropy(Loss):
    """Minus the entropy of the next-token distribution: a bonus for staying undecided.

    Over the samples that the row's denominator counts. Its gradient leaves out the effect on later
    tokens.
    """

    tempered = True
    covers = "counted"
    reads = ("entropy",)
    formula = "-H(pi)"

    def __call__(self, entropy: Tensor) -> Tensor:
        return -entropy

    def measure(self, entropy: Tensor) -> Mapping[str, Tensor]:
        return {"entropy_term": entropy}


@dataclass(frozen=True)
class NoCritic(Cell):
    """No critic."""

    cell = "none"


@dataclass(frozen=True)
class Value(Loss):
    """coefficient x 1/2 max((V - R)^2, (clip(V, V_old +- clip) - R)^2): PPO's critic (1707.06347).

    V_old is what the critic expected when the samples were made, R = A + V_old. An infinite `clip`
    leaves the squared error. Over the survivors, under the row's own denominator.
    """

    clip: float = 0.2
    coefficient: float = 0.5
    cell = "value"
    covers = "survivors"
    reads = ("value", "old_value", "returns")
    formula = "1/2 (V - R)^2, V clipped about V_old"

    def __post_init__(self) -> None:
        if not self.clip > 0 or not 0 < self.coefficient < math.inf:
            raise ValueError("clip and coefficient must be above 0")

    def __call__(self, value: Tensor, old_value: Tensor, returns: Tensor) -> Tensor:
        near = value.maximum(old_value - self.clip).minimum(old_value + self.clip)
        return 0.5 * ((value - returns) ** 2).maximum((near - returns) ** 2)

    def measure(self, value: Tensor, old_value: Tensor, returns: Tensor) -> Mapping[str, Tensor]:
        return {"value_error": (value - returns) ** 2}
