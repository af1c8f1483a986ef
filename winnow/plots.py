"""Pictures of what n answers buy, and of over-optimisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from winnow.choosing import Curves, Point
from winnow.disk import whole
from winnow.errors import UserError
from winnow.overoptimisation import Study, fitted

_KINDS = (".svg", ".png", ".pdf")
_COLOURS = {"one": "#1b6ca8", "two": "#c8553d", "three": "#5a8f3c", "faint": "#8a8a8a"}


def check_picture(path: Path) -> None:
    """See that a picture can be drawn there.

    Raises:
        UserError: a kind of file that is not known.
    """
    if path.suffix not in _KINDS:
        raise UserError(f"plot: {path} is none of {', '.join(_KINDS)}")


def draw_curves(curves: Curves, path: Path, chooser: str, by_score: bool) -> None:
    """pass@n, best-of-n and the vote against n."""
    figure, axes = _figure()
    lines = [("pass@n: one of n is right", curves.passes, "faint")]
    if by_score:
        lines.append((f"best of n by {chooser}", curves.best, "one"))
    if curves.majority:
        lines.append(("vote of n", curves.majority, "two"))
    for label, points, colour in lines:
        _line(axes, points, label, _COLOURS[colour])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("answers drawn for each prompt, n")
    axes.set_ylabel("share of prompts answered rightly")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_study(study: Study, path: Path, proxy: str, gold: str) -> None:
    """Proxy and gold against sqrt(KL), with the fit to gold."""
    figure, axes = _figure()
    d = np.sqrt([max(point.kl, 0.0) for point in study.points])
    smooth = np.linspace(0, d.max(), 200)
    axes.plot(smooth, fitted(smooth, study), color=_COLOURS["two"], linewidth=1, linestyle="--")
    _band(axes, d, [p.gold for p in study.points], f"gold: {gold}", _COLOURS["two"])
    other = axes.twinx()
    _band(other, d, [p.proxy for p in study.points], f"proxy: {proxy}", _COLOURS["one"])
    other.set_ylabel("mean proxy score", color=_COLOURS["one"])
    axes.set_ylabel("mean gold score (dashed: fit)", color=_COLOURS["two"])
    labels = "n" if study.form == "best-of-n" else "steps"
    axes.set_xlabel(f"sqrt(KL), KL in nats; the labels are {labels}")
    for x, point in zip(d, study.points, strict=True):
        axes.annotate(
            str(point.at),
            (x, point.gold.value),
            textcoords="offset points",
            xytext=(0, -12),
            ha="center",
            fontsize=8,
            color=_COLOURS["two"],
        )
    lines = axes.get_lines()[1:] + other.get_lines()
    axes.legend(lines, [line.get_label() for line in lines], frameon=False, loc="upper left")
    other.spines["right"].set_visible(True)
    _save(figure, path)


def _figure() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.4), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _line(axes: Any, points: Sequence[Point], label: str, colour: str) -> None:
    x = [point.n for point in points]
    axes.plot(x, [p.value for p in points], marker="o", markersize=4, label=label, color=colour)
    if all(p.low is not None for p in points):
        axes.fill_between(
            x,
            [p.low for p in points],
            [p.high for p in points],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )


def _band(axes: Any, x: Any, values: Sequence[Any], label: str, colour: str) -> None:
    axes.plot(x, [v.value for v in values], marker="o", markersize=4, label=label, color=colour)
    axes.fill_between(
        x, [v.low for v in values], [v.high for v in values], color=colour, alpha=0.15, linewidth=0
    )
    axes.spines["top"].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    whole(path, lambda partial: figure.savefig(partial, format=path.suffix[1:], dpi=150))
    pyplot.close(figure)
