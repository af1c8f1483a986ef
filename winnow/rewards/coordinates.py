"""Coordinates by their names: tuples whose parts are named, equations of x and y."""

from __future__ import annotations

import re
from string import ascii_lowercase

from winnow.rewards.formulas import Parts

_COMMANDS = re.compile(r"\\(?:[dt]?frac|sqrt|left|right|cdot)(?![A-Za-z])")
_LETTERS = re.compile(r"[^\W\d_]")
_ABOUT = re.compile(r"\s*([xyz])\s*=")
_LONE = re.compile(r"\s*([A-Za-z])\s*=")
_FUNCTION = r"\\(?:ln|log|exp|sin|cos|tan|sqrt|frac|neq?)(?![A-Za-z])"
_INDEXED = re.compile(r"[A-Za-z]_(?:\d|\{\d\})")


def as_coordinates(several: Parts, others: Parts) -> tuple[Parts, Parts]:
    """The same, ``x = 1, y = 2`` as ``(1, 2)`` where the other is a tuple.

    Neighbours in the alphabet and names with indices are put in order; ``m = 2, b = 3`` stays.
    """
    return _ordered(several, others), _ordered(others, several)


def are_curves(gold: str, said: str) -> bool:
    """Whether both are equations of x, y and perhaps z, in forms that differ.

    ``y = 2x + 1`` and ``2x - y + 1 = 0``: not two that say what y is.
    """
    about = [match[1] if (match := _ABOUT.match(each)) else "" for each in (gold, said)]
    return about[0] != about[1] and is_curve(gold) and is_curve(said)


def is_of_another(gold: str, said: str) -> bool:
    r"""Whether one says what a letter is, the other what a function of it is: ``\ln x = 5``."""
    return _takes(gold, said) or _takes(said, gold)


def _takes(lone: str, other: str) -> bool:
    letter = _LONE.match(lone)
    if letter is None or "=" not in other:
        return False
    of = rf"(?<![A-Za-z\\]){letter[1]}(?![A-Za-z])"
    name = other.partition("=")[0]
    return bool(re.search(rf"{_FUNCTION}.*{of}|[fgh]\s*\(\s*{of}|\|\s*{of}\s*\|", name))


def is_curve(formula: str) -> bool:
    """Whether it is an equation of x, y and perhaps z."""
    letters = set(_LETTERS.findall(_COMMANDS.sub(" ", formula)))
    return {"x", "y"} <= letters <= {"x", "y", "z"} and formula.count("=") == 1


def _ordered(named: Parts, tuple_: Parts) -> Parts:
    names = named.names
    plain_tuple = tuple_.bracket == "(" and not tuple_.names
    if not plain_tuple or named.bracket or not 1 < len(set(names)) == len(named.items):
        return named
    letters = "".join(sorted(names))
    follow = len(letters) == len(names) and letters.lower() in ascii_lowercase
    indexed = len({name[0] for name in names}) == 1 and all(map(_INDEXED.fullmatch, names))
    items = dict(zip(names, named.items, strict=True))
    return Parts(
        tuple(items[name] for name in (sorted(names) if follow or indexed else names)), (), "("
    )
