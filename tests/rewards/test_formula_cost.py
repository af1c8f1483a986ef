"""The measures of formulas, against SymPy's own expansion and arithmetic of small ones."""

from __future__ import annotations

import pytest
import sympy  # type: ignore[import-untyped, unused-ignore]

from winnow.rewards.formula_cost import cost

A, B, C = sympy.symbols("a b c")


@pytest.mark.parametrize(
    "formula", [(A + B) ** 7, (A + B + C) ** 5, (A + 1) ** 3 * (B + C) ** 4, A + B, A * B]
)
def test_terms_are_those_of_the_expansion(formula: sympy.Expr) -> None:
    assert cost(formula).terms == pytest.approx(len(sympy.expand(formula).as_ordered_terms()))


@pytest.mark.parametrize(("base", "exponent"), [(3, 100), (7, 2000), (123, -45)])
def test_digits_are_no_fewer_than_there_are(base: int, exponent: int) -> None:
    power = sympy.Pow(base, exponent, evaluate=False)
    digits = len(str(base ** abs(exponent)))
    assert digits - 1 <= cost(power).digits <= 2 * digits


@pytest.mark.parametrize(("text", "levels"), [("sin(sqrt(a))", 2), ("a**2 + 1/a", 0)])
def test_levels(text: str, levels: int) -> None:
    assert cost(sympy.sympify(text)).levels == levels


@pytest.mark.parametrize(
    ("text", "endless"),
    [
        *[("Sum(a, (a, 1, 10))", 0), ("Sum(a, (a, 1, 10**9))", 1), ("Sum(a, (a, 1, oo))", 1)],
        *[("Integral(a**2, (a, 0, 1))", 0), ("Integral(sin(a), (a, 0, 1))", 1)],
        *[("Integral(a, a)", 1), ("Limit(1/a, a, oo) + Derivative(f(a), a)", 2)],
    ],
)
def test_what_has_no_end_in_reach(text: str, endless: int) -> None:
    assert cost(sympy.sympify(text)).endless == endless
