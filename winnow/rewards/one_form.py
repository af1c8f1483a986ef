r"""One form of what TeX and Unicode write in several: ``\frac12``, ``\varphi``, ``∈``, ``]a, b[``.

Nothing is computed here, and no formula becomes another one. Time is linear in most texts, and at
worst quadratic in one of `MAX_FORMULA` characters.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from winnow.rewards.in_words import in_signs
from winnow.rewards.notation import UNEQUAL

_SIGNS = {
    **dict.fromkeys(("∨", r"\lor", r"\vee"), r"\text{ or }"),
    **dict.fromkeys(("∧", r"\land", r"\wedge"), r"\text{ and }"),
    "∈": r"\in ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "µ": "μ",
    r"\Bbb": r"\mathbb",
    r"\tbinom": r"\binom",
    r"\dbinom": r"\binom",
}
_SIGN = re.compile(r"[∨∧∈⌊⌋⌈⌉µ]|\\(?:lor|vee|land|wedge|Bbb|[td]binom)(?![A-Za-z])")
_STYLES = re.compile(
    r"\\(?:[bB]igg?[lrm]?|bf|rm|displaystyle|textstyle)(?![A-Za-z])|(?<=\\\\)\[[0-9.]+[a-z]{2}\]"
    r"|\\text\s*\{[\s.]*\}[\s.]*$"
)
_VARIANT = re.compile(
    r"\\var(epsilon|theta|kappa|rho|sigma|phi|Gamma|Delta|Theta|Lambda)(?![A-Za-z])"
)
"""Not \varpi, which would be the number."""
_SHAPED = re.compile("[\U0001d400-\U0001d7cbϑϕϵϱϰ]")
"""Letters of other shapes: italic ones of mathematics, variants of Greek ones."""
_RAISED = re.compile("[⁺⁻⁰¹²³⁴-⁹ⁿ]+")
_LOWERED = re.compile("[₀-₉]+")
_FRACTION = re.compile("[¼-¾⅐-⅞]")
_SIGN_OF_ROOT = re.compile(r"√(?=\s*(?:\{|\\(?!left(?![A-Za-z]))[A-Za-z]))")
_TAKES = re.compile(r"\\(?:(?P<two>[dtc]?frac|binom)|sqrt)(?![A-Za-z])\s*(?:\[[^\[\]]*\])?")
_MOST_TAKING = 50
"""Fractions, roots and binomials of a formula in which arguments without braces are read."""
_COMMAND = re.compile(r"\\(?!(?:left|right|begin|end)(?![A-Za-z]))[A-Za-z]+")
_POWER_OF_FRACTION = re.compile(r"\^\s*(\\[dtc]?frac\{[^{}]*\}\{[^{}]*\})")
_NATURAL = re.compile(r"\\log\s*_\s*(?:e(?![A-Za-z])|\{\s*e\s*\})")
_BASE = re.compile(
    r"(?:(?P<digits>(?<![0-9A-Za-z_])[0-9A-F]++)|\(\s*(?P<round>[0-9A-F]++)\s*\))\s*"
    r"_\s*(?:\{\s*(?:\\text\s*\{\s*(?P<word>[a-z]+)\s*\}|(?P<base>[0-9]+))\s*\}"
    r"|(?P<one>[0-9]))\s*$"
)
_NUMBERS = re.compile(r"\\mathbb\s*([A-Z])(?![A-Za-z])")
_UNION = re.compile(r"(?<=[)\]])\s*U\s*(?=[(\[])")
_REAL = r"\\mathbb\s*(?:R|\{\s*R\s*\})"
_BUILT = re.compile(
    rf"\\?\{{\s*(?P<name>[A-Za-z])\s*(?:\\in\s*{_REAL}\s*)?(?:\\mid(?![A-Za-z])|\\?\||:)"
    r"(?P<condition>(?:[^{}]++|\{[^{}]*+\})*+)\}"
)
_RELATION = re.compile(rf"{UNEQUAL}|\\in(?![A-Za-z])")
_OUTWARD = re.compile(r"([\[\]])([^\[\]()]+,[^\[\]()]+)([\[\]])")
_INTEGER = re.compile(
    r"[,;]?\s*(?:\\text\s*\{[\s,]*(?:where|for|with)\s*\}|\\q?quad|\\[,; ])*\s*\(?\s*"
    r"(?<![A-Za-z\\])(?P<name>[kmnl])\s*\\in\s*(?:\\mathbb\s*(?:Z|\{\s*Z\s*\})|ℤ)\s*\)?\s*$"
)
_TWO_SIGNS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])|[±∓]")
_ANGLE = re.compile(r"\\langle(?![A-Za-z])((?:[^\\]|\\(?!rangle|langle))*)\\rangle(?![A-Za-z])")
_NAMED = re.compile(
    r"\\[A-Za-z]+|(?P<letter>[A-Za-z])(?:_(?P<one>\w)|_\{(?P<index>\w+)\})?"
    r"(?P<primes>'+(?!s\b)|\s*\^\s*\{?\s*(?:\\prime(?![A-Za-z])\s*)+\}?)"
    r"|(?<![A-Za-z])(?P<function>[fgh])\s*\^\s*\{\s*-\s*1\s*\}(?=\s*(?:\\left\s*)?\()"
)
_OF_LETTERS = re.compile(
    r"\\(gcd|lcm)\s*(?:\\left\s*)?\(([^()]*[A-Za-z](?:[^()\\]|\\(?!right))*)(?:\\right\s*)?\)"
)
_RATE = re.compile(r"(?<![A-Za-z])(d[A-Za-z])\s*/\s*(d[A-Za-z])(?![A-Za-z])")
_FACTOR = re.compile(
    r"(?:(?<![_^A-Za-z0-9.}\\])(?<!\^-)(?<!√)[0-9]+(?:\.[0-9]+)?(?=\s*(?:\\left\s*)?[(\[])"
    r"|(?<![A-Za-z}])(?:\\left\s*)?\(\s*-?[0-9.]+\s*(?:\\right\s*)?\)"
    r"(?=\s*(?:(?:\\left\s*)?[(\[]|\\[dt]?frac|[0-9]))"
    r"|(?<![_^A-Za-z0-9.}\\])([0-9]{1,9})\s*\\[dtc]?frac\s*\{([0-9]{1,9})\}\s*\{([0-9]{1,9})\})"
)


def in_one_form(formula: str) -> str:
    """The formula with one of several ways to write a sign, an argument, a set."""
    if not formula.isascii():
        formula = _SHAPED.sub(lambda sign: unicodedata.normalize("NFKC", sign[0]), formula)
        formula = _FRACTION.sub(_vulgar, _RAISED.sub(_raised, formula))
        formula = _SIGN_OF_ROOT.sub(r"\\sqrt", _LOWERED.sub(_lowered, formula))
    formula = _STYLES.sub("", _SIGN.sub(lambda sign: _SIGNS[sign[0]], formula))
    formula = _NUMBERS.sub(r"\\mathbb{\1}", formula)
    if "\\" in formula:
        formula = _POWER_OF_FRACTION.sub(r"^{\1}", _with_braces(_plain_letters(formula)))
        formula = _NATURAL.sub(r"\\ln ", formula)
    formula = _RATE.sub(r"\\frac{\1}{\2}", formula)
    formula = _UNION.sub(r" \\cup ", _inward(_condition(formula)))
    formula = _without_integers(_BASE.sub(_in_base, formula, count=1))
    return _ANGLE.sub(r"(\1)", formula)


def with_products(formula: str) -> str:
    r"""Numbers beside brackets as factors, ``3\cdot (3)``: math-verify would add them.

    It also adds improper fractions, as if ``2\frac{3}{2}`` were a mixed number, and multiplies a
    mixed number by its fraction where a factor follows.
    """
    return _FACTOR.sub(_factor, formula)


def with_names(formula: str) -> str:
    r"""``f'``, ``f^{-1}(x)`` and ``\gcd(m, n)`` as names of their own.

    Else a prime is lost, an inverse is one over the function, and letters have no common divisor.
    """
    return _OF_LETTERS.sub(_function, _NAMED.sub(_name, formula))


def has_two_signs(formula: str) -> bool:
    """Whether it stands for several values by ``±``."""
    return bool(_TWO_SIGNS.search(formula))


def both_signs(formula: str) -> list[str]:
    r"""``1+x`` and ``1-x`` of ``1\pm x``; the formula where there is no or more than one ``±``."""
    found = list(_TWO_SIGNS.finditer(formula))
    if len(found) != 1:
        return [formula]
    before, after = formula[: found[0].start()], formula[found[0].end() :]
    plus = "" if before.rstrip()[-1:] in ("", "=", "(", "{", ",") else "+"
    return [f"{before}{plus}{after}", f"{before}-{after.lstrip()}"]


def _name(match: re.Match[str]) -> str:
    if match["function"]:
        return f"{match['function']}_{{inverse}}"
    if not match["primes"]:
        return match[0]
    primes = "prime" * (match["primes"].count("'") + match["primes"].count("prime"))
    return f"{match['letter']}_{{{match['one'] or match['index'] or ''}{primes}}}"


def _function(match: re.Match[str]) -> str:
    """A symbol with its arguments as index, in any order."""
    arguments = ",".join(sorted("".join(part.split()) for part in match[2].split(",")))
    return f"{'D' if match[1] == 'gcd' else 'M'}_{{{re.sub('[^A-Za-z]', _as_letters, arguments)}}}"


def _as_letters(sign: re.Match[str]) -> str:
    """What an index may hold, for any other sign."""
    return "Q" + "".join(chr(ord("A") + int(digit)) for digit in str(ord(sign[0])))


def _factor(match: re.Match[str]) -> str:
    if not match[1]:
        return rf"{match[0]}\cdot "
    whole, above, below = (int(digits) for digits in match.groups())
    if above < below:
        return rf"\frac{{{whole * below + above}}}{{{below}}}"
    return rf"{whole}\cdot\frac{{{above}}}{{{below}}}"


def _in_base(match: re.Match[str]) -> str:
    """``25_{8}`` for ``(25)_8`` and ``25_{eight}``."""
    if match.start() and match.string[: match.start()].strip()[-1:] not in ("", "="):
        return match[0]
    base = in_signs(match["word"]) if match["word"] else match["base"] or match["one"]
    return f"{match['digits'] or match['round']}_{{{base}}}" if base else match[0]


def _vulgar(match: re.Match[str]) -> str:
    value = Fraction(unicodedata.numeric(match[0])).limit_denominator(100)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _raised(match: re.Match[str]) -> str:
    """As an exponent; ² and ³ alone stay, which may be a unit's."""
    if match[0] in "²³":
        return match[0]
    return f"^{{{unicodedata.normalize('NFKC', match[0]).replace('−', '-')}}}"


