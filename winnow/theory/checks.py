"""Checks of arguments and sums in the log domain, for the modules of the theory. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

NORMALISED_WITHIN = 1e-5
"""How far from 1 probabilities may sum: log-softmaxes in float32 pass."""
_ROUNDING = 1e-12
"""Outcomes nearer to one another, as shares of their size, are the same."""


def finite(name: str, values: ArrayLike) -> Array:
    """`values` as float64.

    Raises:
        ValueError: One is nan or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite")
    return array


def outcomes(name: str, values: ArrayLike) -> Array:
    """`values` as float64, shape (n,).

    Raises:
        ValueError: There are none, one is nan or infinite, or the shape is another.
    """
    array = finite(name, values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a list of numbers, at least one")
    return array


def rounding_of(*values: Array) -> float:
    """How near to one another outcomes are the same: means of the same rates in another order."""
    return _ROUNDING * max(float(np.abs(own).max()) for own in values)


def logs(name: str, values: ArrayLike) -> Array:
    """Logarithms of weights as float64, shape (..., y); -inf is a weight of zero.

    Raises:
        ValueError: One is nan or +inf, or there are none.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} needs at least one entry")
    if np.isnan(array).any() or (array == np.inf).any():
        raise ValueError(f"{name} must be below infinity and not nan")
    return array


def log_probabilities(name: str, values: ArrayLike) -> Array:
    """Log-probabilities as float64, shape (..., y), normalized over the last axis to rounding.

    Raises:
        ValueError: They sum to something else than 1 (`NORMALISED_WITHIN`), or as `logs`.
    """
    array = logs(name, values)
    total = logsumexp(array)
    if (np.abs(np.expm1(np.minimum(total, 1.0))) > NORMALISED_WITHIN).any():
        raise ValueError(f"{name} must be normalized: exp({name}) must sum to 1 over the last axis")
    return np.asarray(array - total[..., None])


def positive(name: str, value: float) -> float:
    """`value`, if it is above 0 and finite; else ValueError."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be above 0 and finite")
    return float(value)


def whole(name: str, values: ArrayLike, least: int) -> NDArray[np.int64]:
    """`values` as int64.

    Raises:
        ValueError: One is below `least`, or is no whole number.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be whole numbers")
    if (array < least).any():
        raise ValueError(f"{name} must be at least {least}")
    return array.astype(np.int64)


def together(**arrays: Array) -> list[Array]:
    """The arrays broadcast to one shape.

    Raises:
        ValueError: Their shapes do not fit.
    """
    try:
        return list(np.broadcast_arrays(*arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"these shapes do not fit together: {shapes}") from None


def logsumexp(values: Array) -> Array:
    """log sum exp over the last axis, shape (..., y) -> (...); -inf where all are."""
    top = values.max(axis=-1, keepdims=True)
    top = np.where(top == -np.inf, 0.0, top)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.log(np.exp(values - top).sum(axis=-1)) + top[..., 0])


def log_normalised(values: Array) -> Array:
    """`values` minus their logsumexp, shape (..., y), also where they are huge; -inf stays.

    Not all of a row may be -inf.
    """
    with np.errstate(over="ignore"):  # to -inf
        shifted = values - values.max(axis=-1, keepdims=True)
    return np.asarray(shifted - logsumexp(shifted)[..., None])


def log_ratio(log_p: Array, log_q: Array) -> Array:
    """log p - log q, -inf where p = 0.

    Raises:
        ValueError: q = 0 somewhere where p is not.
    """
    log_p, log_q = together(log_p=log_p, log_q=log_q)
    if ((log_q == -np.inf) & (log_p > -np.inf)).any():
        raise ValueError("log_q gives no probability where log_p does: q must cover p")
    return np.asarray(log_p - np.where(log_p == -np.inf, 0.0, log_q))
