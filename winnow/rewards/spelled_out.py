r"""Functions, constants and Greek letters that are spelled out, as TeX: ``2pi``, ``sin(x)``."""

from __future__ import annotations

import re
import unicodedata

from winnow.rewards.dates import date_of
from winnow.rewards.in_words import in_signs
from winnow.rewards.letter_products import is_unit
from winnow.rewards.notation import plain
from winnow.rewards.numbers import UNITS
from winnow.rewards.one_form import in_one_form

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon|phi"
    "|chi|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Omega"
)
"""Neither eta, which is short, nor psi, which is a unit."""
_SMALL = "\u0391-\u03c9"
_FIRST = r"(?<![A-Za-z\\_])"
_ROOT = re.compile(
    rf"(?:{_FIRST}(?:[Ss]qrt|(?P<cube>cbrt)|(?P<power>exp)|(?P<bars>[Aa]bs(?=\s*\()))"
    r"|√|(?P<third>∛)|(?P<fourth>∜))\s*(?:(?P<opens>(?:\\left\s*)?\()"
    rf"|(?P<of>[0-9]++(?:\.[0-9]++)?+(?![.,][0-9])|[A-Za-zπ{_SMALL}](?![A-Za-z])))"
)
_SPELLED = re.compile(
    rf"""(?P<tex> \\(?:text[a-z]*|math[a-z]+|mbox|hbox|operatorname)\s*\{{[^{{}}]*\}}
          | \\[A-Za-z]+ )
      | {_FIRST} (?P<inverse> a(?:rc)?(?=sin|cos|tan) )?
        (?P<function> sinh|cosh|tanh|sin|cos|tan|cot|(?<![A-Za-z]/)sec|csc|ln|log
          | Sin|Cos|Tan|Ln|Log )
        (?: _\{{?(?P<base>[0-9a-z]+)\}}? )?
        (?= \s*(?:[\^(0-9²³\\√{_SMALL}] | (?:pi|[xyz]|{_GREEK})(?![A-Za-z]))
          | \s+[A-Za-z](?![A-Za-z]) )
      | {_FIRST} (?P<pi> [Pp]i(?:(?=[rRdh](?![A-Za-z])) | (?![A-Za-z])) )
      | {_FIRST} (?P<infinite> (?:inf|[Ii]nfinity|oo)(?![A-Za-z]) )
      | {_FIRST} (?P<letter> (?:{_GREEK})(?![A-Za-z]) )
      | (?<![{_SMALL}]) (?P<sign> [{_SMALL}]{{1,2}} ) (?![{_SMALL}])""",
    re.VERBOSE,
)
_TIMES = re.compile(
    r"(?<![0-9A-Za-z)}.,/^])(?<![0-9] )([0-9]{1,9})/([0-9]{1,9})[ ]+"
    rf"(?=[(\\]|(?!(?:[A-Za-z]{{4,}}|[{UNITS}])[.\s]*$|[A-Za-z]+\s+[A-Za-z]{{2}})(?P<letters>[A-Za-z]+))"
)
"""Times what stands behind the space: of ``1/2x`` nobody can say."""
_TIMES_TEN = re.compile(r"(?<=[0-9])\s*[xX*]\s*10(?=\s*\^)")
_REPEATING = re.compile(
    r"(?<![0-9.,])(?P<whole>[0-9]{0,9})\.(?P<once>[0-9]{0,9})"
    r"(?:\\(?:overline|bar|dot)\s*(?:\{(?P<again>[0-9]{1,9})\}|(?P<digit>[0-9]))|\((?P<round>[0-9]{1,9})\))"
)
_ROUND = re.compile(r"(?<![0-9.,])([0-9]*\.[0-9]+)(\([0-9]+\))(?!\s*(?:\.\.\.|…|\\))")
_BELOW = re.compile(
    r"^((?:.*=)?\s*-?\s*)([0-9]{1,9})\s*/\s*([A-Za-z](?:\s*\^\s*(?:[0-9A-Za-z]|\{[^{}]*\}))?)$"
)
"""A number over a letter, which may be a unit."""
_DOTTED = re.compile(r"(?<=\.)([0-9]*)\\dot\s*\{?([0-9])\}?([0-9]*)\\dot\s*\{?([0-9])\}?(?![0-9])")
"""Dots above the first and the last digit of what is repeated."""
_GOES_ON = re.compile(
    r"(?<![0-9.,])([0-9]{0,9}\.[0-9]{0,9}?)([0-9]{1,9}?)\2{1,30}\s*"
    r"(?:\.\.\.|…|\\[lc]?dots(?![A-Za-z]))(?!\s*[0-9])"
)
"""Dots behind at least two of the same digits: 0.1666..., 0.1212...: not 0.16..."""
_WORD = re.compile(r"[A-Za-z]{4,}")
_UNIT = re.compile(
    r"(?:square|cubic|units?|(?:centi|milli|kilo)?met(?:er|re)s?|inch(?:es)?|feet|foot|yards?|miles?"
    r"|radians?|degrees?)(?![A-Za-z])"
)


