"""Estimators of KL(p || q) from samples of p, named by their value and by their gradient. Pure.

p is the policy, q the reference. A good estimate of a number need not have a good gradient: with
the samples held fixed and only log p differentiated, as a loss is, k1, k2 and k3 (Schulman,
*Approximating KL divergence*, 2020) pull towards three different things. With y a sample of p and S
the score function, grad log p(y), their expected gradients are E[S] = 0, E[log(p/q) S] =
grad KL(p || q) and -E[(q/p) S] = grad KL(q || p).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from winnow.theory.checks import Array, finite, together


def _log_ratio(log_p: ArrayLike, log_q: ArrayLike) -> Array:
    """log q - log p of samples of p, shape (...)."""
    log_q = np.asarray(log_q, dtype=np.float64)
    if np.isnan(log_q).any() or (log_q == np.inf).any():
        raise ValueError("log_q must be below infinity and not nan")
    log_p, log_q = together(log_p=finite("log_p", log_p), log_q=log_q)
    return np.asarray(log_q - log_p)


def k1(log_p: ArrayLike, log_q: ArrayLike) -> Array:
    """log p - log q of each sample, shape (...), nats. Unbiased for KL(p || q); can be negative.

    Args:
        log_p: log p of samples of p, finite, nats.
        log_q: log q of the same samples, nats; -inf gives inf. Shapes broadcast.

    Raises:
        ValueError: An entry is nan or +inf, or log_p is -inf: p could not have sampled it.
    """
    return -_log_ratio(log_p, log_q)


def k2(log_p: ArrayLike, log_q: ArrayLike) -> Array:
    """(log p - log q)^2 / 2 of each sample, shape (...), nats^2. Biased, little where p is near q.

    Arguments and errors as `k1`.
    """
    with np.errstate(over="ignore"):
        return np.asarray(0.5 * np.square(_log_ratio(log_p, log_q)))


def k3(log_p: ArrayLike, log_q: ArrayLike) -> Array:
    """q/p - 1 - log(q/p) of each sample, shape (...), nats. Never negative.

    Unbiased for KL(p || q) if p covers q; what q has where p is 0 is missing from it. inf where
    q/p is beyond float64. Arguments and errors as `k1`.
    """
    ratio = _log_ratio(log_p, log_q)
    with np.errstate(over="ignore"):
        return np.asarray(np.maximum(np.expm1(ratio) - ratio, 0.0))


@dataclass(frozen=True)
class Estimator:
    """One estimator of the table.

    Attributes:
        name: Its key.
        formula: With p the policy and q the reference.
        value: The function of (log_p, log_q), elementwise over samples of p.
        estimates: What its mean over samples of p estimates, and its bias.
        gradient: What its expected gradient is as a loss on p, the samples being p's own.
    """

    name: str
    formula: str
    value: Callable[[ArrayLike, ArrayLike], Array]
    estimates: str
    gradient: str


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        row.name: row
        for row in (
            Estimator(
                name="k1",
                formula="log p - log q",
                value=k1,
                estimates="KL(p || q), unbiased; single values can be negative",
                gradient="0: as a loss it does nothing in expectation. In the reward, -beta times "
                "the sequence's k1 has the gradient of -beta KL(p || q)",
            ),
            Estimator(
                name="k2",
                formula="(log p - log q)^2 / 2",
                value=k2,
                estimates="E_p[log(p/q)^2] / 2, biased for KL(p || q), by little where p is near q",
                gradient="that of KL(p || q) for the log-ratio of a whole sequence; taken token by "
                "token it leaves out the effect on later tokens",
            ),
            Estimator(
                name="k3",
                formula="q/p - 1 - log(q/p)",
                value=k3,
                estimates="KL(p || q), unbiased if p covers q; never negative",
                gradient="that of KL(q || p), the other direction, for the log-ratio of a whole "
                "sequence",
            ),
        )
    }
)
