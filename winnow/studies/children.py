"""Runs in processes of their own, `winnow train` each: what ends one of them ends no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from winnow.errors import DiskError, Stopped, UserError
from winnow.storage.paths import shown
from winnow.studies.runs import State, folder_of, log_of, recipe_of, state_of
from winnow.studies.variants import Planned

TRAIN = (sys.executable, "-m", "winnow", "train")
_EVERY = 0.2
"""Seconds between looks at the processes."""
_GRACE = 60.0
"""Seconds that a run has to end in once it is told to; then it is killed, which loses nothing."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Child:
    """A run that goes on.

    Attributes:
        process: ``None``: it was begun by a study that is gone, and is only waited for.
        begun: When it was begun, by the clock of `time.monotonic`; ``None``: a part of it was made
            before, so that the time of the rest is that of no run.
    """

    run: Planned
    folder: Path
    process: subprocess.Popen[bytes] | None
    begun: float | None


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Attributes:
        state: What has become of it.
        seconds: How long it took; ``None`` where it failed, or this process made only a part of it.
        said: The last line that it printed, where it failed.
    """

    run: Planned
    state: State
    seconds: float | None = None
    said: str = ""

    @property
    def failed(self) -> bool:
        """Whether it could not be brought to its end."""
        return self.state in ("new", "unfinished")


Watch = Callable[[Sequence[Child]], None]


class Children:
    """Brings runs to their ends, so many at a time.

    Args:
        study: The study's folder.
        threads: Of each run.
        train: The command that is `winnow train`.
    """

    def __init__(
        self, study: Path, parallel: int, threads: int, train: Sequence[str] = TRAIN
    ) -> None:
        self._study, self._parallel, self._train = study, parallel, tuple(train)
        self._environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
        self._going: list[Child] = []

    def run(self, runs: Sequence[Planned], ended: Callable[[Ended], None], watch: Watch) -> None:
        """Run all of them that are not done; Ctrl-C ends them, saved.

        Args:
            ended: Told of each that ends.
            watch: Told every moment of those that go on.

        Raises:
            Stopped: by Ctrl-C; the runs resume when the study is run again.
        """
        left = list(runs)
        try:
            while left or self._going:
                while left and len(self._going) < self._parallel:
                    self._going.append(self._begin(left.pop(0)))
                for child in [*self._going]:
                    if (end := self._end_of(child)) is not None:
                        self._going.remove(child)
                        ended(end)
                watch(self._going)
                time.sleep(_EVERY)
        except KeyboardInterrupt as stop:
            raise Stopped("stopped; to resume, run the same command again") from stop
        finally:
            self._end_all()

    def _begin(self, run: Planned) -> Child:
        folder = folder_of(self._study, run)
        state, process = state_of(folder), None
        if state != "running":
            how = ["--resume", str(folder)]
            if state == "new":
                how = [str(recipe_of(self._study, run)), "--out", str(folder)]
            process = self._started([*self._train, *how], log_of(self._study, run))
        return Child(run, folder, process, time.monotonic() if state == "new" else None)

    def _started(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        try:
            with log.open("ab") as file:
                # a session of its own: Ctrl-C in a terminal reaches this process alone, which
                # tells the runs to end once
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise DiskError(f"cannot start a run: {error.strerror}") from error

    def _end_of(self, child: Child) -> Ended | None:
        """What has become of a run; ``None`` while it goes on."""
        if child.process is None:
            state = state_of(child.folder)
            if state == "running":
                return None
            if state in ("done", "stopped"):
                return Ended(child.run, state)
            # the process that was waited for has been ended: resumed by one of this study's
            child.process = self._begin(child.run).process
            return None
        code = child.process.poll()
        if code is None:
            return None
        try:
            state = state_of(child.folder)
        except UserError as error:
            return Ended(child.run, "unfinished", said=error.problem)
        if state == "running":  # a run of a study that is gone had just begun it
            child.process = child.begun = None
            return None
        if state not in ("done", "stopped"):
            return Ended(child.run, state, said=self._last_line(child, code))
        seconds = None if child.begun is None else time.monotonic() - child.begun
        return Ended(child.run, state, seconds)

    def _last_line(self, child: Child, code: int) -> str:
        log = log_of(self._study, child.run)
        lines = []
        with suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        told = [line.removeprefix("winnow: ") for line in lines if line.strip()]
        if code < 0:
            return f"killed by signal {-code}"
        return f"{told[-1] if told else f'exit code {code}'} (all of it: {shown(log)})"

    def _end_all(self) -> None:
        own = [child.process for child in self._going if child.process is not None]
        for process in own:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _GRACE
        try:
            for process in own:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, until - time.monotonic()))
        finally:
            for process in own:
                if process.poll() is None:
                    process.kill()
        self._going = []
