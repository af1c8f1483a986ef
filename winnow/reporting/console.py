"""A run, shown to a person at a terminal: one line a step, and what is being done right now."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.kl import InReward
from winnow.algorithms.spec import show
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config
from winnow.reporting.metrics import Evaluation, Metrics
from winnow.reporting.observer import Reporter, Silent

if TYPE_CHECKING:
    from winnow.config.phases import Phase
    from winnow.engines.reward_models.trainer import FitResult
    from winnow.evaluation.best_of import BestOf
    from winnow.evaluation.overoptimisation_fit import Measured, Study
    from winnow.rollouts.select import Sifted

_COLUMNS = (
    ("step", 5),
    ("reward", 7),
    ("kept", 8),
    ("wrong/mix/right", 16),
    ("eff", 6),
    ("top", 5),
    ("entropy", 8),
    ("drawn", 7),
    ("trained", 8),
    ("upd", 4),
    ("clip", 6),
    ("ess", 6),
    ("kl", 6),
    ("grad", 6),
    ("draw", 6),
    ("score", 6),
    ("update", 7),
)


class ConsoleReporter:
    """Prints to a terminal; where the output is no terminal, the same lines without the bar."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("start", total=None)
        self._stage = ""
        self._lines = 0

    def __enter__(self) -> ConsoleReporter:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            self._bar.reset(self._task)
        self._bar.update(self._task, description=stage, completed=done, total=total)

    def note(self, text: str) -> None:
        self.console.print(text, style="yellow", soft_wrap=True)

    def step(self, metrics: Metrics) -> None:
        if self._lines % 20 == 0:
            self.console.print(
                "".join(name.rjust(width) for name, width in _COLUMNS), style="bold", soft_wrap=True
            )
        self._lines += 1
        self.console.print(step_line(metrics), soft_wrap=True)
        by_difficulty = metrics["success_by_difficulty"]
        if len(by_difficulty) > 1:
            shown = "  ".join(f"{label}: {rate:.0%}" for label, rate in by_difficulty.items())
            self.console.print(f"      {shown}", style="dim", soft_wrap=True)
        if metrics["errors"]:
            self.note(f"      {metrics['errors']} of {metrics['draws']} verdicts were errors")

    def evaluation(self, result: Evaluation) -> None:
        self.console.print(evaluation_line(result), style="cyan", soft_wrap=True)


def step_line(m: Metrics) -> str:
    """One step in one line, under the headings of `_COLUMNS`."""
    cells = (
        str(m["step"]),
        _number(m["reward_mean"], ".3f"),
        f"{m['trained']}/{m['draws']}",
        f"{m['prompts_all_wrong']}/{m['prompts_mixed']}/{m['prompts_all_right']}",
        _number(m["effective_survivors"], ".1f"),
        _number(m["largest_prompt_share"], ".0%"),
        _number(m["entropy"], ".3f"),
        str(m["tokens_drawn"]),
        str(m["tokens_trained"]),
        str(m["updates"]),
        _number(m["clip_fraction"], ".1%"),
        _number(m["ess"], ".0%"),
        _number(m["kl_to_reference"], ".2f"),
        _number(m["grad_norm"], ".2f"),
        *(f"{m['seconds'][stage]:.1f}s" for stage in ("draw", "score", "update")),
    )
    return "".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def evaluation_line(result: Evaluation) -> str:
    """Held-out accuracy with its interval."""
    if result.accuracy is None:
        return f"held-out accuracy: none, all {result.errors} verdicts were errors"
    interval = "" if result.low is None else f" [{result.low:.1%}, {result.high:.1%}]"
    errors = f", {result.errors} verdicts were errors" if result.errors else ""
    shown = [f"{label} {rate:.1%}" for label, rate in result.by_difficulty.items()]
    detail = f"  ({', '.join(shown)})" if len(shown) > 1 else ""
    what = "of the final model" if result.split == "final" else f"at step {result.step}"
    return (
        f"held-out accuracy {what}: {result.accuracy:.1%}{interval}, "
        f"{result.draws} draws of {result.prompts} problems{errors}, {result.seconds:.0f} s{detail}"
    )


