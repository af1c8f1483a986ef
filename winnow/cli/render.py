"""Results of commands as text: tables, reports, and the notes below them."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.table import ALGORITHMS
from winnow.reporting.console import Console

if TYPE_CHECKING:
    from winnow.engines.reward_models.trainer import FitResult
    from winnow.evaluation.best_of import BestOf
    from winnow.evaluation.overoptimisation_fit import Measured, Study
    from winnow.rollouts.selected import Selected
    from winnow.theory.drops import Drop


_HELP = 44
"""Where the comments behind settings begin."""
_NARROW = 32
"""Where there is less room for them, they are below."""


def settings_recipe(rows: Sequence[Mapping[str, Any]], width: int | None) -> Iterator[str]:
    """The lines of a recipe with every setting; what has no default is commented out.

    Args:
        rows: What `describe` gives.
        width: Of the terminal; ``None``: a line a setting, however long.
    """
    for row in rows:
        unset = row["default"] is None
        value = "" if unset else json.dumps(row["default"])  # as TOML writes it too
        setting = f"{'# ' if unset else ''}{row['key']} = {value}"
        told = f"{row['help']} ({row['type']})"
        if width is None:
            yield f"{setting:{_HELP - 2}}  # {told}"
            continue
        beside = width - _HELP >= _NARROW
        indent = " " * (_HELP if beside else 4)
        lines = _wrapped(told, f"{indent}# ", width)
        if beside and len(setting) <= _HELP - 2:
            lines[0] = setting.ljust(_HELP) + lines[0].lstrip()
        else:
            yield setting.rstrip()
        yield from lines


def _wrapped(text: str, begin: str, width: int) -> list[str]:
    """Lines broken between words alone."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=begin,
        subsequent_indent=begin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def algorithms_table(width: int) -> Table:
    """The table, one row an algorithm, one column a cell; cells are broken where it is narrow."""
    headings = ["algorithm", "resample", "rewards", "select", "advantage", "loss", "denominator"]
    rows = []
    for row in ALGORITHMS.values():
        cells: Any = row.cells()
        when = row.resample + (f", {row.epochs} epochs" if row.epochs > 1 else "")
        fixed = [row.name, when, row.reward_scale, ", ".join(cells["select"])]
        rows.append([*fixed, cells["advantage"], cells["loss"], cells["denominator"]])
    for before, after in (
        (", ", ",\n"),
        (r"\(", "\n("),
        ("-means", "-\nmeans"),
        (r"(?<=\w)-\b", "-\n"),
    ):
        if sum(map(_width, zip(headings, *rows, strict=True))) + len(headings) > width:
            rows = [
                [name, *(re.sub(before, after, cell) for cell in others)] for name, *others in rows
            ]
    if sum(map(_width, zip(headings, *rows, strict=True))) + len(headings) - 1 > width:
        return _stacked(headings)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="underline")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for name, *others in rows:
        table.add_row(Text(name, style="bold"), *others)
    return table


def _stacked(headings: Sequence[str]) -> Table:
    """A line a cell, where there is no room for a table."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in ALGORITHMS.values():
        cells: Any = row.cells()
        table.add_row(headings[0], Text(row.name, style="bold"))
        when = row.resample + (f", {row.epochs} epochs" if row.epochs > 1 else "")
        shown = {**cells, "resample": when, "rewards": row.reward_scale}
        shown["select"] = ", ".join(cells["select"])
        for heading in headings[1:]:
            table.add_row(f"  {heading}", Text(str(shown[heading])))
    return table


def _width(column: Iterable[str]) -> int:
    return max(len(line) for cell in column for line in cell.splitlines())


def algorithms_notes() -> Table:
    """For each row of the table: its loss as a formula, what it needs, its paper and a note."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for row in ALGORITHMS.values():
        needs = "; ".join(f"{what}: {'yes' if n in row.needs else 'no'}" for n, what in _NEEDS)
        table.add_row(row.name, Text(row.formula))
        table.add_row("", Text(f"{row.note} {row.paper}."))
        if extras := _extras(row):
            table.add_row("", Text(extras))
        table.add_row("", Text(needs, style="dim"))
    return table


