"""A run as HTML for a notebook: its last steps, and a picture of its reward and accuracy. Pure.

Everything that comes from a folder is escaped, and there are no scripts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from winnow.errors import number_of, printable
from winnow.reporting.step_table import formatted

Row = Mapping[str, Any]

_LAST = 10
"""Steps in the table."""
_WIDTH, _HEIGHT, _LEFT, _BELOW = 560, 190, 44, 34
"""Of the picture, and the room for the numbers beside it and below it, in pixels."""
_REWARD, _ACCURACY = "#1b6ca8", "#c8553d"


def run_html(name: str, steps: Sequence[Row], evaluations: Sequence[Row]) -> str:
    """A table and a picture, as far as there is something to show.

    Args:
        steps, evaluations: Rows of metrics.jsonl and evals.jsonl.
    """
    held_out = [row for row in evaluations if row.get("split", "eval") == "eval"]
    told = [number_of(len(steps), "step")] if steps else []
    told += [number_of(len(evaluations), "evaluation")] if evaluations else []
    title = f"<p><b>{_text(name)}</b> {', '.join(told) or 'no steps yet'}</p>"
    parts = [title, _picture(steps, held_out)]
    if steps:
        parts.append(_table(_OF_STEPS, steps[-_LAST:]))
    elif evaluations:
        parts.append(_table(_OF_EVALUATIONS, evaluations[-_LAST:]))
    return f"<div>{''.join(parts)}</div>"


def _text(value: object) -> str:
    return escape(printable(str(value)))


def _number(key: str, form: str) -> Callable[[Row], str]:
    return lambda row: formatted(_finite(row.get(key)), form)


def _interval(value: str, low: str, high: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        there = [_finite(row.get(key)) for key in (value, low, high)]
        shown = formatted(there[0], ".1%")
        if there[1] is None or there[2] is None:
            return shown
        return f"{shown} [{there[1]:.1%}, {there[2]:.1%}]"

    return cell


def _of(*keys: str) -> Callable[[Row], str]:
    return lambda row: "/".join(str(row.get(key, "-")) for key in keys)


_OF_STEPS: Mapping[str, Callable[[Row], str]] = {
    "step": _of("step"),
    "reward": _number("reward_mean", ".3f"),
    "trained": _of("samples_trained", "samples"),
    "wrong/mixed/right": _of("prompts_all_wrong", "prompts_mixed", "prompts_all_right"),
    "entropy": _number("entropy", ".3f"),
    "gradient": _number("grad_norm", ".3g"),
    "held-out accuracy": _interval("eval_accuracy", "eval_low", "eval_high"),
}
_OF_EVALUATIONS: Mapping[str, Callable[[Row], str]] = {
    "step": _of("step"),
    "split": _of("split"),
    "accuracy": _interval("accuracy", "low", "high"),
    "reward": _number("reward", ".3f"),
    "prompts": _of("prompts"),
    "samples": _of("samples"),
}


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    heads = "".join(f"<th>{_text(name)}</th>" for name in columns)
    lines = ["".join(f"<td>{_text(cell(row))}</td>" for cell in columns.values()) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    head = f"<thead><tr>{heads}</tr></thead>"
    return f'<table style="white-space:nowrap">{head}<tbody>{body}</tbody></table>'


Point = tuple[float, float]


def _picture(steps: Sequence[Row], held_out: Sequence[Row]) -> str:
    """Mean reward of the samples, and held-out accuracy with its interval, against the step."""
    reward = _points(steps, "reward_mean")
    accuracy, low, high = (_points(held_out, key) for key in ("accuracy", "low", "high"))
    if len(reward) < 2 and len(accuracy) < 2:
        return ""
    values = [y for points in (reward, accuracy, low, high) for _, y in points]
    bottom, top = min(*values, 0.0), max(*values, 1.0)
    last = max(x for points in (reward, accuracy) for x, _ in points) or 1.0

    def at(point: Point) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 8) * point[0] / last
        y = 8 + (_HEIGHT - _BELOW - 8) * (top - point[1]) / (top - bottom)
        return f"{x:.1f},{y:.1f}"

    def line(points: Sequence[Point], colour: str) -> str:
        where = " ".join(map(at, points))
        return f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    around = " ".join(map(at, [*low, *reversed(high)]))
    parts = [f'<polygon points="{around}" fill="{_ACCURACY}" opacity="0.15"/>'] if around else []
    parts += [line(reward, _REWARD), line(accuracy, _ACCURACY)]
    for y in (bottom, top):
        left, _, height = at((0.0, y)).partition(",")
        parts.append(
            f'<line x1="{left}" x2="{_WIDTH - 8}" y1="{height}" y2="{height}" '
            'stroke="currentColor" opacity="0.2"/>'
            + _label(_LEFT - 6, float(height) + 4, f"{y:.3g}", "end")
        )
    under = _HEIGHT - _BELOW + 16
    parts += [
        _label(_LEFT, under, "step 0", "start"),
        _label(_WIDTH - 8, under, f"{last:.0f}", "end"),
        _label(_LEFT, under + 15, "mean reward of the samples", "start", _REWARD),
        _label(_LEFT + 200, under + 15, "held-out accuracy, 95 %", "start", _ACCURACY),
    ]
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        'role="img" aria-label="mean reward and held-out accuracy by step" '
        'font-family="sans-serif" font-size="12">' + "".join(parts) + "</svg>"
    )


def _label(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {where}>{_text(text)}</text>"


def _points(rows: Sequence[Row], key: str) -> list[Point]:
    found = [(_finite(row.get("step")), _finite(row.get(key))) for row in rows]
    return [(x, y) for x, y in found if x is not None and y is not None]


def _finite(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None  # type: ignore[arg-type]
