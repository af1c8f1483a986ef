r"""Sets of numbers in two notations: ``[3, 5)`` and ``3 \le x < 5``.

Imported where SymPy is, in the process of a verifier alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped, unused-ignore]
from sympy.core.relational import Relational  # type: ignore[import-untyped, unused-ignore]

from winnow.rewards.notation import UNEQUAL

_INEQUALITY = re.compile(rf"{UNEQUAL}|\\in(?![A-Za-z])|∈")
_OR = re.compile(r"(?<![A-Za-z\\])or(?![A-Za-z])|∨")
_AND = re.compile(r"(?<![A-Za-z\\])and(?![A-Za-z])|∧")
_CANNOT = (
    *(ArithmeticError, AttributeError, LookupError, NotImplementedError),
    *(RecursionError, TypeError, ValueError),
)
"""What SymPy raises of bounds that it cannot order, and of relations in each other."""


def same_numbers(one: str, other: str, parsed: Callable[[str], Sequence[Any]]) -> bool | None:
    """Whether two inequalities, or an inequality and a set, hold for the same numbers.

    Args:
        parsed: What a formula may mean.

    Returns:
        ``None`` where they are none that is read here. Of two inequalities with bounds that are not
        the same, too: they may be rounded.
    """
    relations = [bool(_INEQUALITY.search(formula)) for formula in (one, other)]
    if not any(relations):
        return None
    joined = [bool(_OR.search(formula)) - bool(_AND.search(formula)) for formula in (one, other)]
    differs = False if all(relations) and joined[0] * joined[1] < 0 else None
    try:
        mine = _set(one, parsed)
        its = None if mine is None else _set(other, parsed)
        if mine is None or its is None:
            return differs
        same = bool(mine[0] == its[0])
    except _CANNOT:
        return differs
    if not all(relations):
        return same
    return True if same and mine[1] == its[1] else differs


def _set(formula: str, parsed: Callable[[str], Sequence[Any]]) -> tuple[Any, Any] | None:
    """The set and the variable that is in it."""
    meant = parsed(formula)
    if not meant:
        return None
    made = meant[0]
    if not _INEQUALITY.search(formula):
        return (made, None) if isinstance(made, sympy.Set) and not made.free_symbols else None
    symbols: set[Any] = set(getattr(made, "free_symbols", ()))
    if len(symbols) != 1:
        return None
    if isinstance(made, sympy.FiniteSet):  # inequalities that words join
        joins = bool(_OR.search(formula)), bool(_AND.search(formula))
        if joins == (True, False):
            made = sympy.Or(*made)
        elif joins == (False, True):
            made = sympy.And(*made)
        else:
            return None
    numbers = _solutions(made)
    return None if numbers is None else (numbers, symbols.pop())


def _solutions(made: Any) -> Any:
    """The real numbers for which inequalities of one variable and numbers hold."""
    if isinstance(made, sympy.And | sympy.Or):
        parts = [_solutions(part) for part in made.args]
        if None in parts:
            return None
        return (sympy.Intersection if isinstance(made, sympy.And) else sympy.Union)(*parts)
    if not isinstance(made, Relational):
        return None
    if isinstance(made, sympy.Eq):  # x in a set
        return made.rhs if isinstance(made.rhs, sympy.Set) else None
    if made.rhs.is_Symbol:
        made = made.reversed
    if not made.lhs.is_Symbol or made.rhs.free_symbols or not made.rhs.is_real:
        return None
    bound = made.rhs
    if isinstance(made, sympy.Ne):
        return sympy.Complement(sympy.Reals, sympy.FiniteSet(bound))
    if made.rel_op in ("<", "<="):
        return sympy.Interval(-sympy.oo, bound, True, made.rel_op == "<")
    return sympy.Interval(bound, sympy.oo, made.rel_op == ">", True)
