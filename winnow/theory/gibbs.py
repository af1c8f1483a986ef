"""The optimum of the KL-regularized objective over a finite set of completions, exactly. Pure.

Over completions y with reference probabilities pi_ref(y), rewards r(y) and beta > 0, the policy
that maximises E_pi[r] - beta KL(pi || pi_ref) is the Gibbs distribution

    pi*(y) = pi_ref(y) exp(r(y) / beta) / Z,    Z = sum_y pi_ref(y) exp(r(y) / beta)

(Rafailov et al., 2305.18290, eq. 4), and the maximum is beta log Z. Everything is computed from
(r - r_max) / beta, so that no size of r / beta overflows.

Arguments that all functions here share: `log_ref`, log pi_ref in nats, shape (y,) or (..., y),
normalized over the last axis, -inf for an impossible completion; `rewards`, finite, a shape that
broadcasts with it; `beta`, above 0, in the rewards' unit. Anything else is a ValueError.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from winnow.theory.checks import (
    Array,
    finite,
    log_normalised,
    log_probabilities,
    log_ratio,
    logs,
    logsumexp,
    positive,
    together,
)


def _tilt(log_ref: ArrayLike, rewards: ArrayLike, beta: float) -> tuple[Array, Array, Array]:
    """log_ref, (r - r_max) / beta, both (..., y), and r_max, shape (...).

    r_max is over the possible completions; an impossible one is tilted by -inf.
    """
    beta = positive("beta", beta)
    log_ref, rewards = together(
        log_ref=log_probabilities("log_ref", log_ref), rewards=finite("rewards", rewards)
    )
    possible = log_ref > -np.inf
    top = np.where(possible, rewards, -np.inf).max(axis=-1)
    with np.errstate(over="ignore"):  # -inf is right: exp of it is 0
        tilt = (np.where(possible, rewards, -np.inf) - top[..., None]) / beta
    return log_ref, tilt, top


def log_partition(log_ref: ArrayLike, rewards: ArrayLike, beta: float) -> Array:
    """log Z = log sum_y pi_ref(y) exp(r(y) / beta), shape (...), nats.

    Raises:
        ValueError: r_max / beta is beyond float64; and the module's.
    """
    log_ref, tilt, top = _tilt(log_ref, rewards, beta)
    return np.asarray(logsumexp(log_ref + tilt) + _scaled(top, beta))


def log_pi_star(log_ref: ArrayLike, rewards: ArrayLike, beta: float) -> Array:
    """log pi*(y) = log pi_ref(y) + r(y) / beta - log Z, shape (..., y), nats (2305.18290, eq. 4).

    -inf where pi_ref is 0.
    """
    log_ref, tilt, _ = _tilt(log_ref, rewards, beta)
    return log_normalised(log_ref + tilt)


def pi_star(log_ref: ArrayLike, rewards: ArrayLike, beta: float) -> Array:
    """pi*(y), shape (..., y): exp of `log_pi_star`. Tends to pi_ref as beta grows."""
    return np.asarray(np.exp(log_pi_star(log_ref, rewards, beta)))


def pi_star_limit(log_ref: ArrayLike, rewards: ArrayLike) -> Array:
    """The limit of pi* as beta -> 0, shape (..., y): pi_ref renormalized on all maximisers of r.

    For a 0/1 reward it is pi_ref given that the completion is right: what RAFT's filter samples
    from. It is not a single mode. Equality of rewards is exact, r(y) == r_max.
    """
    log_ref, tilt, _ = _tilt(log_ref, rewards, 1.0)
    return np.asarray(np.exp(log_normalised(np.where(tilt == 0, log_ref, -np.inf))))


def log_optimal_m(
    log_ref: ArrayLike, rewards: ArrayLike, beta: float, log_q: ArrayLike | None = None
) -> Array:
    """log M* = max_y log(p~(y) / q(y)), shape (...), nats, with p~ = pi_ref exp(r / beta).

    M* is the least M with p~ <= M q everywhere, so the best acceptance rate is Z / M*
    (von Neumann 1951). Without `log_q` the proposal is pi_ref, and log M* = r_max / beta, r_max
    over the possible completions.

    Args:
        log_q: Log-probabilities of another proposal, shape (..., y), normalized.

    Raises:
        ValueError: q is 0 where pi_ref is not: there is no such M. And as `log_partition`.
    """
    log_ref, tilt, top = _tilt(log_ref, rewards, beta)
    if log_q is None:
        return _scaled(top, beta)
    ratio = log_ratio(log_ref + tilt, log_probabilities("log_q", log_q))
    return np.asarray(ratio.max(axis=-1) + _scaled(top, beta))


def acceptance_rate(
    log_ref: ArrayLike, rewards: ArrayLike, beta: float, r_max: ArrayLike | None = None
) -> Array:
    """Z / M, shape (...): the share of samples from pi_ref that rejection sampling of pi* accepts.

    = E_pi_ref[exp((r - r_max) / beta)], with M = exp(r_max / beta).

    Args:
        r_max: The bound on the rewards, shape (...). By default the largest reward of a possible
            completion, which is the best bound (M = M*).

    Raises:
        ValueError: `r_max` is below the reward of a possible completion; and the module's.
    """
    log_ref, tilt, top = _tilt(log_ref, rewards, beta)
    bound = top if r_max is None else finite("r_max", r_max)
    if (bound < top).any():
        raise ValueError("r_max must not be below the reward of a possible answer")
    with np.errstate(over="ignore"):
        log_rate = logsumexp(log_ref + tilt) + (top - bound) / beta
    return np.asarray(np.exp(np.minimum(log_rate, 0.0)))


def kl(log_p: ArrayLike, log_q: ArrayLike) -> Array:
    """KL(p || q) = sum_y p(y) (log p(y) - log q(y)), shape (...), nats; inf where q misses p.

    Args:
        log_p, log_q: Log-probabilities, shapes that broadcast to (..., y), normalized.

    Raises:
        ValueError: They are not normalized, or not log-probabilities.
    """
    log_p, log_q = together(
        log_p=log_probabilities("log_p", log_p), log_q=log_probabilities("log_q", log_q)
    )
    here = log_p > -np.inf
    ratio = np.where(here, log_p, 0.0) - np.where(here, log_q, 0.0)
    weight = np.where(here, np.exp(log_p), 0.0)
    missed = (ratio == np.inf).any(axis=-1)
    total = (weight * np.where(ratio == np.inf, 0.0, ratio)).sum(axis=-1)
    return np.asarray(np.where(missed, np.inf, np.maximum(total, 0.0)))


def entropy(log_p: ArrayLike) -> Array:
    """H(p) = -sum_y p(y) log p(y), shape (...), nats, from log-probabilities, shape (..., y).

    Raises:
        ValueError: They are not normalized, or not log-probabilities.
    """
    log_p = log_probabilities("log_p", log_p)
    total = (np.exp(log_p) * np.where(log_p == -np.inf, 0.0, log_p)).sum(axis=-1)
    return np.asarray(np.maximum(-total, 0.0))


def objective(log_policy: ArrayLike, log_ref: ArrayLike, rewards: ArrayLike, beta: float) -> Array:
    """E_pi[r] - beta KL(pi || pi_ref), shape (...), in the rewards' unit (2305.18290, eq. 3).

    At most beta log Z, reached by pi* alone. -inf for a policy that leaves pi_ref's support.

    Args:
        log_policy: log pi, shape (..., y), normalized.
    """
    beta = positive("beta", beta)
    log_policy = log_probabilities("log_policy", log_policy)
    policy, rewards = together(log_policy=np.exp(log_policy), rewards=finite("rewards", rewards))
    return np.asarray((policy * rewards).sum(axis=-1) - beta * kl(log_policy, log_ref))


def log_target(log_ref: ArrayLike, rewards: ArrayLike, beta: float) -> Array:
    """log p~(y) = log pi_ref(y) + r(y) / beta, shape (..., y), nats: log pi* but for log Z."""
    log_ref, _, _ = _tilt(log_ref, rewards, beta)
    return logs("log_ref + rewards / beta", log_ref + _scaled(finite("rewards", rewards), beta))


def _scaled(rewards: Array, beta: float) -> Array:
    with np.errstate(over="ignore"):
        scaled = np.asarray(rewards / beta)
    if not np.isfinite(scaled).all():
        raise ValueError("rewards / beta must be within float64")
    return scaled
