r"""Numbers in text, exactly: the last one, ``#### 18``, ``\boxed{18}``.

A number here is what a person would write: ``1,234,567``, ``-3``, ``$18``, ``18 dollars``, ``50%``,
``3.0``, ``3/4``, ``1 1/2``, ``\frac{3}{4}``, ``2e5``. Values are fractions, so that nothing is
rounded: ``3.0 == 3`` and ``0.1 != 0.1000000001``. Currency, percent and units carry no meaning:
``50%`` is 50.

Digits that look like a number but are none (``1.2.3``, ``1,23``, ``10/12/2020``, ``2^10``, more
than 1000 digits) are an *unreadable* number, of value ``None``. So an answer of ``1,23`` is never
taken for some earlier number in the text. Digits within a word, an index or an exponent (``H2O``,
``x_2``, ``m^2``) are skipped.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_CHARACTERS = 1000
"""A longer number is unreadable: Python's conversion of digits is quadratic, and limited."""

# Quantifiers are possessive (++) so that no text, however odd, takes more than linear time.
_NUMBER = re.compile(
    r"""
    (?: (?<![\w)\]}\u2212-]) (?P<sign>[-\u2212])        # binary minus is no sign: 5-3, x-3, (5)-3
      | = [ ]*+ (?P<spaced>[-\u2212]) [ ]++ )?          # = - 3
    (?: \\?[$€£¥₹] [ ]?+ (?P<inner>[-\u2212])?+ )?+     # -$5 and $-5
    (?<! [^\W_] ) (?<! [^\W_]_ ) (?<! [0-9][.,/] )      # within a word, an index, a longer number
    (?<! \^ ) (?<! \^\{ ) (?<! \^- ) (?<! \^\{- )       # an exponent
    (?P<body>
        [0-9]++[ ][0-9]++/[0-9]++ (?! [.,/]?[0-9] )     # 1 1/2
      | (?: [0-9]++ | (?<!\.)\.[0-9]++ ) (?: [.,/][0-9]++ )*+ (?: [eE][+-]?+[0-9]++ (?!\w) )?
    )
    (?P<more> [ ]*+ \^ [ ]*+ [({0-9-] | \*\*[0-9] | _[0-9] )?   # 2^10 is not 2, 1_000 not 1
    """,
    re.VERBOSE,
)
_DECIMAL = re.compile(
    r"(?: [1-9][0-9]{0,2}(?:,[0-9]{3})+ | [0-9]+ )? (?:\.[0-9]+)? (?:[eE][+-]?[0-9]{1,3})?",
    re.VERBOSE,
)
_FRACTION = re.compile(r"(?:([0-9]+)[ ])?([0-9]+)/([0-9]+)")
_TEX_FRACTION = re.compile(r"\\[dt]?frac\s*+\{\s*+([0-9]++)\s*+\}\s*+\{\s*+([0-9]++)\s*+\}")
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*+\{|\\.|[{}]", re.DOTALL)
_MARKER = re.compile(r"####[ \t*_]*+")
_HEADING = re.compile(r"[.):]++[ \t]++\S")
# What may follow a number that ends a text: closing punctuation, mark-up, a percent sign.
_CLOSING = re.compile(r"[\s.!)\]}$*_\"'`’”%\\]*+")


def last_number(text: str) -> Fraction | None:
    """The last number in the text; ``None`` if there is none, or if it is unreadable."""
    match = _last(_plain(text))
    return None if match is None else _value(match)


def final_number(text: str) -> Fraction | None:
    """The number that the text ends with; ``None`` if it ends otherwise.

    White space, closing punctuation and mark-up (``. ! ) ] } $ * _ " ' %``) may follow it; a word
    may not.
    """
    text = _plain(text)
    match = _last(text)
    if match is None or not _CLOSING.fullmatch(text, match.end()):
        return None
    return _value(match)


def marked_number(text: str) -> Fraction | None:
    r"""The number that a text answers, as in GSM8K: the first of these, even if unreadable.

    - The number directly after the last ``####``, on its line. A ``####`` that heads a section
      (``#### 2. Cost``) is skipped.
    - The last number within the last complete ``\boxed{...}``.
    - The last number of the text.
    """
    text = _plain(text)
    for marker in reversed(list(_MARKER.finditer(text))):
        match = _NUMBER.match(text, marker.end())
        if match and not _HEADING.match(text, match.end()):
            return _value(match)
    box = last_boxed(text)
    return last_number(text if box is None else box)


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``; ``None`` if there is none.

    Braces are matched, so ``\boxed{\frac{1}{2}}`` gives ``\frac{1}{2}``.
    """
    opened: list[int | None] = []  # where each open brace's content starts, for the boxed ones
    found = None
    for token in _BOX_OR_BRACE.finditer(text):
        symbol = token.group()
        if symbol == "{":
            opened.append(None)
        elif symbol.endswith("{") and "box" in symbol:
            opened.append(token.end())
        elif symbol == "}" and opened:
            start = opened.pop()
            if start is not None:
                found = slice(start, token.start())
    return None if found is None else text[found]


def _plain(text: str) -> str:
    r"""The text with numbers in TeX written plainly: ``1{,}234``, ``1\,234``, ``\frac``."""
    if "{,}" in text or "\\" in text:
        text = text.replace("{,}", ",").replace("\\!", "").replace("\\,", "")
        text = _TEX_FRACTION.sub(_slash, text)
    return text


def _slash(match: re.Match[str]) -> str:
    # "1\frac{1}{2}" is one and a half: without the space it would become eleven halves
    glued = match.string[: match.start()][-1:].isalnum()
    return f"{' ' if glued else ''}{match.group(1)}/{match.group(2)}"


def _last(text: str) -> re.Match[str] | None:
    match = None
    for match in _NUMBER.finditer(text):  # noqa: B007 (we want the last one)
        pass
    return match


def _value(match: re.Match[str]) -> Fraction | None:
    body = match["body"]
    if match["more"] or len(body) > MAX_CHARACTERS:
        return None
    value = _fraction(body) if "/" in body else _decimal(body)
    negative = match["sign"] or match["spaced"] or match["inner"]
    return -value if value is not None and negative else value


def _decimal(body: str) -> Fraction | None:
    return Fraction(body.replace(",", "")) if _DECIMAL.fullmatch(body) else None


def _fraction(body: str) -> Fraction | None:
    match = _FRACTION.fullmatch(body)
    if match is None:
        return None
    whole, above, below = (int(part or 0) for part in match.groups())
    if below == 0 or (match[1] and above >= below):
        return None
    return whole + Fraction(above, below)
