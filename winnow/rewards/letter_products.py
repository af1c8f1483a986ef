"""Products of variables that look like words or units: ``2ab``, ``xy``."""

from __future__ import annotations

import re

from winnow.rewards.notation import plain
from winnow.rewards.numbers import UNITS

_RUN = re.compile(r"(?P<number>-?[0-9][0-9.,/]*)?(?P<letters>[A-Za-z]{2,3})")
_LETTERS = r"(?P<letters>[A-Za-z]{2,3})(?![A-Za-z])(?!\s+[A-Za-z]{2})(?P<power>\s*(?:\^|[²³]))?"
"""Where no other word follows."""
_AFTER_NUMBER = re.compile(rf"(?<=[0-9)}}]){_LETTERS}")
_AFTER_FRACTION = re.compile(
    r"\\[dt]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|[0-9]\s*[0-9])\s*" + _LETTERS
)
_AFTER_BRACKET = re.compile(rf"[0-9]\s*\)\s*(?![{UNITS}](?![A-Za-z^]))[A-Za-z](?![A-Za-z])")
_AFTER_SLASH = re.compile(r"[0-9]\s*/\s*(?P<letters>[A-Za-z]{1,2})(?![A-Za-z])(?P<power>)")
_NEVER_BELOW = frozenset("AVWJNCFw")
"""Units that nothing is counted by: 1/N is no number, 5/h and 5/g are."""
_UPRIGHT = re.compile(r"\\(?:text|math|mbox|hbox)")
_VARIABLES = re.compile(r"[xyz]{2,3}|[a-z]{2}")
"""Letters without a number that are a product: other runs may be an order (``bca``) or a name."""
_OF_UNITS = """
    nm um mm cm dm km in ft yd mi ly au pc ha sq cc ml cl dl kl gal pt pts qt cup tsp
    fg pg ng ug mg cg dg kg gm gr gms kgs lb lbs oz st ton
    ms ns us sec min hr hrs yr yrs mo wk day mth bps bpm rpm fps mph kph kmh kmp kn kt kts
    hz khz mhz ghz thz ev kev mev gev kj mj gj gn kw mw gw kwh wh mwh kv mv ah mah
    pa kpa mpa gpa hpa bar atm psi torr mol cal deg rad sr db dba ohm lux lm bq gy sv tw
    bit kb mb gb tb pb kib mib gib px dpi
    am pm ce bce nd rd th
    usd eur gbp cad aud inr jpy cny rmb chf sgd hkd nzd zar brl mxn php pkr rub try yen won cts
    wks mos yds tbs men per ppl thb mc tev
    pcs ea doz set mil mio mln mrd bn tn pp ppm ppb pct pi ln lg log sin cos tan exp mod"""
_UNITS = frozenset(_OF_UNITS.split())
"""Units, ordinals, currencies and functions of two or three letters, in small letters."""
_RAISED = frozenset(
    ["nm", "um", "mm", "cm", "dm", "km", "in", "ft", "yd", "mi", "sec", "min", "hr"]
)
"""Of them those that have powers: areas, volumes, accelerations."""
_OF_WORDS = """
    ah an as at ax be by do eh em en go he hi if is it la lo me my no nu of oh ok on or ow ox so to
    uh up we xi ya ye"""
_WORDS = frozenset(_OF_WORDS.split())


def is_unit(letters: str) -> bool:
    """Whether two or three letters are a unit, an ordinal, a currency or a function."""
    return letters.lower() in _UNITS


def is_product(formula: str, other: bool = False) -> bool:
    r"""Whether letters, or a number and letters, are a product of variables.

    ``2ab`` is and ``2mm`` is not; ``xy`` is and ``no`` is not. What is upright
    (``5\text{pcs}``) never is.

    Args:
        other: Whether it may stand for a formula that is no word: ``mn`` for ``n \cdot m``.
    """
    match = None if _UPRIGHT.search(formula) else _RUN.fullmatch(formula.strip("$ .()"))
    if match is None:
        return False
    letters = match["letters"]
    if match["number"]:
        return not is_unit(letters)
    if other:
        return letters.islower()
    return bool(_VARIABLES.fullmatch(letters)) and letters not in _UNITS | _WORDS


def has_variables(formula: str, text: str) -> bool:
    r"""Whether what touches the number of a formula are variables: ``2ab``, ``\frac52 ab``.

    Args:
        text: The formula in plain notation.
    """
    if _UPRIGHT.search(formula):
        return False
    behind = _variables(_AFTER_FRACTION.search(formula)).lower()
    if behind and behind not in _WORDS:
        return True
    below = _AFTER_SLASH.search(text)
    if below and (below["letters"] in _NEVER_BELOW or is_product(below["letters"])):
        return True
    return bool(_variables(_AFTER_NUMBER.search(text)) or _AFTER_BRACKET.search(text))


def variables_at(text: str, place: int) -> str:
    """The variables that touch the number that ends there; empty for a unit or a word."""
    return _variables(_AFTER_NUMBER.match(text, place))


def _variables(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    letters = match["letters"]
    return "" if letters.lower() in (_RAISED if match["power"] else _UNITS) else letters


def same_product(one: str, other: str) -> bool:
    """Whether of two numbers with letters, of which one is a product, all factors are the same.

    The other may look like a number with its unit: ``2nm`` of ``2mn``, ``2 ab`` of ``2ab``.
    """
    texts = ["".join(plain(text).strip("$ .()").split()) for text in (one, other)]
    factors = [_factors(text) for text in texts]
    same = factors[0] is not None and factors[0] == factors[1]
    return same and any(map(is_product, texts))


def _factors(text: str) -> tuple[str, list[str]] | None:
    """The number and the letters, in order; ``None`` if it is anything else."""
    match = _RUN.fullmatch(text)
    return (match["number"], sorted(match["letters"])) if match and match["number"] else None
