"""Which numbers are equal but for rounding. Pure.

A number is stored as a float64, but may have been made in a coarser format: the logit of a reward
model has the significant bits of a float32 or bfloat16. Two numbers that should be equal then
differ by a few spacings of that format. Differences below this are no information, and a baseline
that divides by a deviation must not blow them up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from winnow.theory.checks import Array


class _Format(NamedTuple):
    """A floating-point format.

    Attributes:
        bits: Significant bits, the leading one included.
        spacings: Distance between 1 and the next number, of which so many are rounding.
    """

    bits: int
    spacings: int

    @property
    def step(self) -> float:
        """What is rounding, as a share of the largest number."""
        return 2.0 ** (1 - self.bits) * self.spacings


_FORMATS = (
    _Format(8, 1),  # bfloat16: rounded once, to neighbours at most; two would be a hundredth
    _Format(24, 8),  # float32: a sum over the features, in an order that depends on the batch
    _Format(53, 1024),  # float64: what a verifier adds up, up to a thousand parts
)
_EXACT = 2.0**53
"""Whole numbers up to here are exact in float64: counts and points have no rounding."""


def rounding(values: ArrayLike, unit: float = 0.0) -> float:
    """How far apart two of these numbers may be and still be equal.

    2^(1 - bits) x spacings x max |value|, of the coarsest of bfloat16, float32 and float64 that
    holds all of them exactly: 2^-7, 2^-20 or 2^-42 of the largest. The format is read from all
    numbers: one float64 that is no float32 makes the others float64s too. Whole numbers are exact:
    0. So are halves, which are points (72.5 of 100), and fractions with fewer bits than bfloat16
    has (127/128): the unit's.

    Args:
        values: Shape (n,), finite.
        unit: A number that the values were made of, such as the score of a right sample: what
            cancels (0.1 + 0.2 - 0.3) leaves a rounding of it, as float64.
    """
    array = np.asarray(values, dtype=np.float64)
    largest = float(np.abs(array).max(initial=0.0))
    if largest <= _EXACT and bool((array == np.rint(array)).all()):
        return 0.0
    needed = _significant_bits(array)
    left_of_unit = abs(unit) * _FORMATS[-1].step
    halves = 2 * largest <= _EXACT and bool((2 * array == np.rint(2 * array)).all())
    if needed < _FORMATS[0].bits or halves:
        return left_of_unit
    return max(largest * next(f.step for f in _FORMATS if needed <= f.bits), left_of_unit)


def all_equal(values: ArrayLike, unit: float = 0.0) -> bool:
    """Whether these numbers are all equal but for rounding (as `rounding`); none are."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or array.max() == array.min():
        return True
    with np.errstate(over="ignore"):  # to inf: they differ
        return bool(array.max() - array.min() <= rounding(array, unit))


def levels(values: ArrayLike, unit: float = 0.0) -> NDArray[np.int64]:
    """The rank of each number, 0 for the largest; equal ones share it. Shape (n,).

    A level holds what is within `rounding` of its largest number, and the next begins below. So
    there is one level exactly where `all_equal`, and the order of the numbers does not matter.
    """
    array = np.asarray(values, dtype=np.float64)
    within = rounding(array, unit)
    distinct, places = np.unique(-array, return_inverse=True)  # from the largest
    found: list[int] = []
    top = np.inf
    for value in (-distinct).tolist():
        starts = not found or top - value > within
        top = value if starts else top
        found.append(len(found) and found[-1] + starts)
    return np.array(found, dtype=np.int64)[places]


def centred(values: Array) -> Array:
    """Numbers less their mean, shape (n,); the mean of the result is 0 to the result's rounding.

    The mean of large numbers that hardly differ is rounded by more than their differences are. What
    is left of it is taken away again where it is more than rounding of the differences.
    """
    apart = np.asarray(values - values.mean())
    left = float(apart.mean())
    if abs(left) > 16 * np.finfo(np.float64).eps * float(np.abs(apart).max()):
        apart = apart - left
    return apart


def _significant_bits(array: Array) -> int:
    """Significant bits of the number that has most: 1 for a power of 2, 53 for 0.1."""
    mantissa = np.abs(np.frexp(array)[0] * 2.0**53).astype(np.int64)
    last = mantissa & -mantissa  # the last bit that is set, as a number
    bits = 54 - np.frexp(last.astype(np.float64))[1]
    return int(np.where(mantissa == 0, 0, bits).max(initial=0))
