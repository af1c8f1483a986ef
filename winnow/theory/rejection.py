"""Rejection sampling, with a certificate of whether it was exact. Pure but for the generator.

A sample y of the proposal q is accepted when u < p~(y) / (M q(y)), u uniform on [0, 1). Where
p~ <= M q everywhere, accepted samples are independent samples of p = p~ / Z, and a share Z / M of
the proposals is accepted (von Neumann 1951). Where M is too small they follow min(p~, M q) instead:
a `Certificate` says whether that was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from winnow.theory.checks import (
    Array,
    finite,
    log_normalised,
    log_probabilities,
    log_ratio,
    logs,
    positive,
    together,
)

Samples = Sequence[Any] | NDArray[Any]

_ROUNDING = 1e-12
"""A log-weight above log M by no more than this share of it is rounding, not a violation."""


@dataclass(frozen=True)
class Certificate:
    """What is known about the output of one run of rejection sampling.

    Attributes:
        proposals: Samples of the proposal up to the last one that was needed.
        acceptances: How many of them were accepted.
        log_m: log M, the bound that was used, nats.
        largest_log_weight: The largest log(p~ / q) seen, nats; over a finite set, the largest of
            all.
        bound_is_known: Whether M is known to bound every weight, as from the largest possible
            reward, and is not merely the largest weight of some samples.
    """

    proposals: int
    acceptances: int
    log_m: float
    largest_log_weight: float
    bound_is_known: bool

    def __post_init__(self) -> None:
        if not 0 <= self.acceptances <= self.proposals or self.proposals < 1:
            raise ValueError("a certificate needs a proposal, and no more acceptances than those")

    @property
    def violated(self) -> bool:
        """Whether a weight above M was seen: the output then follows min(p~, M q), not p."""
        slack = _ROUNDING * max(1.0, abs(self.log_m))
        return self.largest_log_weight > self.log_m + slack

    @property
    def exact(self) -> bool:
        """Whether the output is distributed as p: the bound is known, and nothing broke it."""
        return self.bound_is_known and not self.violated

    @property
    def acceptance_rate(self) -> float:
        """Acceptances per proposal. Estimates Z / M unless `violated`."""
        return self.acceptances / self.proposals

    @property
    def standard_error(self) -> float:
        """Of `acceptance_rate`: sqrt(a (1 - a) / proposals). 0 if none or all were accepted."""
        rate = self.acceptance_rate
        return math.sqrt(rate * (1.0 - rate) / self.proposals)


def rejection_sample(
    propose: Callable[[int, np.random.Generator], Samples],
    log_weight: Callable[[Samples], ArrayLike],
    count: int,
    rng: np.random.Generator,
    *,
    log_m: float,
    bound_is_known: bool,
    max_proposals: int = 10_000_000,
    batch: int = 65_536,
) -> tuple[Samples, Certificate]:
    """Samples of p from samples of a proposal, in the order in which they were proposed.

    With too few acceptances in `max_proposals` the result is shorter than `count`: see
    `certificate.acceptances`. What is there is still distributed as promised.

    Args:
        propose: Gives that many independent samples of q, as an array or a list.
        log_weight: log(p~ / q) of samples, shape (samples,), nats; -inf where p~ = 0.
        count: Number of accepted samples to make.
        log_m: log M, nats.
        bound_is_known: For the certificate.
        max_proposals: Proposals after which to stop.
        batch: Most proposals asked for at once.

    Returns:
        The samples (an array if `propose` gives arrays, else a list), and the certificate.

    Raises:
        ValueError: A count is below 1, log_m is not finite, a log-weight is nan or +inf, or
            `propose` or `log_weight` returns too few or too many.
    """
    if count < 1 or max_proposals < 1 or batch < 1:
        raise ValueError("count, max_proposals and batch must be at least 1")
    if not math.isfinite(log_m):
        raise ValueError("log_m must be finite")
    taken: list[Samples] = []
    proposed = accepted = 0
    largest = -math.inf
    while accepted < count and proposed < max_proposals:
        size = _next_size(count - accepted, accepted, proposed)
        size = min(size, batch, max_proposals - proposed)
        samples = propose(size, rng)
        weights = logs("log_weight", log_weight(samples))
        if len(samples) != size or weights.shape != (size,):
            raise ValueError(f"propose and log_weight must give {size} entries when asked for them")
        passed = np.flatnonzero(rng.random(size) < np.exp(np.minimum(weights - log_m, 0.0)))
        passed = passed[: count - accepted]
        accepted += len(passed)
        proposed += int(passed[-1]) + 1 if accepted == count else size
        largest = max(largest, float(weights.max()))
        taken.append(_take(samples, passed))
    return _joined(taken), Certificate(proposed, accepted, log_m, largest, bound_is_known)


def rejection_sample_finite(
    log_p: ArrayLike,
    log_q: ArrayLike,
    count: int,
    rng: np.random.Generator,
    *,
    log_m: float | None = None,
    max_proposals: int = 10_000_000,
) -> tuple[NDArray[np.int64], Certificate]:
    """Samples of p over a finite set from samples of q; `rejection_sample` with all weights known.

    The certificate's largest log-weight is the largest of all, so `violated` is certain.

    Args:
        log_p: log p~ of each element, shape (y,), nats, up to a constant that goes into M.
        log_q: log q of each element, shape (y,), nats, normalized.
        count: Number of accepted samples to make.
        log_m: log M, nats. By default log M*, the largest log-weight.
        max_proposals: Proposals after which to stop, with a shorter result.

    Returns:
        Indices of the accepted samples, shape (count,) or shorter, and the certificate.

    Raises:
        ValueError: q = 0 where p~ is not, p~ = 0 everywhere, q is not normalized, shapes differ.
    """
    log_p, log_q = logs("log_p", log_p), log_probabilities("log_q", log_q)
    if log_p.ndim != 1 or log_p.shape != log_q.shape:
        raise ValueError("log_p and log_q must be of one shape (y,)")
    log_w = log_ratio(log_p, log_q)
    largest = float(log_w.max())
    if largest == -math.inf:
        raise ValueError("log_p must not be -inf everywhere: nothing could be accepted")
    cumulative = np.cumsum(np.exp(log_q))
    cumulative /= cumulative[-1]
    indices, certificate = rejection_sample(
        lambda size, rng: np.searchsorted(cumulative, rng.random(size), side="right"),
        lambda samples: log_w[np.asarray(samples)],
        count,
        rng,
        log_m=largest if log_m is None else log_m,
        bound_is_known=True,
        max_proposals=max_proposals,
    )
    certificate = replace(certificate, largest_log_weight=largest)
    return np.asarray(indices, dtype=np.int64), certificate


def limit_of(log_p: ArrayLike, log_q: ArrayLike, log_m: float) -> Array:
    """The distribution that rejection sampling with this M samples from: min(p~, M q), normalized.

    Equal to p where M is large enough. Shape (..., y), probabilities.

    Args:
        log_p: log p~, shape (..., y), nats.
        log_q: log q, shape (..., y), nats, normalized.
        log_m: log M, nats.

    Raises:
        ValueError: Nothing could be accepted, log_m is not finite, q is not normalized.
    """
    if not math.isfinite(log_m):
        raise ValueError("log_m must be finite")
    log_p, log_q = together(log_p=logs("log_p", log_p), log_q=log_probabilities("log_q", log_q))
    both = (log_p > -np.inf) & (log_q > -np.inf)
    if not both.any(axis=-1).all():
        raise ValueError("log_p and log_q have nothing in common: nothing could be accepted")
    ratio = log_ratio(np.where(both, log_p, -np.inf), log_q)
    return np.asarray(np.exp(log_normalised(log_q + np.minimum(ratio - log_m, 0.0))))


def acceptance(rewards: ArrayLike, beta: float, r_max: ArrayLike) -> NDArray[np.float64]:
    """With what probability `accept` accepts each of some samples: exp((r - r_max) / beta).

    Args:
        rewards: Shape (...), finite.
        beta: Above 0, in the rewards' unit.
        r_max: The bound on the rewards, a shape that broadcasts to that of `rewards`.

    Returns:
        Shape (...), 0 to 1.

    Raises:
        ValueError: A reward is above r_max, or not finite; beta is not above 0.
    """
    beta = positive("beta", beta)
    rewards, bound = together(rewards=finite("rewards", rewards), r_max=finite("r_max", r_max))
    if (rewards > bound).any():
        raise ValueError("r_max must not be below a reward")
    with np.errstate(over="ignore"):  # exp(-inf) is 0
        return np.asarray(np.exp((rewards - bound) / beta))


def accept(
    rewards: ArrayLike, beta: float, r_max: ArrayLike, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which of some samples of pi_ref are accepted as samples of pi*: u < exp((r - r_max) / beta).

    One uniform number for each sample, in order. Exact if r_max bounds every possible reward; not
    with the largest of the samples at hand, which makes them depend on each other. A sample with
    r = r_max is always accepted.

    Args:
        rewards, beta, r_max: As for `acceptance`.

    Returns:
        Shape (...), True for the accepted.

    Raises:
        ValueError: A reward is above r_max, or not finite; beta is not above 0.
    """
    chance = acceptance(rewards, beta, r_max)
    return np.asarray(rng.random(chance.shape) < chance)


