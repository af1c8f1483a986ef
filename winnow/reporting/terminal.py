"""Shows a run at a terminal: one line a step, and a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from winnow.errors import UserError
from winnow.reporting.console import Console
from winnow.reporting.events import Note, RunStart, StageProgress, StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer, Observers

_COLUMNS = (
    ("step", 5),
    ("reward", 7),
    ("trained", 8),
    ("wrong/mix/right", 16),
    ("eff", 6),
    ("top", 5),
    ("entropy", 8),
    ("tok sampled", 12),
    ("tok trained", 12),
    ("upd", 4),
    ("clip", 6),
    ("ess", 6),
    ("kl", 6),
    ("grad", 6),
    ("sample", 7),
    ("score", 6),
    ("update", 7),
)


class Terminal(Observer):
    """Prints to a terminal; elsewhere the same lines without the bar."""

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

    def __enter__(self) -> Terminal:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def on_start(self, start: RunStart) -> None:
        if start.summary:
            self.console.print(start.summary, soft_wrap=True)

    def on_progress(self, progress: StageProgress) -> None:
        stage = progress.stage
        if stage != self._stage:
            self._stage = stage
            self._bar.reset(self._task)
        self._bar.update(
            self._task, description=stage, completed=progress.done, total=progress.total
        )

    def on_note(self, note: Note) -> None:
        self.console.print(note.text, style="yellow", soft_wrap=True)

    def on_step(self, step: StepEnd) -> None:
        metrics = step.metrics
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
            errors = f"{metrics['errors']} of {metrics['samples']} samples"
            self.on_note(Note(f"      verifier errors: {errors}"))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.console.print(evaluation_line(evaluation), style="cyan", soft_wrap=True)


def step_line(m: Mapping[str, Any]) -> str:
    """One step in one line, under the headings of `_COLUMNS`."""
    cells = (
        str(m["step"]),
        _number(m["reward_mean"], ".3f"),
        f"{m['samples_trained']}/{m['samples']}",
        f"{m['prompts_all_wrong']}/{m['prompts_mixed']}/{m['prompts_all_right']}",
        _number(m["effective_survivors"], ".1f"),
        _number(m["largest_prompt_share"], ".0%"),
        _number(m["entropy"], ".3f"),
        str(m["tokens_sampled"]),
        str(m["tokens_trained"]),
        str(m["updates"]),
        _number(m["clip_fraction"], ".1%"),
        _number(m["ess"], ".0%"),
        _number(m["kl_to_reference"], ".2f"),
        _number(m["grad_norm"], ".2f"),
        *(f"{m['seconds'][stage]:.1f}s" for stage in ("sample", "score", "update")),
    )
    return "".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def evaluation_line(result: Evaluation) -> str:
    """Held-out or test accuracy with its interval."""
    kind = "test" if result.split == "test" else "held-out"
    if result.accuracy is None:
        return f"{kind} accuracy: none, the verifier failed on all {result.errors} samples"
    interval = "" if result.low is None else f" [{result.low:.1%}, {result.high:.1%}]"
    errors = f", {result.errors} verifier errors" if result.errors else ""
    shown = [f"{label} {rate:.1%}" for label, rate in result.by_difficulty.items()]
    detail = f"  ({', '.join(shown)})" if len(shown) > 1 else ""
    if result.pass_at_k:
        most = result.pass_at_k[-1]
        errors = f", pass@{most.k} {most.value:.1%}{errors}"
    if result.kl is not None and result.kl.value:
        errors += f", KL to the start {_number(result.kl.value, '.2f')} nats"
    what = "of the final model" if result.split == "final" else f"at step {result.step}"
    return (
        f"{kind} accuracy {what}: {result.accuracy:.1%}{interval}, "
        f"{result.samples} samples of {result.prompts} prompts{errors}, {result.seconds:.0f} "
        f"s{detail}"
    )


def _number(value: float | None, form: str) -> str:
    text = "-" if value is None else format(value, form)
    return text.replace("-", "") if text.startswith("-0.0") and float(text) == 0 else text


@contextmanager
def observing(quiet: bool, callbacks: Sequence[Observer] = ()) -> Iterator[Observers]:
    """The observers of a run: the terminal unless it is quiet, and the user's callbacks.

    Raises:
        UserError: `callbacks` is no list of observers.
    """
    given = callbacks if isinstance(callbacks, list | tuple) else [None]
    if not all(isinstance(one, Observer) for one in given):
        problem = f"{callbacks!r:.80} is not a list of observers"
        raise UserError("callbacks", problem, "derive their classes from winnow.Observer")
    if quiet:
        yield Observers((), callbacks)
    else:
        with Terminal() as terminal:
            yield Observers([terminal], callbacks)
