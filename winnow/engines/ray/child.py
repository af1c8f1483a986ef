"""A process of a run on the machine of an actor: supervised, its output kept and passed on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from winnow.engines.vllm import supervisor

LOGS = "actors"
"""The folder of a run with what its processes said."""
_GRACE = 30.0
_CHUNK = 1 << 16


class Child:
    """A command in a process group of its own, which ends when this process does.

    Args:
        folder: The folder of the run. There is a log in it from when the run has begun there.
        name: Of the log.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        folder: Path,
        name: str,
    ) -> None:
        self._log = folder / LOGS / f"{name}.log"
        self._begun = folder / "config.toml"
        self._unwritten: list[bytes] = []
        self._unsaid: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._over = False
        self._process = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, "", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=cwd,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as first:
            told = first.readline()
        self.number = int(told) if told.strip().isdigit() else None
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self) -> int:
        """Its exit code, once it has ended: 128 more than a signal's."""
        code = self._process.wait()
        if code < 0:  # the supervisor was killed
            self._kill()
        return 128 - code if code < 0 else code

    def said(self) -> bytes:
        """What it has said since this was last asked; waits for that. Empty: it says no more."""
        with self._changed:
            while not self._unsaid and not self._over:
                self._changed.wait()
            found = b"".join(self._unsaid)
            self._unsaid.clear()
            return found

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.number is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.number, number)

    def close(self) -> None:
        """End it and what it started: kindly, then not."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._kill()

    def _kill(self) -> None:
        if self.number is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.number, signal.SIGKILL)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as pipe:
            while chunk := os.read(pipe.fileno(), _CHUNK):
                self._unwritten.append(chunk)
                self._write()
                with self._changed:
                    self._unsaid.append(chunk)
                    self._changed.notify_all()
        self._write()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _write(self) -> None:
        """A folder that is there before its run has begun is refused by the run, so not before."""
        if not self._begun.is_file():
            return
        with suppress(OSError):  # a full disk is told by the run itself
            self._log.parent.mkdir(exist_ok=True)
            with self._log.open("ab") as log:
                log.write(b"".join(self._unwritten))
            self._unwritten.clear()
