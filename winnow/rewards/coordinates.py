"""Tuples whose parts are named."""

from __future__ import annotations

import re
from string import ascii_lowercase

from winnow.rewards.formulas import Parts

_INDEXED = re.compile(r"[A-Za-z]_(?:\d|\{\d\})")


def as_coordinates(several: Parts, others: Parts) -> tuple[Parts, Parts]:
    """The same, ``x = 1, y = 2`` as ``(1, 2)`` where the other is a tuple.

    Neighbours in the alphabet and names with indices are put in order; ``m = 2, b = 3`` stays.
    """
    return _ordered(several, others), _ordered(others, several)


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
