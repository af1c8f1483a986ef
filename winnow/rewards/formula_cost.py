r"""How much work a formula may make for SymPy, seen from its form, without computing anything.

SymPy has no limit of its own: a short formula can take it for ever, or all memory. So what a model
wrote is measured first. Time is linear in the formula.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import sympy  # type: ignore[import-untyped, unused-ignore]
from sympy.core.function import AppliedUndef  # type: ignore[import-untyped, unused-ignore]

MOST_TERMS = 1000
"""Terms that a sum or a product of :math:`\sum` and :math:`\prod` may have to be computed."""

_ENDLESS = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative)

_POWERS = re.compile(r"(?:[0-9]+|[)}\]])(?:\s*(?:\^|\*\*)[\s{(+-]*[0-9]+)+")
_LARGE = re.compile(
    r"[0-9]\s*[eE]\s*[+-]?[0-9]{6,}|[0-9]{6,}[\s)}]*!|!(?:\s*!){2,}|!\s*[)}\]]+\s*!|\\(?:Gamma|binom)\s*[({]+\s*[0-9]{6,}"
    r"|\\(?:gcd|lcm)(?![A-Za-z]).*\^[\s{(]*[0-9]{5,}"
)
_LARGEST_EXPONENT = 10**6


@dataclass(frozen=True)
class Cost:
    r"""The measures of a formula.

    Attributes:
        digits: Digits of the largest number in it, numerator or denominator; an upper bound.
        terms: Terms of the largest polynomial in it, once it is expanded; an upper bound.
        levels: How deep functions and roots stand in each other: 2 for :math:`\sin\sqrt 2`.
        depth: How deep anything stands in anything.
        endless: Integrals, limits, derivatives, sums and products but for those that are easy: of
            at most `MOST_TERMS` terms, integrals of polynomials between numbers.
    """

    digits: float = 0.0
    terms: float = 1.0
    levels: int = 0
    depth: int = 0
    endless: int = 0

    def is_above(self, most: Cost) -> bool:
        """Whether any measure is larger than that of `most`."""
        return any(mine > its for mine, its in zip(astuple(self), astuple(most), strict=True))

    def or_more(self, other: Cost) -> Cost:
        """The larger of each measure."""
        return Cost(*map(max, astuple(self), astuple(other)))


ALLOWED = Cost(digits=20_000, terms=500, levels=4, depth=20)
"""What is computed for any answer."""
MOST_DIGITS = 10**6
"""Digits above which nothing is computed, whatever the gold answer is."""


def is_too_large(formula: str) -> bool:
    """Whether it has a power or a factorial that nothing can compute: ``9^{9^{9^9}}``.

    An exponent may be a million, the number of a factorial have five digits.
    """
    if _LARGE.search(formula):
        return True
    for chain in _POWERS.finditer(formula):
        below, *levels = re.findall(r"[0-9]+|[)}\]](?=\s*[\^*])", chain.group())
        exponent = 1
        for level in reversed([int(digits) for digits in levels if digits.isdigit()]):
            if level > 1 and exponent * math.log10(level) > math.log10(_LARGEST_EXPONENT):
                return True
            exponent = level**exponent
        if exponent > _LARGEST_EXPONENT and below not in ("0", "1"):
            return True
    return False


def is_too_hard(said: Any, gold: Any) -> bool:
    """Whether two formulas are better compared as they are written.

    What is said may be as hard as the gold answer, which no model wrote.
    """
    allowed = cost(gold)
    return allowed.digits > MOST_DIGITS or cost(said).is_above(ALLOWED.or_more(allowed))


def cost(formula: Any) -> Cost:
    """The measures of a formula as it was read: a SymPy object, or a text, which costs nothing."""
    return _measured(formula)[0]


def _measured(formula: Any) -> tuple[Cost, float, float]:
    """The measures of a formula, and its own: digits and terms of its value."""
    parts = [_measured(part) for part in _parts(formula)]
    most = Cost()
    for measures, _, _ in parts:
        most = most.or_more(measures)
    digits, terms = _digits(formula, parts), _terms(formula, parts)
    own = Cost(
        digits=digits,
        terms=terms,
        levels=most.levels + _is_function(formula),
        depth=most.depth + 1 if parts else 0,
        endless=sum(measures.endless for measures, _, _ in parts) + _is_endless(formula),
    )
    return own.or_more(most), digits, terms


def _parts(formula: Any) -> Iterator[Any]:
    if isinstance(formula, sympy.MatrixBase):
        return iter(formula.flat())
    return iter(formula.args if isinstance(formula, sympy.Basic) else ())


def _digits(formula: Any, parts: list[tuple[Cost, float, float]]) -> float:
    digits = [part[1] for part in parts]
    if isinstance(formula, sympy.Rational):
        return max(_log10(formula.p), _log10(formula.q))
    if isinstance(formula, sympy.Float):
        _, _, exponent, bits = formula._mpf_
        return float(abs(exponent + bits) * math.log10(2))
    if isinstance(formula, (sympy.Mul, sympy.MatMul)):
        return sum(digits)
    if isinstance(formula, sympy.Add):  # over a common denominator
        return sum(digits) + math.log10(len(digits) or 1)
    if isinstance(formula, (sympy.Pow, sympy.MatPow)):
        return max(digits[0], 0.3) * _value(formula.exp, digits[1])
    if isinstance(formula, (sympy.exp, sympy.factorial, sympy.factorial2, sympy.gamma)):
        size = _value(formula.args[0], digits[0])
        return size * max(digits[0], 0.5)
    return 0.0 if isinstance(formula, sympy.Function) else max(digits, default=0.0)


def _log10(number: int) -> float:
    return abs(number).bit_length() * math.log10(2)


def _value(formula: Any, digits: float) -> float:
    """An upper bound of the size of a number of so many digits; a variable counts as nothing."""
    if isinstance(formula, sympy.Rational):
        return float(abs(formula.p) / formula.q) if digits < 300 else math.inf
    if formula.free_symbols:
        return 1.0
    return 10**digits if digits < 300 else math.inf


def _terms(formula: Any, parts: list[tuple[Cost, float, float]]) -> float:
    if not (isinstance(formula, sympy.Expr) and formula.free_symbols):
        return 1.0
    terms = [part[2] for part in parts]
    if isinstance(formula, sympy.Add):
        return sum(terms)
    if isinstance(formula, sympy.Mul):
        return math.prod(terms)
    if isinstance(formula, sympy.Pow) and formula.exp.is_Integer and terms[0] > 1:
        n, t = abs(int(formula.exp)), terms[0]
        if n * t > 10**6:
            return math.inf
        # C(n + t - 1, n): the monomials of degree n in t variables
        most = math.lgamma(n + t) - math.lgamma(n + 1) - math.lgamma(t)
        return math.exp(most) if most < 700 else math.inf
    return 1.0


def _is_function(formula: Any) -> bool:
    """Whether it is a function or a root of something: not 1/x."""
    if isinstance(formula, sympy.Pow):
        return not formula.exp.is_Integer
    return isinstance(formula, (sympy.Function, AppliedUndef))


def _is_endless(formula: Any) -> bool:
    if not isinstance(formula, _ENDLESS):
        return False
    if isinstance(formula, (sympy.Limit, sympy.Derivative)):
        return True
    inside = formula.function
    if inside.has(*_ENDLESS) or len(formula.limits) != 1 or len(formula.limits[0]) != 3:
        return True
    name, start, end = formula.limits[0]
    if isinstance(formula, sympy.Integral):
        return not (inside.is_polynomial(name) and start.is_number and end.is_number)
    if not (start.is_Integer and end.is_Integer):
        return True
    return bool(end - start >= MOST_TERMS)
