"""Shows a run at a terminal: a line a step, and a live line of what is done; or in a file, now and
then a line of what is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

from winnow.errors import UserError, number_of
from winnow.reporting.console import Console, columns_of, reflowed
from winnow.reporting.evaluation_line import evaluation_line
from winnow.reporting.events import Alarm, Note, RunEnd, RunStart, StageProgress, StepEnd
from winnow.reporting.metrics import Evaluation
from winnow.reporting.observer import Observer, Observers
from winnow.reporting.progress_file import ProgressFile
from winnow.reporting.sparkline import BARS, WIDTH, trends, writable
from winnow.reporting.standing import Standing
from winnow.reporting.step_table import StepTable
from winnow.storage.lines import rows_of

_QUIET = 30.0
"""Seconds without a line after which there is one of what is done, where there is no live line."""
_LOOK = 5.0
"""Seconds between two looks at whether it is time."""
_BELOW = " " * 6
"""Before what is below the line of a step."""


class Terminal(Observer):
    """Prints to a terminal with a live line below; elsewhere lines alone.

    Args:
        clock: Seconds, from whatever moment.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(highlight=False, markup=False)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._clock = clock
        self._standing = Standing(clock)
        self._bar = Progress(
            _Says(self._standing.stage),
            BarColumn(bar_width=16),
            _Says(self._standing.times),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)
        self._table = StepTable()
        self._printed = clock()
        self._named: set[str] = set()
        self._over = threading.Event()
        self._gone: BaseException | None = None

    def __enter__(self) -> Terminal:
        if self.live:
            self._bar.start()
        else:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self.live:
            self._bar.stop()

    def _look(self) -> None:
        """Says what is done also where no event comes for long."""
        while not self._over.wait(_LOOK):
            try:
                self.beat()
            except (OSError, ValueError, SystemExit) as error:  # rich exits if a pipe breaks
                self._gone = error  # the next event raises it, where it is heard
                return

    def beat(self) -> None:
        """Print what is done, if nothing was printed for long."""
        if not self.live and self._clock() - self._printed >= _QUIET:
            self._print(self._standing.line())

    def _print(self, text: str, style: str | None = None) -> None:
        self._printed = self._clock()
        self.console.print(text, style=style, soft_wrap=True)

    def _width(self) -> int | None:
        return columns_of(self.console)

    def _reflowed(self, text: str) -> str:
        return reflowed(text, self._width())

    def on_start(self, start: RunStart) -> None:
        self._standing.begin(start)
        if start.summary:
            self._print(self._reflowed(start.summary))

    def on_progress(self, progress: StageProgress) -> None:
        if self._gone is not None:
            raise self._gone
        self._standing.at(progress)
        total = progress.total if progress.total > 1 else None
        self._bar.update(self._task, completed=progress.done, total=total)
        if self._standing.begun and not self.live and progress.stage not in self._named:
            self._named.add(progress.stage)
            self._print(self._standing.line())
        self.beat()

    def on_note(self, note: Note) -> None:
        self._print(self._reflowed(note.text), style="yellow")

    def on_alarm(self, alarm: Alarm) -> None:
        if alarm.cleared:
            line, style = f"alarm {alarm.name} has cleared: {alarm.text}", "green"
        else:
            advice = f" {alarm.advice}" if alarm.advice else ""
            line, style = f"ALARM {alarm.name}: {alarm.text}{advice}", "bold red"
        self._print(self._reflowed(line), style=style)

    def on_step(self, step: StepEnd) -> None:
        metrics = step.metrics
        self._standing.step(step)
        row = {**metrics, "elapsed": self._standing.elapsed(), "left": self._standing.left() or "-"}
        heading, line = self._table.lines(row, offline=step.offline, width=self._width())
        if heading is not None:
            self._print(heading, style="bold")
        self._print(line)
        by_difficulty = metrics["success_by_difficulty"]
        if len(by_difficulty) > 1:
            shown = "  ".join(f"{label}: {rate:.0%}" for label, rate in by_difficulty.items())
            self._print(self._reflowed(f"{_BELOW}{shown}"), style="dim")

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._standing.evaluated(evaluation)
        self._print(self._reflowed(evaluation_line(evaluation)), style="cyan")

    def on_end(self, end: RunEnd) -> None:
        if end.status == "done" and self._standing.made:
            self._print(f"{number_of(self._standing.made, 'step')} in {self._standing.elapsed()}")
            for line in self._trends(end.folder):
                self._print(line)

    def _trends(self, folder: Path) -> list[str]:
        """The whole run's, of which a resumed one has told only the rest."""
        steps, evaluations = (
            [row for _, row in rows_of(path)] if (path := folder / name).is_file() else []
            for name in ("metrics.jsonl", "evals.jsonl")
        )
        return trends(
            steps,
            evaluations,
            width=min(self._width() or WIDTH, WIDTH),
            ascii=not writable(f"{BARS}→", self.console.encoding),
        )


class _Says(ProgressColumn):
    """A text that is asked for anew whenever the live line is drawn."""

    def __init__(self, says: Callable[[], str]) -> None:
        super().__init__()
        self._says = says

    def render(self, task: Task) -> Text:
        return Text(self._says())


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
        yield Observers([ProgressFile()], callbacks)
    else:
        with Terminal() as terminal:
            yield Observers([ProgressFile(), terminal], callbacks)