def algorithm_row(row: Algorithm, read: Sequence[str], refused: Sequence[str]) -> Table:
    """One row in full: its cells, its loss as a formula, what it needs and reads, its paper."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    cells = row.cells()
    table.add_row("algorithm", Text(row.name, style="bold"))
    for cell, value in cells.items():
        table.add_row(f"  {cell}", ", ".join(value) if isinstance(value, list) else f"{value}")
    needs = [what for name, what in _NEEDS if name in row.needs]
    for label, text in (
        ("loss", row.formula),
        ("note", row.note),
        ("paper", row.paper),
        ("needs", "; ".join(needs) or "nothing but the samples"),
        ("reads", ", ".join(read) or "none of the settings that depend on the algorithm"),
        ("refuses", ", ".join(refused)),
    ):
        if text:
            table.add_row(label, Text(text))
    return table


def _extras(row: Algorithm) -> str:
    """The cells that most rows do not have."""
    cells = row.cells()
    usual = Algorithm("usual").cells()
    shown = [f"{key} {cells[key]}" for key in _SELDOM if cells[key] != usual[key]]
    return "; ".join(shown)


_SELDOM = ("kl", "entropy", "critic", "refill")


_NEEDS = (
    ("old", "log-probs of the sampling policy"),
    ("ref", "reference model"),
    ("values", "critic"),
    ("rejected", "another pass for rejected samples"),
)


def selection_report(selected: Selected) -> None:
    """What selection kept and removed, rule by rule, and why."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
    for heading in ("rule", "samples", "removed", "remaining", "prompts removed"):
        side: Any = "left" if heading == "rule" else "right"
        table.add_column(heading, justify=side, overflow="fold")
    table.add_column("why", overflow="fold")
    for tally in selected.tallies:
        often = tally.reasons.most_common(3)
        why = ", ".join(
            f"{count} x {reason}" if len(often) > 1 else reason for reason, count in often
        )
        more = len(tally.reasons) - 3
        counts = (tally.seen, tally.removed, tally.seen - tally.removed, tally.prompts_removed)
        tail = f" and {more} more reasons" if more > 0 else ""
        table.add_row(Text(tally.rule), *map(str, counts), Text(why + tail))
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(str(selected), soft_wrap=True)
    for note in selected.notes:
        console.tell(note, style="yellow")


def best_of_report(made: BestOf) -> None:
    """The accuracy of the winners, and a line for each n."""
    console = Console(highlight=False, markup=False)
    console.print(
        f"best of {made.n} by {made.by}, {made.prompts} prompts: {_percent(made.accuracy)} of the "
        f"winners are right; of the first samples {_percent(made.first)}",
        soft_wrap=True,
    )
    curves = made.curves
    columns = ["best of n", "its score", "KL plug-in", "KL bound"] if curves.best else ["vote of n"]
    rows = []
    for place, one in enumerate(curves.passes):
        chosen = (curves.best or curves.majority)[place]
        cells = [str(one.n), *(_percent((p.value, p.low, p.high)) for p in (one, chosen))]
        if curves.best:
            cells += [_short(curves.score[place].value), f"{curves.kl_plugin[place]:.3f}"]
            cells.append(f"{curves.kl_bound[place]:.3f}")
        rows.append(cells)
    _print_table(console, ["n", "pass@n", *columns], rows)
    if curves.best:
        console.print(_KL_NOTE, style="dim")
    for note in made.notes:
        console.tell(note, style="yellow")


_KL_NOTE = (
    "KL of best-of-n to the sampling policy, nats. Plug-in: from the shares of equal scores, too "
    "low unless n is far below the number of samples. Bound: log n - (n-1)/n, reached without ties."
)