def _lowered(match: re.Match[str]) -> str:
    return f"_{{{unicodedata.normalize('NFKC', match[0])}}}"


def _plain_letters(formula: str) -> str:
    r"""``\phi`` for ``\varphi``, unless both are there and so are two letters."""
    return _VARIANT.sub(
        lambda letter: (
            letter[0] if re.search(rf"\\{letter[1]}(?![A-Za-z])", formula) else rf"\{letter[1]}"
        ),
        formula,
    )


def _with_braces(formula: str) -> str:
    r"""``\frac{1}{2}`` for ``\frac12``: the arguments of fractions, binomials, roots in braces."""
    place = 0
    for _ in range(_MOST_TAKING):
        match = _TAKES.search(formula, place)
        if match is None:
            break
        start = place = match.end()
        made = ""
        for _ in range(2 if match["two"] else 1):
            while formula[start : start + 1].isspace():
                start += 1
            end = _argument_end(formula, start)
            if not end:
                break
            argument = formula[start:end]
            made += argument if argument[0] == "{" else f"{{{argument}}}"
            start = end
        else:
            formula = formula[: match.end()].rstrip() + made + formula[start:]
    return formula


def _argument_end(formula: str, start: int, levels: int = 9) -> int:
    """Where the argument ends that TeX would take from there; 0 if there is none to be sure of."""
    if formula[start : start + 1] == "{":
        depth = 0
        for brace in re.finditer(r"(?<!\\)[{}]", formula[start:]):
            depth += 1 if brace[0] == "{" else -1
            if not depth:
                return start + brace.end()
        return 0
    taking = _TAKES.match(formula, start)
    if taking is None:
        command = _COMMAND.match(formula, start)
        if command:
            return command.end()
        return start + 1 if formula[start : start + 1].isalnum() else 0
    end = taking.end()
    for _ in range(2 if taking["two"] else 1):
        while formula[end : end + 1].isspace():
            end += 1
        end = _argument_end(formula, end, levels - 1) if levels else 0
        if not end:
            return 0
    return end


