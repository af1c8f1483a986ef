"""Dates with the name of a month: ``July 4``, ``the 4th of July, 1776``."""

from __future__ import annotations

import re

from winnow.rewards.notation import plain

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_DAY = r"[0-9]{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"(?<![^\W_])(?:{_MONTH}\s+{_DAY}|(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH})(?:,?\s+[0-9]{{4}})?(?!\w)"
    rf"|(?<![^\W_]){_MONTH},?\s+[0-9]{{4}}(?!\w)",
    re.IGNORECASE,
)
_PARTS = re.compile(r"[0-9]+|[a-z]{3,}")


def date_of(formula: str) -> str | None:
    """A date as it is compared, its parts in order: ``4 jul``; ``None`` for anything else."""
    match = _DATE.fullmatch(plain(formula).strip("$*()\"' ."))
    if match is None:
        return None
    parts = (part for part in _PARTS.findall(match[0].lower()) if part != "the")
    return " ".join(sorted(part[:3] if part.isalpha() else part.lstrip("0") for part in parts))


def date_at(text: str, place: int) -> str | None:
    """The date that a place of a text is in, as it is written there."""
    start = max(0, place - 24)
    for match in _DATE.finditer(text, start, place + 40):
        if match.start() <= place < match.end():
            return match[0]
    return None