def study_report(study: Study) -> None:
    """The points of a study, the fit, where gold is highest and how far it drops from there."""
    console = Console(highlight=False, markup=False)
    of_n = study.form == "best-of-n"
    at = "n" if of_n else "step"
    rows = []
    for point in study.points:
        kl = [f"{point.kl:.3f}", *([f"{point.bound:.3f}"] if of_n else [])]
        d = f"{max(point.kl, 0.0) ** 0.5:.2f}"
        rows.append([str(point.at), *kl, d, _measured(point.proxy), _measured(point.gold)])
    names = ["KL plug-in", "KL bound"] if of_n else ["KL"]
    _print_table(console, [at, *names, "d", "proxy", "gold"], rows)
    if of_n:
        console.print(f"d = sqrt(KL plug-in). {_KL_NOTE}", style="dim")
    second, first = "d" if of_n else "log d", study.points[0].at
    fit = (
        f"fit: gold = gold at {at} {first} + d (alpha - beta {second}), "
        f"alpha {_measured(study.alpha)}, beta {_measured(study.beta)}; {_top(study)}"
    )
    if math.isnan(study.beta.value):
        fit = f"no fit: fewer than two points have a KL above that of {at} {first}"
    console.print(fit, soft_wrap=True)
    peak, end, drop = study.peak, study.points[-1].at, study.drop
    console.print(
        f"measured gold is highest at {at} = {peak.value:g} [{peak.low:g}, {peak.high:g}]",
        soft_wrap=True,
    )
    start = "its highest" if study.drop_from is None else f"{at} = {study.drop_from}"
    p = "p < 0.001" if drop.p < 0.001 else f"p = {drop.p:.3f}"
    left = f", {study.left_out} left out: too few scores" if study.left_out else ""
    console.print(
        f"drop of gold from {start} to {at} = {end}: {_measured(drop)}, {p}: "
        f"{'gold falls' if study.falls else 'no fall is shown'}; of {study.prompts} prompts{left}",
        soft_wrap=True,
    )


def _top(study: Study) -> str:
    """Where the fitted curve is highest, if the interval of beta says that it turns over."""
    low, high = study.beta.low, study.beta.high
    if not (low > 0 or high < 0):
        return "whether it turns over is open"
    if not study.fitted_peak < float("inf"):
        return "it does not turn over"
    return f"its top is at d = {study.fitted_peak:.2f}"


def fit_report(made: FitResult) -> None:
    """How well a reward model has learned, and where it is."""
    console = Console(highlight=False, markup=False)
    left = f", {made.left_out} left out" if made.left_out else ""
    console.print(
        f"{made.pairs} pairs{left}, {made.steps} updates: loss {made.first_loss:.3f} -> "
        f"{made.last_loss:.3f}; {made.accuracy:.1%} of them in the right order",
        soft_wrap=True,
    )
    if made.held_out_accuracy is not None:
        low, high = made.held_out_low, made.held_out_high
        console.print(
            f"held out: {made.held_out} pairs, {_percent((made.held_out_accuracy, low, high))} in "
            "the right order",
            soft_wrap=True,
        )
    console.print(f"model:  {made.folder}", soft_wrap=True)


def _print_table(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A row a line, however narrow the console is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    needed = sum(map(_width, zip(headings, *rows, strict=True))) + 2 * (len(headings) - 1)
    wide = Console(highlight=False, markup=False, width=max(console.width, needed))
    wide.print(table, crop=False)


def _measured(measured: Measured | Drop) -> str:
    if math.isnan(measured.low):
        return _short(measured.value)
    return f"{_short(measured.value)} [{_short(measured.low)}, {_short(measured.high)}]"


def _percent(interval: tuple[float | None, float | None, float | None]) -> str:
    value, low, high = interval
    if value is None:
        return "-"
    bounds = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{value:.1%}{bounds}"


def _short(value: float) -> str:
    """Three decimals, fewer of a large number."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"
