"""The built-in generator: few-shot arithmetic of chosen operations and digits."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from winnow.config.schema.prompts import PromptsConfig
from winnow.errors import UserError
from winnow.prompts.columns import RowError
from winnow.prompts.rows import conversation, fill
from winnow.types import Prompt

_ENUMERABLE = 1_000_000
_SHOTS = {("+", 2): ((12, 7), (30, 24), (8, 65))}
"""Examples that a small model is known to follow; those of other kinds are random."""


def arithmetic(config: PromptsConfig, seed: int) -> list[Prompt]:
    """Distinct problems `a + b =`, the kinds (operation x digits) mixed as evenly as they last.

    A template may fill in `question`, `answer`, `a`, `b` and `op`.

    An operand of d digits is uniform over 10^(d-1) .. 10^d - 1 (0 .. 9 for one digit). Difficulties
    are labeled by digits and operation. `12 + 34` and `34 + 12` are one family; a problem that is
    an example is never asked.

    Raises:
        UserError: the template names another column.
    """
    kinds = list(dict.fromkeys((op, d) for op in config.operations for d in config.digits))
    streams = [
        _pairs(digits, np.random.default_rng([seed, ord(op), digits])) for op, digits in kinds
    ]
    made: list[Prompt] = []
    shown = {kind: _shown(*kind, config.template) for kind in kinds}
    unfinished = list(zip(kinds, streams, strict=True))
    while unfinished and len(made) < config.size:
        for item in list(unfinished):
            kind, stream = item
            pair = next(stream, None)
            if pair is None:
                unfinished.remove(item)
            elif _family(kind[0], *pair) not in shown[kind]:
                made.append(_prompt(*kind, *pair, config))
    return made[: config.size]


def _prompt(op: str, digits: int, a: int, b: int, config: PromptsConfig) -> Prompt:
    question = f"{a} {op} {b} ="
    answer = str(_result(op, a, b))
    row = {"question": question, "answer": answer, "a": str(a), "b": str(b), "op": op}
    if config.template is None:
        shots = "".join(f"{x} {op} {y} = {_result(op, x, y)}\n" for x, y in _examples(op, digits))
        text = shots + question
    else:
        try:
            text = fill(config.template, row)
        except RowError as error:
            raise UserError(error.field, f"'arithmetic' {error.what}", error.remedy) from error
    return Prompt(
        id=f"{a}{op}{b}",
        text=text,
        answer=answer,
        difficulty=f"{digits}-digit {op}",
        data=row,
        messages=conversation(text, config),
        family=_family(op, a, b),
    )


def _result(op: str, a: int, b: int) -> int:
    return a + b if op == "+" else a - b if op == "-" else a * b


def _family(op: str, a: int, b: int) -> str:
    return f"{min(a, b)}{op}{max(a, b)}"


def _examples(op: str, digits: int) -> tuple[tuple[int, int], ...]:
    known = _SHOTS.get((op, digits))
    if known is not None:
        return known
    rng = np.random.default_rng([ord(op), digits])
    low, high = _bounds(digits)
    return tuple((a, b) for a, b in rng.integers(low, high + 1, size=(3, 2)).tolist())


def _shown(op: str, digits: int, template: str | None) -> set[str]:
    if template is None:
        return {_family(op, a, b) for a, b in _examples(op, digits)}
    written = re.findall(rf"(\d+)\s*{re.escape(op)}\s*(\d+)", template)
    return {_family(op, int(a), int(b)) for a, b in written}


def _bounds(digits: int) -> tuple[int, int]:
    return (0 if digits == 1 else 10 ** (digits - 1)), 10**digits - 1


def _pairs(digits: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Distinct pairs of operands in random order, endless where there are very many."""
    low, high = _bounds(digits)
    span = high - low + 1
    if span * span <= _ENUMERABLE:
        for index in rng.permutation(span * span).tolist():
            yield low + index // span, low + index % span
        return
    seen: set[tuple[int, int]] = set()
    while True:
        a, b = rng.integers(low, high + 1, size=2).tolist()
        if (a, b) not in seen:
            seen.add((a, b))
            yield a, b
