r"""One way of writing: digits, signs and TeX commands of many notations as plain text.

``１８`` and ``١٨`` become ``18``, ``−5`` and ``–5`` become ``-5``, ``½`` becomes ``1/2``,
``12\,500`` becomes ``12 500``, ``\frac12`` becomes ``1/2``, ``18\text{ cm}`` becomes ``18 cm``.
Time is linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

CASED = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03bf\u03c1-\u052f\u1e00-\u1fff"
"""Letters that make one word with digits, for a pattern. Those without case make none: 答案是18"""
UNEQUAL = r"[<>≤≥≠]|\\(?:[lg](?:eq?|t|eqslant)|neq?)(?![A-Za-z])"
"""Signs of inequalities, for a pattern."""

_MINUS = "\u2212\u2013\u2012\u2010\u2011\ufe63\uff0d"  # minus, dashes as long as one, hyphens
_SPACES = (
    "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
_SAME = {
    **dict.fromkeys(_MINUS, "-"),
    **dict.fromkeys(_SPACES, " "),
    **dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff", ""),  # no width at all
    **dict.fromkeys("\u2044\u2215", "/"),
    **dict.fromkeys("\u2019\u02bc", "'"),
    **dict.fromkeys("\u2217\u22c5\u00b7\u2022", "·"),
    "\u066b": ".",  # Arabic decimal point and thousands separator
    "\u066c": ",",
    "\u066a": "%",
    "\u2a7d": "≤",
    "\u2a7e": "≥",
    "\uff0c": "、",  # a full-width comma stands between numbers, never within one
    "\uff3c": "\\",
}


class _Plain(dict[int, str]):
    """What each character becomes; found when it is first seen."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        made = _SAME.get(character)
        if made is None:
            made = _plain_character(character)
        self[code] = made
        return made


def _plain_character(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if "\uff01" <= character <= "\uff5e":  # full-width ASCII
        return chr(ord(character) - 0xFEE0)
    if unicodedata.decomposition(character).startswith("<fraction>"):  # ½
        value = Fraction(unicodedata.numeric(character)).limit_denominator(100)
        return f" {value.numerator}/{value.denominator}"
    return character


CHARACTERS = _Plain()
"""A table for `str.translate`: each character in one way of writing."""

_SIGNED = re.compile(f"(?<=[-+\uff0b{_MINUS}])[\u00bc-\u00be\u2150-\u215e]")  # -⅓: no space

_COMMANDS = {
    **dict.fromkeys((",", ";", ":", " ", ">", "quad", "qquad", "space", "thinspace"), " "),
    **dict.fromkeys(("!", "left", "right", "displaystyle", "limits", "big", "Big", "bigl"), ""),
    **dict.fromkeys(("bigr", "mathopen", "mathclose"), ""),
    **dict.fromkeys(("cdot", "bullet"), "·"),
    **dict.fromkeys(("neq", "ne"), "≠"),
    **dict.fromkeys(("le", "leq", "leqslant"), "≤"),
    **dict.fromkeys(("ge", "geq", "geqslant"), "≥"),
    **dict.fromkeys(("ldots", "dots", "cdots", "dotsc"), "…"),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("degree", "circ"), "°"),
    **dict.fromkeys(("to", "rightarrow", "Rightarrow", "implies", "iff", "therefore"), "→"),
    "lt": "<",
    "gt": ">",
    "approx": "≈",
    "times": "×",
    "div": "÷",
    "pm": "±",
    "mp": "∓",
    "sqrt": "√",
    "pi": "π",
    "infty": "∞",
    "$": "$",
    "%": "%",
    "#": "#",
    "&": "&",
    "_": "_",
}
_COMMAND = re.compile(
    r"\\(?:([A-Za-z]++)|([^A-Za-z]))|\{,\}|(?<=[0-9])~(?=[0-9])|~(?=[A-Za-z\\])", re.DOTALL
)
_NO_SPACE = re.compile(r"\\!\s?(?=[0-9])")
_WORDS = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathsf|mathit|mbox|hbox|emph|operatorname)"
    r"\s*+\{([^{}\\]*+)\}"
)
_DEGREE = re.compile(r"\^\s*+(?:°|\{\s*+°\s*+\})")
_FRACTION = re.compile(
    r"""(?P<before>[0-9A-Za-z)}]\s*+)? \\frac\s*+
    (?: \{\s*+(?P<a>[0-9]++)\s*+\} | (?P<one>[0-9]) )\s*+
    (?: \{\s*+(?P<b>[0-9]++)\s*+\} | (?P<two>[0-9]) )""",
    re.VERBOSE,
)


def plain(text: str) -> str:
    """The text with numbers, signs and spaces written in one way; other TeX commands stay."""
    if not text.isascii():
        text = _SIGNED.sub(lambda fraction: CHARACTERS[ord(fraction[0])].lstrip(), text)
        text = text.translate(CHARACTERS)
    if "\\!" in text:
        text = _NO_SPACE.sub("", text)
    if "\\" in text or "{,}" in text or "~" in text:
        text = _WORDS.sub(r"\1", text)
        text = _COMMAND.sub(_command, text)
        text = _FRACTION.sub(_slash, _DEGREE.sub("°", text))
    return text


def _command(match: re.Match[str]) -> str:
    whole, name = match.group(), match[1] or match[2]
    if whole == "{,}":
        return ","
    if whole == "~":
        return " "
    return _COMMANDS.get(name, whole)


def _slash(match: re.Match[str]) -> str:
    r"""``a/b``. What stands before it is a whole part only if it is a digit: ``1\frac{1}{2}``."""
    before = match["before"] or ""
    fraction = f"{match['a'] or match['one']}/{match['b'] or match['two']}"
    behind = " " if match.string[match.end() : match.end() + 1].isdigit() else ""
    return f"{before.rstrip()} {fraction}{behind}" if before else fraction + behind