def rso(rewards: ArrayLike, beta: float, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices that RSO's published procedure accepts, in order (Liu et al., 2309.06657, alg. 1).

    Sweeps over the candidates that remain, in order, accepting each with probability
    exp((r - r_max) / beta), r_max the largest reward among those that remained when the sweep
    began, until k are accepted. The accepted leave after the sweep: without replacement.

    **Not exact sampling from pi***: r_max is that of the candidates, each is taken at most once,
    and of two equal candidates the earlier one is likelier. Use `accept` for exactness.

    Args:
        rewards: Of the candidates, shape (n,), finite.
        beta: Above 0, in the rewards' unit.
        k: How many to take; all n where k >= n.

    Returns:
        Shape (min(k, n),), distinct.

    Raises:
        ValueError: k is below 1, beta is not above 0, the rewards are not finite or not (n,).
    """
    beta, rewards = positive("beta", beta), finite("rewards", rewards)
    if rewards.ndim != 1 or k < 1:
        raise ValueError("rewards must have shape (n,), and k must be at least 1")
    remaining = np.arange(len(rewards))
    chosen = remaining[:0]
    while len(remaining) and len(chosen) < k:
        left = rewards[remaining]
        passed = accept(left, beta, left.max(), rng)
        chosen = np.concatenate([chosen, remaining[passed]])
        remaining = remaining[~passed]
    return chosen[:k].astype(np.int64)


def _next_size(missing: int, accepted: int, proposed: int) -> int:
    """Proposals likely to bring the missing acceptances, by the rate so far."""
    if accepted == 0:
        return max(missing, 2 * proposed)
    return math.ceil(1.05 * missing * proposed / accepted) + 16


def _take(samples: Samples, indices: NDArray[np.intp]) -> Samples:
    if isinstance(samples, np.ndarray):
        return samples[indices]
    return [samples[i] for i in indices.tolist()]


def _joined(parts: list[Samples]) -> Samples:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return [sample for part in parts for sample in part]
