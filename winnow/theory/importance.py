"""Importance weights: every sample is kept, with a weight. Pure.

For a target p = p~ / Z and samples from q the weight is w = p / q. Rejection sampling accepts with
probability w Z / M; importance sampling keeps every sample with weight w. With M* the least M that
rejection sampling may use,

    Var_q[w] <= M* / Z - 1,

with equality only where w is 0 or M* / Z: the acceptance rate bounds the variance of the weights
from above and does not determine it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
)


def log_importance_weights(log_p_tilde: ArrayLike, log_q: ArrayLike) -> Array:
    """log(p~ / q) of each sample, shape (..., n), nats; -inf where p~ = 0.

    Args:
        log_p_tilde: log p~ of the samples, normalized or not, nats.
        log_q: log q of the same samples, nats, a shape that broadcasts.

    Raises:
        ValueError: q = 0 where p~ is not, or an entry is nan or +inf.
    """
    return log_ratio(logs("log_p_tilde", log_p_tilde), logs("log_q", log_q))


def normalised_weights(log_weights: ArrayLike) -> Array:
    """Weights that sum to 1, shape (..., n): softmax of the log-weights over the last axis.

    Raises:
        ValueError: All weights of a row are 0, or an entry is nan or +inf.
    """
    return np.asarray(np.exp(log_normalised(_log_weights(log_weights))))


def effective_sample_size(log_weights: ArrayLike) -> Array:
    """(sum w)^2 / sum w^2, shape (...), between 1 and n (Kish 1965; Kong 1992).

    Says how uneven the weights are, not how good an estimate is: it knows neither the values nor
    weights that were never sampled.

    Raises:
        ValueError: All weights of a row are 0, or an entry is nan or +inf.
    """
    weights = normalised_weights(log_weights)
    size = 1.0 / np.square(weights).sum(axis=-1)
    return np.asarray(np.clip(size, 1.0, weights.shape[-1]))


@dataclass(frozen=True)
class Estimate:
    """A self-normalized estimate.

    Attributes:
        value: The estimate, in the values' unit.
        standard_error: By the delta method, in the same unit. Too small where `ess` is small.
        ess: Effective sample size, in samples.
    """

    value: float
    standard_error: float
    ess: float


def self_normalised(values: ArrayLike, log_weights: ArrayLike) -> Estimate:
    """E_p[f] from samples of q: sum_i w_i f_i / sum_i w_i. Consistent; biased by O(1/n).

    The standard error is sqrt(sum_i v_i^2 (f_i - value)^2) with v the normalized weights (Owen,
    *Monte Carlo theory, methods and examples*, section 9.2).

    Args:
        values: f of each sample, shape (n,), n >= 2, finite.
        log_weights: log(p~ / q) of each sample, shape (n,), nats, up to a constant.

    Raises:
        ValueError: The shapes differ, n < 2, all weights are 0, or an entry is not a number.
    """
    values = finite("values", values)
    weights = normalised_weights(log_weights)
    if values.ndim != 1 or values.shape != weights.shape or len(values) < 2:
        raise ValueError("values and log_weights must be of one shape (n,), n at least 2")
    value = float(weights @ values)
    error = float(np.linalg.norm(weights * (values - value)))
    return Estimate(value, error, float(effective_sample_size(log_weights)))


def self_normalised_bias(values: ArrayLike, log_weights: ArrayLike, strata: Sequence[int]) -> float:
    """The leading term of the bias of sum w f / sum w, estimated from the samples themselves.

    With mu the estimate and s^2 a stratum's unbiased covariance, and the samples of each stratum
    (of each prompt) independent and alike, -sum_x n_x s^2_x(w, w (f - mu)) / (sum w)^2: O(1/n) in
    the number of all samples (Cochran, *Sampling techniques*, section 6.11, for strata). Strata of
    one sample say nothing of their spread; they are taken as one stratum.

    Args:
        values: f of each sample, shape (n,), the samples of a stratum together.
        log_weights: log(p~ / q) of each sample, shape (n,), nats, up to a constant.
        strata: How many samples each stratum has, at least 1; they sum to n.

    Raises:
        ValueError: The shapes differ, all weights are 0, or an entry is not a number.
    """
    values = finite("values", values)
    weights = normalised_weights(log_weights)
    sizes = np.array(strata)
    if values.ndim != 1 or values.shape != weights.shape or sizes.sum() != len(values):
        raise ValueError("values and log_weights must be of one shape (n,), n the sum of strata")
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    numbers[np.repeat(sizes, sizes) == 1] = len(sizes)
    counts = np.maximum(np.bincount(numbers, minlength=len(sizes) + 1), 1)
    residual = weights * (values - weights @ values)
    sums = [np.bincount(numbers, own, len(counts)) for own in (weights, residual)]
    products = np.bincount(numbers, weights * residual, len(counts))
    spread = products - sums[0] * sums[1] / counts
    return float(-(spread * counts / np.maximum(counts - 1, 1)).sum())


def weight_variance(log_p_tilde: ArrayLike, log_q: ArrayLike) -> Array:
    """Var_q[w] = sum_y q(y) (w(y) - 1)^2 with w = p / q, shape (...), by exact enumeration.

    This is the chi-square divergence of p from q. inf where it is beyond float64.

    Args:
        log_p_tilde: log p~ of every y, shape (..., y), nats, up to a constant.
        log_q: log q of every y, shape (..., y), nats, normalized.

    Raises:
        ValueError: q = 0 where p~ is not, q is not normalized, or p~ is 0 everywhere.
    """
    log_w, log_q, _ = _weights_of_all(log_p_tilde, log_q)
    with np.errstate(divide="ignore"):  # log |w - 1| is -inf at w = 1
        log_gap = np.maximum(log_w, 0.0) + np.log(-np.expm1(-np.abs(log_w)))
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(logsumexp(log_q + 2.0 * log_gap)))


def weight_variance_bound(log_p_tilde: ArrayLike, log_q: ArrayLike) -> Array:
    """M* / Z - 1, shape (...): the least upper bound of Var_q[w] that the acceptance rate gives.

    inf where it is beyond float64. Arguments and errors as `weight_variance`.
    """
    _, _, log_largest = _weights_of_all(log_p_tilde, log_q)
    with np.errstate(over="ignore"):
        return np.asarray(np.expm1(np.maximum(log_largest, 0.0)))


def _weights_of_all(log_p_tilde: ArrayLike, log_q: ArrayLike) -> tuple[Array, Array, Array]:
    """log w and log q, shape (..., y), and the largest log w, shape (...)."""
    log_p = _log_weights(log_p_tilde, "log_p_tilde")
    log_q = log_probabilities("log_q", log_q)
    log_w = log_ratio(log_normalised(log_p), log_q)
    return log_w, np.broadcast_to(log_q, log_w.shape), log_w.max(axis=-1)


def samples_for_success(p: ArrayLike, delta: float) -> Array:
    """Samples needed for at least one success with probability 1 - delta.

    The least n >= 1 with (1 - p)^n <= delta, that is ceil(log delta / log(1 - p)), up to rounding.
    Whole numbers in float64, the shape of `p`; 1 at p = 1, inf at p = 0.

    Args:
        p: Probability that one sample succeeds, 0 to 1.
        delta: Probability of no success that is accepted, strictly between 0 and 1.

    Raises:
        ValueError: `p` or `delta` is outside its range.
    """
    p = finite("p", p)
    if (p < 0).any() or (p > 1).any():
        raise ValueError("p must be between 0 and 1")
    if not 0 < delta < 1:
        raise ValueError("delta must be strictly between 0 and 1")
    with np.errstate(divide="ignore", over="ignore"):
        needed = np.log(delta) / np.log1p(-p)
    # A quotient that rounding has put a hair above a whole number is that number.
    needed = np.ceil(needed * (1.0 - 4.0 * np.finfo(np.float64).eps))
    return np.asarray(np.where(p == 0, np.inf, np.maximum(needed, 1.0)))


def _log_weights(values: ArrayLike, name: str = "log_weights") -> Array:
    array = logs(name, values)
    if (array.max(axis=-1) == -np.inf).any():
        raise ValueError(f"{name} must not all be -inf: some weight must be above 0")
    return array