def opening(config: Config, phases: Sequence[Phase], train: int, held_out: int) -> str:
    """What is about to happen: the algorithms and the arithmetic of the batches."""
    files = [phase.file.summary for phase in phases if phase.file is not None]
    prompts = files + [f"{train} training prompts"] * any(phase.file is None for phase in phases)
    lora = f", LoRA of rank {config.lora.rank}" if config.lora.rank else ""
    model = f"{config.model}, {config.dtype}{lora}; {', '.join(prompts)}, {held_out} held out"
    lines = []
    for phase in phases:
        if len(phases) > 1:
            lines.append(f"phase {phase.number}, steps {phase.before + 1} to {phase.last}")
        lines += [_row(phase.algorithm), _arithmetic(phase)]
    return "\n".join([*lines, model] if len(phases) > 1 else [lines[0], model, lines[1]])


def _row(algorithm: Algorithm) -> str:
    rules = ", ".join(show(rule) for rule in algorithm.select)
    penalty = f" - {show(algorithm.kl)}" if isinstance(algorithm.kl, InReward) else ""
    return (
        f"{algorithm.name}: select {rules}; advantage {show(algorithm.advantage)} of rewards "
        f"{algorithm.reward_scale}{penalty}; loss {algorithm.formula}"
    )


def _arithmetic(phase: Phase) -> str:
    config, algorithm, file = phase.config, phase.algorithm, phase.file
    updates = config.minibatches
    merged = 1 + config.rounds.merge
    if file is not None:
        steps = file.steps(config.prompts_per_step)
        return (
            f"{algorithm.epochs} passes of {steps} steps over the file: {config.prompts_per_step} "
            f"prompts a step; up to {updates} updates of {config.minibatch_prompts} prompts"
        )
    draws = config.prompts_per_step * config.samples_per_prompt
    when = f"drawn once for {config.steps} steps, then {algorithm.epochs} passes"
    if algorithm.draws == "every-step":
        when = f"{config.steps} steps"
        batches = -(-config.prompts_per_step * merged // config.minibatch_prompts)
        updates = batches * algorithm.epochs
    return (
        f"{when}: {config.prompts_per_step} prompts x {config.samples_per_prompt} samples = "
        f"{draws} draws; up to {updates} updates of {config.minibatch_prompts} prompts"
    )


def algorithms_table(width: int) -> Table:
    """The table, one row an algorithm, one column a cell; cells are broken where it is narrow."""
    headings = ["algorithm", "draws", "reward", "select", "advantage", "loss", "denominator"]
    rows = []
    for row in ALGORITHMS.values():
        cells: Any = row.cells()
        draws = row.draws + (f", {row.epochs} epochs" if row.epochs > 1 else "")
        fixed = [row.name, draws, row.reward_scale, ", ".join(cells["select"])]
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
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="underline")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for name, *others in rows:
        table.add_row(Text(name, style="bold"), *others)
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
        if beside := _beside(row):
            table.add_row("", Text(beside))
        table.add_row("", Text(needs, style="dim"))
    return table


def _beside(row: Algorithm) -> str:
    """The cells that most rows do not have."""
    cells = row.cells()
    usual = Algorithm("usual").cells()
    shown = [f"{key} {cells[key]}" for key in _SELDOM if cells[key] != usual[key]]
    return "; ".join(shown)


_SELDOM = ("kl", "entropy", "critic", "refill")
_NEEDS = (
    ("old", "log-probs of the drawing policy"),
    ("ref", "reference model"),
    ("values", "critic"),
    ("rejected", "another pass for rejected draws"),
)


