"""Mathematical equality: numbers exactly, lists by their parts, formulas by math-verify.

Runs in a process of its own, and is imported only there: SymPy is slow to load, and can take for
ever on a short formula.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import sympy  # type: ignore[import-untyped, unused-ignore]
from latex2sympy2_extended import (  # type: ignore[import-untyped, unused-ignore]
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)
from latex2sympy2_extended.latex2sympy2 import (  # type: ignore[import-untyped, unused-ignore]
    ConversionConfig,
)
from math_verify import verify  # type: ignore[import-untyped, unused-ignore]
from math_verify.grader import (  # type: ignore[import-untyped, unused-ignore]
    should_treat_as_complex,
)
from sympy.core.function import AppliedUndef  # type: ignore[import-untyped, unused-ignore]

from winnow.rewards import formulas, notation
from winnow.rewards.coordinates import are_curves, as_coordinates, is_curve, is_of_another
from winnow.rewards.dates import date_of
from winnow.rewards.formula_cost import ALLOWED, cost, is_too_hard, is_too_large
from winnow.rewards.formulas import Parts
from winnow.rewards.letter_products import is_product, same_product
from winnow.rewards.one_form import has_two_signs, with_names, with_products
from winnow.rewards.solution_sets import same_numbers
from winnow.rewards.spelled_out import in_tex, readings
from winnow.rewards.verifiers import needed_answer
from winnow.types import Prompt

# The library warns once that its own time limit is off. It is off on purpose: it uses signals,
# which a loop in SymPy's C code or a caught exception defeats. The worker's time limit holds.
logging.getLogger("math_verify").setLevel(logging.ERROR)

DIGITS = 60
"""Decimal digits to which irrational numbers are computed."""
EXACT = sympy.Rational(1, 10**40)
"""Relative difference up to which two irrational numbers are equal."""
ROUNDED = sympy.Rational(1, 10**6)
"""The same where one of them is written as a decimal: 1.414214 is the root of 2."""

MOST_CHARACTERS = 250
"""Characters of a formula that is computed, where the gold answer has no more."""
MOST_BRACKETS = 8
"""The same for brackets in each other."""
MOST_WAYS = 3
"""Values that an answer may give by means of "approximately": more are guesses."""
MOST_LEVELS_OF_PARTS = 2
"""Functions and roots in each other of which real and imaginary parts are found as formulas."""

WITH_I = dataclasses.replace(ALLOWED, terms=50)
"""What is computed with the imaginary unit: SymPy multiplies a power out that has roots in it."""

_NORMAL = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_CASED = ConversionConfig(lowercase_symbols=False)
_ANGLED = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z]|\s*\^\s*\{?\s*-)")
"""Only in these is a degree more than a unit."""
_TEX = {
    "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "°": r"^\circ ", "²": "^2", "³": "^3",
    "−": "-", "∅": r"\emptyset ", r"\varnothing": r"\emptyset",
}  # fmt: skip
_ROOT = re.compile(r"√\s*(\()?([0-9]+|[A-Za-z])(?(1)\))")
_BOLD = re.compile(r"\\(?:mathbf|boldsymbol|bm)(?![A-Za-z])")
_STARS = re.compile(r"\s*\*\*\s*([+-]?[0-9A-Za-z.]+|\([^()]*\))")
_NEGATIVE = re.compile(r"\^\s*(-\s*(?:[0-9]+|[A-Za-z]))")
_SEVERAL = re.compile(r"[0-9.]+(?:\s+[0-9.]+)+")  # math-verify reads 3 4 as a mixed number, 7
_UPRIGHT = re.compile(r"\\(?:mathrm|operatorname|text|textrm)\s*\{\s*([ei])\s*\}")
_DECIMAL = re.compile(r"\.[0-9]")
_IMAGINARY = re.compile(r"(?<=[0-9)}])i(?![A-Za-z])|(?<![A-Za-z\\])I(?![A-Za-z_])")
_DIGIT_GROUP = re.compile(r"(?<=\d)(?:\\,|,?\\!\s?|\{,\}|\\ )+(?=\d{3}(?!\d))")


def math(prompt: Prompt, completion: str) -> float:
    r"""1 if the completion's answer equals the prompt's, as mathematics: ``\frac12`` is 0.5.

    See :func:`winnow.rewards.formulas.answer_formula` for which answer counts. Rational numbers
    are compared exactly, a decimal and an irrational number to a millionth of their size; lists
    that are not in brackets, and sets, in any order; words and notations that are no mathematics
    (``12:30``) as texts. A completion in which nothing can be read is wrong.

    Raises:
        ValueError: The prompt has no answer, or it cannot be read; or the comparison itself fails.
    """
    answer = needed_answer(prompt)
    written = formulas.gold_formula(answer)
    gold = None if written is None else in_tex(written)
    if written is None or gold is None or not _readable(gold):
        raise ValueError(f"the prompt's answer cannot be read as mathematics: {answer!r:.80}")
    said = formulas.answer_formula(completion)
    if said is None:
        return 0.0
    word = formulas.word_of(written) if r"\text" in written + said else None
    if word and word == formulas.word_of(said):
        return 1.0  # before infinity and alpha become symbols: one of them is a text
    return float(any(_equal(gold, reading) for reading in readings(said)))


@functools.lru_cache(maxsize=4096)
def _readable(gold: str) -> bool:
    """Whether it can be compared; cached, as a prompt has many samples."""
    if formulas.is_plain(gold):
        return True
    several = formulas.parts(gold)
    if several is not None and all(map(_readable, several.items)):
        return True
    return bool(_parsed(gold))


def _equal(gold: str, said: str) -> bool:
    """Whether two formulas are equal."""
    if gold == said or same_product(gold, said):
        return True
    about = _about(said)
    if len(about) > 1 and len(_about(gold)) == 1:
        given = [part.strip() for part in about if part.strip()]
        return len(given) <= MOST_WAYS and any(_equal(gold, part) for part in given)
    date = date_of(gold)
    if date:
        return date == date_of(said)
    if is_of_another(gold, said):
        return False
    number, other = formulas.number_of(gold), formulas.number_of(said)
    if number and other:
        if number[0] == other[0]:
            return True
        return number[1] != other[1] and number[0] / 100 ** number[1] == other[0] / 100 ** other[1]
    letter = formulas.letter_of(gold)  # of A to Z, a variable too
    if letter and letter == formulas.choice_of(said):
        return True
    literal, other_literal = formulas.literal_of(gold), formulas.literal_of(said)
    if literal or other_literal:
        return literal == other_literal
    numbers = None if _is_longer(said, gold) else same_numbers(gold, said, _easy)
    if numbers is not None:
        return numbers
    several = None if number else formulas.parts(gold)  # 1,234 is no list
    others = None if other else formulas.parts(said)
    if several and others:
        if _is_set(several) != _is_set(others) and _is_place(several) != _is_place(others):
            return False
        several, others = as_coordinates(several, others)
        if several.bracket == others.bracket or "(" not in several.bracket + others.bracket:
            return _same_parts(several, others)
    elif others and not others.bracket:
        if not has_two_signs(gold):
            return False  # 3, 4 is not 4
        said = rf"\{{{', '.join(others.items)}\}}"
    gold, said = formulas.without_unit(gold), formulas.without_unit(said)
    word, other_word = formulas.word_of(gold), formulas.word_of(said)
    if not several and (word or other_word) and not (is_product(gold) and is_product(said)):
        if word == other_word:
            return True
        if word and not is_product(gold, not other_word):
            return False
        if other_word and not is_product(said, not word):
            return False
    return _same_formulas(gold, said)


def _is_set(several: Parts) -> bool:
    return several.bracket in (r"\{", "{")


def _is_place(several: Parts) -> bool:
    """Whether it is a point or an interval; ``[1, 2, 3]`` is neither."""
    return several.bracket == "(" or (several.bracket == "[" and len(several.items) == 2)


def _same_parts(several: Parts, others: Parts) -> bool:
    if len(several.items) != len(others.items):
        return False
    names, other_names = several.names, others.names
    if len(set(names)) > 1 and len(set(other_names)) > 1:
        said = dict(zip(other_names, others.items, strict=True))
        return set(names) == said.keys() and all(
            _equal(item, said[name]) for name, item in zip(names, several.items, strict=True)
        )
    in_order = len(set(names)) > 1 or several.bracket in ("(", "[")
    if in_order:
        return all(map(_equal, several.items, others.items))
    left = list(others.items)
    for item in several.items:
        match = next((place for place, other in enumerate(left) if _equal(item, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _about(formula: str) -> list[str]:
    r"""A formula, or what it gives exactly and approximately: ``\frac13 \approx 0.33``."""
    return re.split(r"\\approx(?![A-Za-z])|≈", formula)


def _same_formulas(gold: str, said: str) -> bool:
    """Whether math-verify, or their values, make two formulas equal."""
    if are_curves(gold, said):
        return _same_read(gold, said)
    named = not formulas.is_equation(formulas.without_name(gold))
    if not named and is_curve(gold) and formulas.is_equation(said) and not is_curve(said):
        return False
    if named:
        gold, said = formulas.without_name(gold), formulas.without_name(said)
        if formulas.is_equation(said):
            return False  # an equation is no value
    return _same_read(gold, said)


def _same_read(gold: str, said: str) -> bool:
    if _is_longer(said, gold):
        return False
    decimal = bool(_DECIMAL.search(gold) or _DECIMAL.search(said))
    return any(_same(g, s, decimal) for g in _parsed(gold) for s in _parsed(said))


def _is_longer(said: str, gold: str) -> bool:
    """Whether what is said has more characters or brackets than are read for this gold answer."""
    deeper = formulas.depth(said) > max(MOST_BRACKETS, formulas.depth(gold))
    return deeper or len(said) > max(MOST_CHARACTERS, len(gold))


def _easy(formula: str) -> Sequence[Any]:
    """What a formula may mean, computed, if that is little work."""
    found = [made for made in _parsed(formula) if isinstance(made, sympy.Basic)]
    easy = [_rational(made) for made in found if not is_too_hard(made, sympy.S.Zero)]
    # x in a set is read as an equation, which doit() finds wrong
    return [made if isinstance(made, sympy.Eq) else made.doit() for made in easy]


def _same(gold: Any, said: Any, decimal: bool) -> bool:
    if _undefined(said) or _undefined(gold):
        return False
    if is_too_hard(said, gold):
        return bool(gold == said)
    if _is_value(gold) and _is_value(said):
        return _same_values(gold, said, decimal)
    exact_gold, exact_said = _of_same_letters(_rational(gold), _rational(said))
    if isinstance(exact_gold, sympy.Ne) and isinstance(exact_said, sympy.Ne):
        exact_gold, exact_said = (
            sympy.Eq(*relation.args, evaluate=False) for relation in (exact_gold, exact_said)
        )
    elif isinstance(exact_gold, sympy.Ne) or isinstance(exact_said, sympy.Ne):
        return False  # math-verify fails on both
    if not _agree_somewhere(exact_gold, exact_said):
        return False
    # its order is (gold, target), and it is not symmetric
    return bool(verify([exact_gold], [exact_said], timeout_seconds=None, raise_on_error=True))


def _of_same_letters(gold: Any, said: Any) -> tuple[Any, Any]:
    """Both, with one symbol for a letter that is real in the one and complex in the other."""
    if not (isinstance(gold, sympy.Expr) and isinstance(said, sympy.Expr)):
        return gold, said
    symbols = gold.free_symbols | said.free_symbols
    same = {symbol: sympy.Symbol(symbol.name) for symbol in symbols}
    if len(set(same.values())) == len(symbols):
        return gold, said
    return gold.xreplace(same), said.xreplace(same)


def _undefined(formula: Any) -> bool:
    return isinstance(formula, sympy.Basic) and formula.has(sympy.nan, sympy.zoo)


def _is_value(formula: Any) -> bool:
    return isinstance(formula, sympy.Expr) and not formula.free_symbols


def _rational(formula: Any) -> Any:
    """The formula with decimals as the fractions that they are."""
    if not isinstance(formula, sympy.Basic):
        return formula
    floats = {f: sympy.Rational(str(f)) for f in formula.atoms(sympy.Float)}
    return formula.xreplace(floats) if floats else formula


def _same_values(gold: Any, said: Any, decimal: bool = False) -> bool:
    """Whether two numbers are equal: rational ones exactly, others relative to their size.

    Args:
        decimal: Whether one of them may be a decimal that stands for the other.
    """
    gold, said = _computed(gold), _computed(said)
    if _undefined(gold) or _undefined(said):
        return False
    if gold == said:
        return True
    if gold.is_Rational and said.is_Rational:
        return False
    if gold.is_infinite or said.is_infinite:
        return False
    apart, *sizes = (abs(sympy.N(value, DIGITS)) for value in (gold - said, gold, said))
    if not all(value.is_Float or value.is_Rational for value in (apart, *sizes)):
        return bool(sympy.simplify(gold - said) == 0)  # of a function that nobody has defined
    size = max(sizes)
    if size < EXACT:  # either is zero, or too small to say
        return bool(sympy.simplify(gold - said) == 0)
    rounded = decimal and gold.is_Rational != said.is_Rational
    return bool(apart <= (ROUNDED if rounded else EXACT) * size)


def _computed(formula: Any) -> Any:
    """Exact arithmetic done: sums and powers of fractions are fractions, ``50%`` one half."""
    made = _rational(formula).doit()
    easy = made.has(sympy.I) and cost(made).levels <= MOST_LEVELS_OF_PARTS
    return sympy.expand_complex(made) if easy else made


def _agree_somewhere(gold: Any, said: Any) -> bool:
    """Whether two formulas agree at some point.

    Math-verify drops terms that are small in size, and can take for ever to tell others apart.
    """
    if not (isinstance(gold, sympy.Expr) and isinstance(said, sympy.Expr)):
        return True
    names = sorted({symbol.name for symbol in gold.free_symbols | said.free_symbols})
    values = {name: sympy.Rational(7 + 4 * i, 5 + 3 * i) for i, name in enumerate(names)}
    point = {s: values[s.name] for s in gold.free_symbols | said.free_symbols}
    at = [_computed(f.subs(point)) for f in (gold, said)]
    if any(value.free_symbols or _undefined(value) for value in at):
        return True
    return _same_values(*at)


@functools.lru_cache(maxsize=4096)
def _parsed(formula: str) -> Sequence[Any]:
    """The formula as math-verify reads it; empty if it cannot. Cached: a gold has many samples."""
    number = formulas.number_of(formula)
    if number is not None and not is_curve(formula):  # xy = 1
        return [sympy.Rational(*number[0].as_integer_ratio())]
    formula = formulas.without_unit(formula).translate(notation.CHARACTERS)
    if is_too_large(formula) or _SEVERAL.fullmatch(notation.plain(formula)):
        return []
    formula = _STARS.sub(lambda power: f"^{{{power[1].strip('()')}}}", formula)
    for character, command in _TEX.items():
        formula = formula.replace(character, command)
    formula = _BOLD.sub("", formula)
    formula = _ROOT.sub(r"\\sqrt{\2}", formula)
    formula = _NEGATIVE.sub(r"^{\1}", formula)
    formula = _DIGIT_GROUP.sub("", _UPRIGHT.sub(r"\1", formula)).replace("+ -", "- ")
    formula = with_products(with_names(_IMAGINARY.sub(" i", formula)))
    return [made for made in _read(formula) if not _undefined(made)]


def _read(formula: str) -> Iterator[Any]:
    """A formula as SymPy has it, or nothing; of an equation that cannot be read, its last side."""
    text = normalize_latex(formula, _NORMAL)
    degrees = bool(_ANGLED.search(text))
    for each in dict.fromkeys((text, formulas.last_side(text))):
        with suppress(Exception):  # of any kind
            made = latex2sympy(
                each,
                is_real=not should_treat_as_complex(each),
                convert_degrees=degrees,
                normalization_config=None,
                conversion_config=_CASED,
            )
            yield _with_i(_with_rates(made))
            return


def _with_rates(formula: Any) -> Any:
    """The formula with a symbol for dy/dx: of y, a letter, the derivative would be 0."""
    if not isinstance(formula, sympy.Basic):
        return formula
    rates = [
        rate
        for rate in formula.atoms(sympy.Derivative)
        if isinstance(rate.expr, AppliedUndef)
        or (rate.expr.is_Symbol and rate.expr not in rate.variables)
    ]
    return formula.xreplace({rate: sympy.Symbol(str(rate)) for rate in rates})


def _with_i(formula: Any) -> Any:
    """The formula with the imaginary unit for i, unless i counts something or powers are high."""
    symbol = sympy.Symbol("i", real=False)
    if not (isinstance(formula, sympy.Expr) and formula.has(symbol)):
        return formula
    if formula.has(sympy.Sum, sympy.Product) or cost(formula).is_above(WITH_I):
        return formula
    return formula.xreplace({symbol: sympy.I})
