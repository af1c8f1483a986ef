"""Plots of runs, of curves over n, and of over-optimization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from winnow.errors import UserError, choices
from winnow.evaluation.curves import Curves, Point
from winnow.evaluation.overoptimisation_fit import Measured, Study, fitted
from winnow.storage.atomic import whole
from winnow.storage.reading import has_folder

_KINDS = (".png", ".pdf", ".svg")
_COLOURS = {"one": "#1b6ca8", "two": "#c8553d", "faint": "#8a8a8a"}
_APART = 0.045
"""Least distance of two labels, as a share of the axis."""


def check_picture(path: Path) -> None:
    """Raise a `UserError` for a wrong path of a picture, or without Matplotlib."""
    if path.suffix not in _KINDS:
        raise UserError("plot", f"unknown kind of picture {path.name!r}", choices(_KINDS))
    if not has_folder(path.absolute().parent, "plot"):
        raise UserError("plot", f"no folder {path.parent}")
    if path.is_dir():
        raise UserError("plot", f"{path} is a folder", "name a file")
    if find_spec("matplotlib") is None:
        raise UserError("plot", "pictures need Matplotlib", "pip install matplotlib")


def plot_curves(curves: Curves, path: Path, chooser: str, prompts: int) -> None:
    """pass@n, and best-of-n or the vote, against n."""
    figure = _figure(4.6)
    axes = figure.subplots()
    _plain(axes)
    lines = [("pass@n: one of the n answers is right", curves.passes, "faint")]
    if curves.best and _alike(curves.best, curves.passes):  # the same, by the verifier
        lines = [(f"pass@n, and best of n by {_short(chooser)}", curves.best, "one")]
    elif curves.best:
        lines.append((f"best of n by {_short(chooser)}", curves.best, "one"))
    if curves.majority:
        lines.append((f"{_short(chooser)} vote of n", curves.majority, "two"))
    ns = [point.n for point in curves.passes]
    for label, points, colour in lines:
        _line(axes, ns, points, label, _COLOURS[colour])
    axes.set_xscale("log", base=2)
    shown = spaced(np.log2(ns)) if len(ns) > 1 else [0]
    axes.set_xticks([ns[i] for i in shown], [f"{ns[i]}" for i in shown])
    axes.minorticks_off()
    axes.set_xlabel("answers sampled for each prompt, n")
    axes.set_ylabel("prompts answered rightly")
    axes.set_ylim(0, 1.02)
    axes.set_yticks(np.linspace(0, 1, 6), [f"{share:.0%}" for share in np.linspace(0, 1, 6)])
    bands = f"{prompts} prompts; bands: 95 % intervals over prompts"
    figure.legend(loc="outside upper left", frameon=False, title=bands, alignment="left")
    _save(figure, path)


def plot_study(study: Study, path: Path, proxy: str, gold: str) -> None:
    """Gold with its fit, and below it the proxy, against sqrt(KL)."""
    figure = _figure(6.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    d = np.sqrt([max(point.kl, 0.0) for point in study.points])
    order = np.argsort(d, kind="stable")
    smooth = np.linspace(0, d.max(), 200)
    at = "n" if study.form == "best-of-n" else "step"
    for axes in (above, below):
        _plain(axes)
    _band(above, d, [p.gold for p in study.points], f"gold: {_short(gold)}", _COLOURS["two"])
    if np.isfinite(study.alpha.value):
        fit = "gold, fitted: d (α − β d)" if at == "n" else "gold, fitted: d (α − β log d)"
        above.plot(smooth, fitted(smooth, study), color="#333333", linestyle="--", label=fit)
    _band(below, d, [p.proxy for p in study.points], f"proxy: {_short(proxy)}", _COLOURS["one"])
    above.set_ylabel("mean gold score")
    below.set_ylabel("mean proxy score")
    below.set_xlabel(
        "d = √KL of best-of-n to the sampling policy (plug-in), KL in nats; at the points: n"
        if at == "n"
        else "d = √KL to the starting policy, KL in nats; at the points: the step"
    )
    for axes, values in ((above, "gold"), (below, "proxy")):
        for i in (order[place] for place in spaced(d[order])):
            point = study.points[i]
            axes.annotate(
                str(point.at),
                (d[i], getattr(point, values).value),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
            )
    start = "its highest" if study.drop_from is None else f"{at} = {study.drop_from}"
    drop, end = study.drop, study.points[-1].at
    title = (
        f"{study.prompts} prompts; bands: 95 % intervals over prompts\n"
        f"drop of gold from {start} to {at} = {end}: "
        f"{drop.value:.3g} [{drop.low:.3g}, {drop.high:.3g}]"
    )
    figure.legend(loc="outside upper left", frameon=False, title=title, alignment="left")
    _save(figure, path)


def run_figure(steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> Any:
    """Reward, held-out accuracy with its band, kinds of prompts, and entropy, against the step.

    Args:
        steps, evaluations: Rows of metrics.jsonl and evals.jsonl.

    Returns:
        A Matplotlib `Figure`; a notebook shows it.
    """
    figure = _figure(5.4)
    (reward, accuracy), (kinds, entropy) = figure.subplots(2, 2, sharex=True)
    for axes, title in (
        (reward, "mean reward of the samples"),
        (accuracy, "held-out accuracy, 95 % intervals"),
        (kinds, "prompts of a step"),
        (entropy, "entropy, nats a token"),
    ):
        _plain(axes)
        axes.set_title(title, fontsize=10, loc="left")
    at = [row["step"] for row in steps]
    reward.plot(at, _column(steps, "reward_mean"), color=_COLOURS["one"])
    entropy.plot(at, _column(steps, "entropy"), color=_COLOURS["one"])
    held_out = [row for row in evaluations if row.get("split", "eval") == "eval"]
    when = [row["step"] for row in held_out]
    found, low, high = (_column(held_out, key) for key in ("accuracy", "low", "high"))
    accuracy.plot(when, found, color=_COLOURS["two"], marker="o", markersize=4)
    accuracy.fill_between(when, low, high, color=_COLOURS["two"], alpha=0.15, linewidth=0)
    names = ("prompts_all_wrong", "prompts_mixed", "prompts_all_right")
    shades = (_COLOURS["two"], "#d9d9d9", _COLOURS["one"])
    labels = [name.removeprefix("prompts_").replace("_", " ") for name in names]
    counts = [np.nan_to_num(_column(steps, name)) for name in names]
    kinds.stackplot(at, *counts, labels=labels, colors=shades, alpha=0.8)
    kinds.legend(frameon=False, fontsize=8, loc="lower left", ncols=3)
    for axes in (kinds, entropy):
        axes.set_xlabel("step")
    figure._repr_png_ = lambda: _png(figure)  # a notebook without pyplot knows no other way
    return figure


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> Any:
    """A number a row, NaN where there is none: a gap in the line."""
    return np.array([row.get(key) for row in rows], dtype=np.float64)


def _png(figure: Any) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def spaced(places: Sequence[float] | np.ndarray[Any, Any]) -> list[int]:
    """Which labels to show, the first and last among them, so that none overlap.

    Args:
        places: Of the labels, in ascending order.
    """
    room = _APART * (places[-1] - places[0])
    shown = [0]
    for i in range(1, len(places) - 1):
        if places[i] - places[shown[-1]] >= room and places[-1] - places[i] >= room:
            shown.append(i)
    return [*shown, len(places) - 1] if len(places) > 1 else shown


def _alike(ones: Sequence[Point], others: Sequence[Point]) -> bool:
    return all(abs(one.value - other.value) < 1e-9 for one, other in zip(ones, others, strict=True))


def _short(name: str) -> str:
    """A reward's name, cut to fit a legend: its end says most."""
    return name if len(name) <= 40 else f"…{name[-39:]}"


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure  # not pyplot: that keeps figures, and picks a screen

    return Figure(figsize=(7, height), layout="constrained")


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def _line(axes: Any, ns: Sequence[int], points: Sequence[Point], label: str, colour: str) -> None:
    values = [point.value for point in points]
    axes.plot(ns, values, marker="o", markersize=4, label=label, color=colour)
    if all(point.low is not None for point in points):
        low, high = [point.low for point in points], [point.high for point in points]
        axes.fill_between(ns, low, high, color=colour, alpha=0.15, linewidth=0)


def _band(axes: Any, x: Any, values: Sequence[Measured], label: str, colour: str) -> None:
    order = np.argsort(x, kind="stable")
    axes.plot(x, [v.value for v in values], marker="o", markersize=4, label=label, color=colour)
    axes.fill_between(
        x[order],
        [values[i].low for i in order],
        [values[i].high for i in order],
        color=colour,
        alpha=0.15,
        linewidth=0,
    )


def _save(figure: Any, path: Path) -> None:
    whole(path, lambda partial: figure.savefig(partial, format=path.suffix[1:], dpi=150))
