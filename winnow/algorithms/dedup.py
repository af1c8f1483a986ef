"""Which completions count as the same reasoning path, or the same text. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from winnow.types import Group

_CALCULATION = re.compile(r"<<([^<>]+)>>")
_NUMBER = r"[-(]*\$?\d[\d.,]*+%?\)*"
# A sum is read once, whether or not a result follows, and no number, bracket or sign starts inside
# what was tried: linear in the text.
_START = r"(?:(?<![\d.,(-])|(?<=[\d.,][(-]))"
_EQUATION = re.compile(rf"{_START}{_NUMBER}(?:\s*[-+*/x×÷]\s*{_NUMBER})++(\s*=\s*-?\$?[\d.,]*\d)?")


def reasoning_path(text: str) -> tuple[str, ...]:
    """The reasoning path of a completion: its equations, normalized.

    Those in calculator annotations (`<<16-3-4=9>>`) if there are any, else those in the text; else
    its words, lower-cased, white space folded.
    """
    written = (match.group() for match in _EQUATION.finditer(text) if match.group(1))
    found = _CALCULATION.findall(text) or list(written)
    if found:
        return tuple(_normalise(equation) for equation in found)
    return ("text:" + folded(text),)


def folded(text: str) -> str:
    """A text lower-cased, its white space folded."""
    return " ".join(text.lower().split())


def _normalise(equation: str) -> str:
    folded = re.sub(r"[\s,$%]", "", equation).replace("×", "*").replace("÷", "/").replace("x", "*")
    folded = re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", folded)
    return re.sub(r"\.(?!\d)", "", folded)


def first_of_each(
    group: Group, alive: Sequence[bool], key: Callable[[str], object], what: str
) -> list[str | None]:
    """Reject a sample with the key of an earlier one that is still alive."""
    first: dict[object, int] = {}
    reasons: list[str | None] = []
    for index, (sample, lives) in enumerate(zip(group.samples, alive, strict=True)):
        seen = first.setdefault(key(sample.text), index) if lives else index
        reasons.append(None if seen == index else f"same {what} as sample {seen}")
    return reasons