def sifted_report(sifted: Sifted) -> None:
    """What selection kept and lost, rule by rule, and why."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
    for heading in ("rule", "draws", "lost", "left", "prompts lost"):
        side: Any = "left" if heading == "rule" else "right"
        table.add_column(heading, justify=side, overflow="fold")
    table.add_column("why", overflow="fold")
    for tally in sifted.tallies:
        often = tally.reasons.most_common(3)
        why = ", ".join(
            f"{count} x {reason}" if len(often) > 1 else reason for reason, count in often
        )
        more = len(tally.reasons) - 3
        counts = (tally.seen, tally.lost, tally.seen - tally.lost, tally.prompts_lost)
        tail = f" and {more} more reasons" if more > 0 else ""
        table.add_row(Text(tally.rule), *map(str, counts), Text(why + tail))
    console = Console(highlight=False, markup=False)
    console.print(table)
    share = sifted.survivors / sifted.draws
    console.print(
        f"{sifted.survivors} of {sifted.draws} draws survive ({share:.1%}), of "
        f"{sifted.prompts_left} of {sifted.prompts} prompts",
        soft_wrap=True,
    )
    for note in sifted.notes:
        console.print(note, style="yellow", soft_wrap=True)


def best_of_report(made: BestOf) -> None:
    """Who won, and a line for each n."""
    console = Console(highlight=False, markup=False)
    console.print(
        f"best of {made.n} by {made.by}, {made.prompts} prompts: {_percent(made.accuracy)} of the "
        f"winners are right; of the first answers {_percent(made.first)}",
        soft_wrap=True,
    )
    curves = made.curves
    scored = ["best of n", "its score", "KL plug-in", "KL bound"] if curves.best else ["vote of n"]
    rows = []
    for place, one in enumerate(curves.passes):
        chosen = (curves.best or curves.majority)[place]
        cells = [str(one.n), *(_percent((p.value, p.low, p.high)) for p in (one, chosen))]
        if curves.best:
            cells += [_short(curves.score[place].value), f"{curves.kl_plugin[place]:.3f}"]
            cells.append(f"{curves.kl_bound[place]:.3f}")
        rows.append(cells)
    _print_table(console, ["n", "pass@n", *scored], rows)
    if curves.best:
        console.print(_KL_NOTE, style="dim")
    for note in made.notes:
        console.print(note, style="yellow", soft_wrap=True)


_KL_NOTE = (
    "KL of the best of n to one answer, in nats. Plug-in: from the shares of equal scores; too low "
    "where n is not far below the number of draws. Bound: log n - (n-1)/n, reached without ties."
)


def study_report(study: Study) -> None:
    """The points of a study, the fit and where gold turns over."""
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
    second = "d" if of_n else "log d"
    top = f"its top is at d = {study.fitted_peak:.2f}"
    if not study.fitted_peak < float("inf"):
        top = "it does not turn over"
    console.print(
        f"fit: gold = gold at {at} {study.points[0].at} + d (alpha - beta {second}), "
        f"alpha {_measured(study.alpha)}, beta {_measured(study.beta)}; {top}",
        soft_wrap=True,
    )
    peak, end = study.peak, study.points[-1].at
    found = f"measured gold is highest at {at} = {peak.value:g} [{peak.low:g}, {peak.high:g}]"
    fall = f"it is lower at {at} = {end} in {study.turns:.1%} of the resamples of"
    if peak.value == end:
        fall = "the end; over"
    left = f", {study.left_out} left out: too few scores" if study.left_out else ""
    console.print(f"{found}, {fall} {study.prompts} prompts{left}", soft_wrap=True)


def fit_report(made: FitResult) -> None:
    """What a reward model has learned, and where it lies."""
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
            "the right order (the interval as if pairs of one prompt were independent)",
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


def _measured(measured: Measured) -> str:
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


def _number(value: float | None, form: str) -> str:
    text = "-" if value is None else format(value, form)
    return text.replace("-", "") if text.startswith("-0.0") and float(text) == 0 else text


@contextmanager
def reporter(quiet: bool) -> Iterator[Reporter]:
    """A terminal's reporter, or one that says nothing."""
    if quiet:
        yield Silent()
    else:
        with ConsoleReporter() as console:
            yield console