def in_tex(formula: str) -> str:
    r"""The formula with TeX commands for what is spelled out: ``2\pi`` for ``2pi``.

    A text with other words stays as it is, but for numbers and sets in words: ``one half``.
    """
    words = in_signs(" ".join(plain(formula).strip("$*() .").lower().split()))
    if words is not None:
        return words
    formula = _GOES_ON.sub(r"\1(\2)", _DOTTED.sub(r"\1(\2\3\4)", formula))
    formula = _TIMES_TEN.sub(r"\\times 10", _REPEATING.sub(_fraction, formula))
    formula = in_one_form(formula)
    made = _SPELLED.sub(_command, _roots(formula))
    rest = _SPELLED.sub(lambda match: " " if match["tex"] else match.group(), made)
    return formula if _WORD.search(_UNIT.sub("", rest)) else _TIMES.sub(_times, made)


def readings(formula: str) -> tuple[str, ...]:
    """`in_tex`, and what else it may be: ``4.5(2)`` a product, ``1/s`` no frequency."""
    others = _ROUND.sub(r"\1\\cdot \2", formula), _BELOW.sub(r"\1\\frac{\2}{\3}", formula)
    number = re.findall("[0-9]+", formula)[-1:] if date_of(formula) else []
    return tuple(in_tex(each) for each in dict.fromkeys((formula, *others, *number)))


def _command(match: re.Match[str]) -> str:
    if match["tex"]:
        return match.group()
    if match["function"]:
        base = f"_{{{match['base']}}}" if match["base"] else ""
        return rf"\{'arc' if match['inverse'] else ''}{match['function'].lower()}{base} "
    if match["sign"]:
        before = match.string[: match.start()].rstrip(" kM")[-1:]
        after = match.string[match.end() :][:1]
        if before.isdigit() and (
            match["sign"] == "Ω" or (match["sign"] == "μ" and after.isalpha())
        ):
            return match.group()  # ohms, micrometres
        names = [_letter(sign) for sign in match["sign"]]
        return "".join(rf"\{name} " for name in names) if all(names) else match.group()
    name = "pi" if match["pi"] else "infty" if match["infinite"] else match["letter"]
    return rf"\{name} "


def _letter(sign: str) -> str:
    """The name of a Greek letter in TeX; empty for what is none."""
    name = unicodedata.name(sign, "").rpartition(" ")[2]
    name = "lambda" if name == "LAMDA" else name.lower()
    name = name if sign.islower() else name.capitalize()
    return name if re.fullmatch(rf"{_GREEK}|pi|eta|psi", name) else ""


def _times(match: re.Match[str]) -> str:
    if match["letters"] and is_unit(match["letters"]):
        return match.group()
    return rf"\frac{{{match[1]}}}{{{match[2]}}} "


def _fraction(match: re.Match[str]) -> str:
    r"""``0.1\overline{6}`` as ``\frac{15}{90}``."""
    once, again = match["once"], match["again"] or match["digit"] or match["round"]
    below = 10 ** len(once) * (10 ** len(again) - 1)
    above = int(once + again) - int(once or "0") + int(match["whole"] or "0") * below
    return rf"\frac{{{above}}}{{{below}}}"


def _roots(text: str) -> str:
    r"""``sqrt(...)`` as ``\sqrt{...}``; cube roots, ``exp(...)`` and ``abs(...)`` likewise."""
    place = 0
    while match := _ROOT.search(text, place):
        inner, end = match["of"], match.end()
        if match["opens"]:
            end = _closing(text, match.end())
            if not end:
                return text
            inner = text[match.end() : end - 1]
            inner = re.sub(r"\\right\s*$", "", inner)
        name = "e^" if match["power"] else r"\sqrt"
        name += "[3]" if match["cube"] or match["third"] else "[4]" if match["fourth"] else ""
        made = rf"\left|{inner}\right|" if match["bars"] else f"{name}{{{inner}}}"
        text = f"{text[: match.start()]}{made}{text[end:]}"
        place = match.start() + len(name)
    return text


def _closing(text: str, start: int) -> int:
    """Behind the parenthesis that closes one that was opened before; 0 if none does."""
    depth = 1
    for bracket in re.finditer(r"[()]", text[start:]):
        depth += 1 if bracket.group() == "(" else -1
        if not depth:
            return start + bracket.end()
    return 0
