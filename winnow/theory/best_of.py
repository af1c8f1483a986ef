"""Best-of-n and pass@k: estimates from N samples, and their KL to the policy. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from winnow.theory.checks import NORMALISED_WITHIN, Array, finite, whole
from winnow.theory.ties import levels


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Array:
    """1 - C(n-c, k) / C(n, k): unbiased estimate of pass@k (Chen et al., 2107.03374, eq. 1).

    The probability that k of the n samples, picked at random, hold a right one. Elementwise.

    Args:
        n: Samples of each problem, at least 1. Shapes broadcast.
        c: Right ones among them, 0 to n.
        k: Samples allowed, 1 to n.

    Raises:
        ValueError: A number is outside its range or not whole.
    """
    n, c, k = np.broadcast_arrays(whole("n", n, 1), whole("c", c, 0), whole("k", k, 1))
    if (c > n).any() or (k > n).any():
        raise ValueError("c and k must not be above n")
    # C(n-c, k) / C(n, k) = prod_j (1 - b / (n - j)), j < a, with {a, b} = {c, k} either way round.
    a, b = np.minimum(c, k), np.maximum(c, k)
    certain = n - c < k
    log_miss = np.zeros(n.shape)
    for j in range(int(np.where(certain, 0, a).max(initial=0))):
        running = (j < a) & ~certain
        log_miss += np.log1p(-np.where(running, b / np.maximum(n - j, 1), 0.0))
    return np.asarray(np.where(certain, 1.0, -np.expm1(log_miss)))


def sizes(largest: int) -> list[int]:
    """1, 2, 4, ... and the largest."""
    powers = [2**i for i in range(largest.bit_length()) if 2**i < largest]
    return [*powers, largest]


def best_of_n_weights(scores: ArrayLike, n: ArrayLike) -> Array:
    """Probability of each of N samples to be the best of n of them picked at random.

    Picked without replacement, ties (`ties.levels`) broken at random. Summing values with these
    weights is the unbiased estimator of best-of-n that uses all samples. Without ties the sample of
    rank i from below has C(i-1, n-1) / C(N, n); samples that tie share their ranks' weights
    equally.

    Args:
        scores: The best has the highest, shape (N,), finite.
        n: 1 to N, one number or shape (m,).

    Returns:
        Shape (N,), or (m, N) for several n. Each row sums to 1.

    Raises:
        ValueError: An n is not from 1 to N, or the scores are not finite or not of shape (N,).
    """
    scores = _of_samples(scores)
    sizes = whole("n", n, 1)
    if sizes.ndim > 1 or (sizes > len(scores)).any():
        raise ValueError(f"n must be one number or shape (m,), and not above N = {len(scores)}")
    by_rank = _weights_by_rank(len(scores), np.atleast_1d(sizes))
    _, level, counts = np.unique(-levels(scores), return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    shared = np.add.reduceat(by_rank, first, axis=-1) / counts
    weights = shared[:, level]
    return np.asarray(weights.reshape(sizes.shape + scores.shape))


def _of_samples(scores: ArrayLike) -> Array:
    scores = finite("scores", scores)
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError("scores must have shape (N,), N at least 1")
    return scores


def _weights_by_rank(total: int, sizes: Array) -> Array:
    """C(i-1, n-1) / C(N, n) for i = 1..N, shape (m, N), in logs from the top rank downwards.

    C(i, n) / C(N, n) = prod over u from i+1 to N of (1 - n/u); times n/i.
    """
    rank = np.arange(1, total + 1)
    n = sizes[:, None]
    with np.errstate(divide="ignore"):
        steps = np.log1p(-np.minimum(n / rank[1:], 1.0))
    log_all_below = np.zeros((len(sizes), total))
    log_all_below[:, :-1] = np.cumsum(steps[:, ::-1], axis=-1)[:, ::-1]
    return np.asarray(np.exp(log_all_below) * np.where(rank >= n, n / rank, 0.0))


def best_of_n(scores: ArrayLike, n: ArrayLike, values: ArrayLike | None = None) -> Array:
    """Unbiased estimate of the expected value of the best of n by score, from N >= n samples.

    With the scores as values it is the proxy's reward, with another's the gold reward: their gap as
    n grows is over-optimization (Gao et al., 2210.10760).

    Args:
        scores: The best has the highest, shape (N,), finite; ties broken at random.
        n: 1 to N, one number or shape (m,).
        values: What is averaged, shape (N,), finite. By default the scores.

    Returns:
        Shape of `n`, in the values' unit.

    Raises:
        ValueError: As `best_of_n_weights`, or the values have another shape than the scores.
    """
    weights = best_of_n_weights(scores, n)
    values = finite("values", scores if values is None else values)
    if values.shape != weights.shape[-1:]:
        raise ValueError("values must have the shape of scores")
    return np.asarray(weights @ values)


def kl_best_of_n(level_probabilities: ArrayLike, n: ArrayLike) -> Array:
    """KL(best-of-n || pi) in nats, exactly, where the reward takes finitely many values.

    With m_l = F_l^n - F_(l-1)^n, F the cumulated probabilities, and ties broken at random,

        KL = sum_l m_l log(m_l / p_l),

    since within a level best-of-n samples as pi does. At most log n - (n-1)/n (Beirami et al.,
    2401.01879; far below it where rewards tie), and at most -log p of the top level.

    Args:
        level_probabilities: Probability under pi of each value of the reward, in ascending order
            of reward, shape (levels,), summing to 1. Zeros are left out.
        n: At least 1, any shape.

    Returns:
        Shape of `n`.

    Raises:
        ValueError: The probabilities are negative or do not sum to 1, or an n is below 1.
    """
    p = finite("level_probabilities", level_probabilities)
    if p.ndim != 1 or (p < 0).any() or abs(p.sum() - 1.0) > NORMALISED_WITHIN:
        raise ValueError("level_probabilities must have shape (levels,), be >= 0 and sum to 1")
    p = p[p > 0] / p.sum()
    sizes = whole("n", n, 1)[..., None]
    below = np.cumsum(p)  # F_l
    above = np.append(np.cumsum(p[:0:-1])[::-1], 0.0)  # 1 - F_l, without cancellation
    log_f = np.where(above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(below))
    with np.errstate(divide="ignore"):
        log_miss = np.log1p(-np.minimum(p / below, 1.0))  # log(F_(l-1) / F_l)
        log_m = sizes * log_f + np.log(-np.expm1(sizes * log_miss))
    m = np.exp(log_m)
    terms = m * (np.where(m > 0, log_m, 0.0) - np.log(p))
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))


def kl_best_of_n_plugin(scores: ArrayLike, n: ArrayLike) -> Array:
    """Plug-in estimate of KL(best-of-n || pi), nats: `kl_best_of_n` at the levels' shares.

    Biased: it never exceeds log N, and where rewards hardly tie it stays below the truth unless
    n is far below N. Right as N grows where the reward takes few values.

    Args:
        scores: Rewards of N samples of pi, shape (N,), finite.
        n: At least 1, any shape.

    Raises:
        ValueError: The scores are not finite or not of shape (N,), or an n is below 1.
    """
    scores = _of_samples(scores)
    counts = np.bincount(levels(scores))[::-1]  # from the worst
    return kl_best_of_n(counts / len(scores), n)


def kl_best_of_n_bound(n: ArrayLike) -> Array:
    """log n - (n-1)/n, nats: an upper bound of KL(best-of-n || pi) (Beirami et al., 2401.01879).

    Reached where no two completions tie and each is unlikely. Often quoted as the KL itself, as by
    Gao et al. (2210.10760).

    Raises:
        ValueError: An n is below 1.
    """
    sizes = whole("n", n, 1)
    return np.asarray(np.log(sizes) - (sizes - 1) / sizes)