def _condition(formula: str) -> str:
    r"""``3 \le x < 5`` for ``\{x \mid 3 \le x < 5\}``, of the real numbers."""
    match = _BUILT.fullmatch(formula.strip())
    condition = match["condition"].strip(" \\") if match else ""
    if match is None or not _RELATION.search(condition):
        return formula
    letters = set(re.findall(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])", condition))
    return condition if letters == {match["name"]} else formula


def _inward(formula: str) -> str:
    """``[a, b)`` for ``[a, b[``."""
    text = formula.strip()
    if not (text.startswith("]") or text.endswith("[")) or re.search(r"\\sqrt\s*\[", text):
        return formula
    return _OUTWARD.sub(
        lambda ends: ("(" if ends[1] == "]" else "[") + ends[2] + (")" if ends[3] == "[" else "]"),
        formula,
    )


def _without_integers(formula: str) -> str:
    r"""``k\pi`` for ``k\pi, k \in \mathbb{Z}``: what is said of a letter as everywhere."""
    match = _INTEGER.search(formula)
    if match is None:
        return formula
    rest = formula[: match.start()]
    used = re.search(rf"(?<![A-Za-z]){match['name']}(?![A-Za-z])|[0-9)}}]{match['name']}", rest)
    return formula if not used or _RELATION.search(rest) else rest
