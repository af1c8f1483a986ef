"""A server's words as they may be shown: short, on one line, without the key."""

from __future__ import annotations

import re

from winnow.errors import printable

_LONGEST = 300
_READ = 10_000  # characters of what it said that are looked at
_LEAST = 6  # characters of the key in a row that are hidden wherever they stand
_HINT = 3  # likewise at the ends of a word in which something is left out
_LEFT_OUT = re.compile(r"[^\s'\"`]*(?:\*{2,}|\.{3}|…)[^\s'\"`]*")  # such as sk-ab***yz
_MASK = "(key)"


def quoted(text: str, key: str | None) -> str:
    """The text on one short line, no part of the key in it, unprintable characters escaped."""
    line = " ".join(text[:_READ].split())
    if key:
        line = _without(line, key)
    line = printable(line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _without(line: str, key: str) -> str:
    def hint(word: re.Match[str]) -> str:
        shown = word[0].strip(".,:;()[]{}")
        tells = shown[:_HINT] == key[:_HINT] or shown[-_HINT:] == key[-_HINT:]
        return _MASK if tells else word[0]

    return _parts_masked(_LEFT_OUT.sub(hint, _parts_masked(line, key, len(key))), key, _LEAST)


def _parts_masked(line: str, key: str, least: int) -> str:
    """The line with every longest run of at least so many characters of the key masked."""
    made, place, least = "", 0, min(least, len(key))
    while place < len(line):
        end = place + least
        if end <= len(line) and line[place:end] in key:
            while end < len(line) and line[place : end + 1] in key:
                end += 1
            made += _MASK
            place = end
        else:
            made += line[place]
            place += 1
    return made
