"""Numbers as a line of small bars. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-~=+*#"
WIDTH = 60
"""Columns that a line of `trend` has at most."""


def sparkline(values: Sequence[float | None], width: int, bars: str = BARS) -> str:
    """Numbers as bars, the lowest of them as the first bar and the highest as the last.

    Args:
        values: A space where there is none, or it is not finite.
        width: Most bars; where there are more numbers, each is a mean of neighbours.
        bars: From low to high.
    """
    means = shortened([v if v is not None and math.isfinite(v) else None for v in values], width)
    there = [mean for mean in means if mean is not None]
    if not there:
        return " " * len(means)
    low, span = min(there), max(there) - min(there)

    def bar(mean: float | None) -> str:
        if mean is None:
            return " "
        share = (mean - low) / span if span > 0 else 0.5
        return bars[min(int(share * len(bars)), len(bars) - 1)]

    return "".join(map(bar, means))


def shortened(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most so many numbers: means over neighbours, of as equal number as can be."""
    size, count = len(values), min(len(values), width)
    parts = [values[i * size // count : (i + 1) * size // count] for i in range(count)]
    there = [[value for value in part if value is not None] for part in parts]
    return [math.fsum(part) / len(part) if part else None for part in there]


def trend(
    label: str,
    values: Sequence[float | None],
    form: str,
    *,
    width: int = WIDTH,
    ascii: bool = False,
) -> str | None:
    """A line of a label, bars, and the first and the last number.

    Args:
        form: Format of the numbers.
        width: Columns of the whole line.
        ascii: Without any other character.

    Returns:
        ``None`` for fewer than two numbers.
    """
    there = [value for value in values if value is not None and math.isfinite(value)]
    if len(there) < 2:
        return None
    ends = f"{there[0]:{form}} {'->' if ascii else '→'} {there[-1]:{form}}"
    room = max(1, width - len(label) - len(ends) - 2)
    return f"{label} {sparkline(values, room, ASCII_BARS if ascii else BARS)} {ends}"


def trends(
    steps: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    *,
    width: int = WIDTH,
    ascii: bool = False,
) -> list[str]:
    """The lines of a run's mean reward and held-out accuracy; none of what has no two numbers.

    Args:
        steps, evaluations: Rows of metrics.jsonl and evals.jsonl. The reward is that of steps that
            sampled: of recorded samples it does not change with the policy.
    """
    rewards = [row.get("reward_mean") for row in steps if row.get("tokens_sampled")]
    accuracies = [row.get("accuracy") for row in evaluations if row.get("split") == "eval"]
    lines = (
        trend("reward  ", rewards, ".3f", width=width, ascii=ascii),
        trend("held-out", accuracies, ".1%", width=width, ascii=ascii),
    )
    return [line for line in lines if line is not None]


def writable(text: str, encoding: str) -> bool:
    """Whether an encoding has every character of a text."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
