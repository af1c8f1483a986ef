"""Calls of cells that may be a user's: what goes wrong names the function, its file and line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from winnow.algorithms.spec import Cell, Own, show
from winnow.errors import OwnCodeError, WinnowError
from winnow.theory.checks import Array
from winnow.user_code import raised


def is_own(cell: Cell) -> bool:
    """Whether a cell is a user's: a function or a class of theirs."""
    return isinstance(cell, Own) or not type(cell).__module__.startswith("winnow.")


@contextmanager
def own_code(cell: Cell, what: str) -> Iterator[None]:
    """In the block, which calls a cell, what a user's raises is an error that names it.

    Args:
        what: What it is called, as `rule` or `loss`.

    Raises:
        OwnCodeError: it raised something else than an error of Winnow's.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, WinnowError) or not is_own(cell):
            raise
        raise OwnCodeError(show(cell), f"the {what} {raised(error)}", "fix it") from error


def checked_numbers(cell: Cell, what: str, given: Any, shape: tuple[int, ...]) -> Array:
    """What a cell returned as numbers of this shape; of a cell of the table as it is.

    Raises:
        OwnCodeError: it is not that, or has a number that is not finite.
    """
    if not is_own(cell):
        return np.asarray(given)
    try:
        numbers = np.asarray("" if given is None else given, dtype=np.float64)
    except (TypeError, ValueError):
        problem = f"the {what} returned {given!r:.60}, not numbers"
        raise OwnCodeError(show(cell), problem, f"return an array of shape {shape}") from None
    if numbers.shape != shape:
        problem = f"the {what} returned numbers of shape {numbers.shape} for {shape}"
        raise OwnCodeError(show(cell), problem, "return a number for each that it is given")
    if not np.isfinite(numbers).all():
        worst = numbers[~np.isfinite(numbers)].ravel()[0]
        raise OwnCodeError(show(cell), f"the {what} returned {worst}", "return finite numbers")
    return numbers
