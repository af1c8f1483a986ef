r"""Numbers and sets in words, as TeX: ``two thirds``, ``no solution``, ``all real numbers``."""

from __future__ import annotations

import re

_UP_TO_NINETEEN = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
_FROM_TWENTY = "twenty thirty forty fifty sixty seventy eighty ninety"
_FROM_HALF = "half third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_SMALL = {word: value for value, word in enumerate(_UP_TO_NINETEEN.split())}
_TENS = {word: 10 * value for value, word in enumerate(_FROM_TWENTY.split(), start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {
    **{word: value for value, word in enumerate(_FROM_HALF.split(), start=2)},
    "quarter": 4,
    "hundredth": 100,
    "thousandth": 1000,
}
_MOST_WORDS = 16
_DIGITS = re.compile("[0-9]{1,9}")

_SETS = (
    (
        re.compile(
            r"(?:(?:the|this) (?:equation|system|inequality) has |there (?:is|are) )?"
            r"no (?:real )?(?:solutions?|roots?)(?: exists?)?|none|(?:the )?(?:empty|null) set|ø"
            r"|\\?\{ ?\\?\}"
        ),
        r"\emptyset",
    ),
    (re.compile(r"(?:all|the set of(?: all)?) (?:the )?(?:real numbers|reals)"), r"\mathbb{R}"),
    (re.compile(r"(?:plus |positive )?infinity"), r"\infty"),
    (re.compile(r"(?:minus|negative) infinity"), r"-\infty"),
)


def in_signs(words: str) -> str | None:
    r"""Words as a formula: ``\frac{2}{3}`` for ``two thirds``; ``None`` where they are none.

    Args:
        words: In small letters, one space between two.
    """
    for pattern, formula in _SETS:
        if pattern.fullmatch(words):
            return formula
    said = words.replace("-", " ").split()
    if not 0 < len(said) <= _MOST_WORDS:
        return None
    negative = said[0] in ("minus", "negative")
    number = _number(said[1:] if negative else said)
    return number if number is None or not negative else f"-{number}"


def _number(said: list[str]) -> str | None:
    whole = _cardinal(said)
    if whole is not None:
        return str(whole)
    part = _part(said)
    if part is not None or "and" not in said:
        return part
    place = len(said) - 1 - said[::-1].index("and")
    whole, part = _cardinal(said[:place]), _part(said[place + 1 :])
    return None if whole is None or part is None else f"{whole}{part}"


def _part(said: list[str]) -> str | None:
    """A fraction, "one third" or "2 thirds": not "twenty fifth" or "2 quarters"."""
    if not said:
        return None
    *above, name = said
    if above in ([], ["a"]):
        above = ["one"] if name == "half" or above else []
    digits = " ".join(above) if _DIGITS.fullmatch(" ".join(above)) else ""
    if digits and name.startswith("quarter"):
        return None  # coins
    number = int(digits) if digits else _cardinal(above)
    plural = name == "halves" or name.endswith("s")
    below = _PARTS.get("half" if name == "halves" else name.removesuffix("s"))
    if number is None or below is None or plural == (number == 1):
        return None
    return rf"\frac{{{number}}}{{{below}}}"


def _cardinal(said: list[str]) -> int | None:
    """The value of "two hundred and five"; ``None`` if it is no number."""
    total = below = 0
    least = 10**12
    before = ""
    for word in said:
        starts = not before or before in ("and", "hundred") or before in _SCALES
        scale = _SCALES.get(word)
        if word in _SMALL and (starts or (before in _TENS and 0 < _SMALL[word] < 10)):
            below += _SMALL[word]
        elif word in _TENS and starts:
            below += _TENS[word]
        elif word == "hundred" and before in _SMALL and 0 < below < 10:
            below *= 100
        elif scale and 0 < below < 1000 and scale < least and before != "and":
            total, below, least = total + below * scale, 0, scale
        elif word != "and" or not (before == "hundred" or before in _SCALES):
            return None
        before = word
    return total + below if said and before != "and" else None
