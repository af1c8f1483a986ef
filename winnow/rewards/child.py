"""One worker process as its parent sees it: started, asked within limits, killed."""

from __future__ import annotations

import contextlib
import hmac
import json
import math
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from winnow.rewards import supervisor, worker
from winnow.rewards.source import Source, StartError, dumps
from winnow.types import Prompt, Score

_GIB = 2**30
_LONGEST_REPLY = 2**16
_POLL = 0.1  # seconds between two looks at whether to stop waiting
_GRACE = 1.0  # seconds that a worker may take to exit once it has closed its pipes
_KILL_LIMIT = 10.0  # seconds that a supervisor may take to kill everything
_SHOWN = 200  # characters of what a verifier printed, in an error


@dataclass(frozen=True)
class Limits:
    """What a verifier may use.

    Attributes:
        seconds: For one sample.
        import_seconds: For importing it, in each process; not part of any sample's.
        memory_gib: GiB that a worker and all that it has started may use together; ``None``: no
            limit. It is watched on Linux, as /proc shows it: a limit of the address space would
            stop what reserves much and uses little, as CUDA does.
    """

    seconds: float = 10.0
    import_seconds: float = 60.0
    memory_gib: float | None = None


class _Dead(Exception):
    """The worker is gone."""


class _Forged(Exception):
    """What came is not the worker's reply to this request."""


class _Late(Exception):
    """The worker did not answer in time."""


class _Interrupted(Exception):
    """Another thread has ended the scoring."""


@dataclass(frozen=True)
class _Ending:
    """How a worker ended.

    Attributes:
        code: As `subprocess` has it; ``None`` if it could not be killed.
        memory: Whether it was killed for using too much.
        printed: The end of what it printed.
    """

    code: int | None
    memory: bool = False
    printed: str = ""


class Child:
    """One worker process: started at its first sample, and anew after each death."""

    def __init__(self, source: Source, limits: Limits, stop: threading.Event) -> None:
        self._source = source
        self._limits = limits
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Start the process and have it load the verifier, unless it is running.

        Raises:
            StartError: It cannot be started, or its verifier cannot be loaded.
        """
        if self._process is not None and not self._spoke():
            return
        self.kill()
        try:
            self._spawn()
            letter, rest = self._ask(self._source.start_message(), self._limits.import_seconds)
            if letter != worker.READY:
                raise StartError(_error(letter, rest))
        except OSError as failure:  # no memory, too many processes, a folder that is gone
            self.kill()
            raise StartError(f"no process for the verifier: {worker.describe(failure)}") from None
        except _Dead:
            raise StartError(self._death(" while it was loaded")) from None
        except _Forged:
            self.kill()
            raise StartError(_FORGED) from None
        except _Late:
            late = f"it was not loaded within {self._limits.import_seconds:g} s"
            remedy = ", reward.import_seconds"
            raise StartError(late + remedy + _printed(self.kill())) from None
        except BaseException:
            self.kill()
            raise

    def score(self, prompt: Prompt, completion: str) -> Score:
        """The score of one sample, or why there is none."""
        try:
            request = dumps((prompt, completion))
        except Exception as error:  # noqa: BLE001 (pickling runs the code of what data holds)
            return Score.failed(f"the prompt cannot be sent: {worker.describe(error)}")
        try:
            self.start()
            letter, rest = self._ask(request, self._limits.seconds)
            if letter == worker.SCORED and len(rest) == worker.VALUE.size:
                return Score.of(*worker.VALUE.unpack(rest))
            return Score.failed(_error(letter, rest))
        except StartError as error:
            return Score.failed(f"the verifier could not be started: {error}")
        except (_Dead, OSError):
            return Score.failed(self._death())
        except _Forged:
            self.kill()
            return Score.failed(_FORGED)
        except _Late:
            return Score.failed(self._death(late=True))
        except _Interrupted:
            self.kill()
            return Score.failed("scoring was interrupted")
        except BaseException:  # an unread reply would be taken for the next sample's
            self.kill()
            raise

    def kill(self, grace: float = 0.0) -> _Ending:
        """Kill the process and all that it has started, or let it end; how it ended.

        Args:
            grace: Seconds that it is given to end by itself.
        """
        process, self._process = self._process, None
        control, self._control = self._control, None
        report = b""
        if control is not None:
            with control:
                report = _received(control, grace)
                if not report:
                    with contextlib.suppress(OSError):  # it is gone
                        control.shutdown(socket.SHUT_WR)
                    if process is not None:  # a verifier may have stopped it
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.kill(process.pid, signal.SIGCONT)
                    report = _received(control, _KILL_LIMIT)
        if process is None:
            return _Ending(None)
        if not report:  # the supervisor itself was killed, or hangs in the kernel
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        if not report:  # the kernel kills the worker too: its pipe ends when it is gone
            _wait_for_end(process.stdout.fileno(), _GRACE)
        process.stdin.close()
        process.stdout.close()
        return _Ending(**json.loads(report)) if report else _Ending(code)

    def _spawn(self) -> None:
        self._control, theirs = socket.socketpair()
        memory = math.ceil((self._limits.memory_gib or 0) * _GIB)
        with theirs:
            # Not multiprocessing: it would run the user's script again. As files with -P, so that
            # neither this folder (which has a "numbers.py") nor the user's hides a standard module.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-S", supervisor.__file__),
                    *(str(theirs.fileno()), str(memory), worker.__file__),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                cwd=self._source.folder,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # out of reach of Ctrl-C
            )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def _spoke(self) -> bool:
        """Whether the worker has ended or written something since its last reply."""
        assert self._process is not None
        assert self._process.stdout is not None
        return _is_ready(self._process.stdout.fileno(), select.POLLIN, 0)

    def _death(self, when: str = "", late: bool = False) -> str:
        """Kill what is left of the process; return what it died of."""
        ending = self.kill(0.0 if late else _GRACE)
        code = ending.code
        if ending.memory:
            allowed = f"{self._limits.memory_gib:g} GiB, reward.memory_gib"
            text = f"the verifier's processes used more memory than allowed ({allowed}){when}"
        elif late and code in (None, -signal.SIGKILL):
            text = f"no score within {self._limits.seconds:g} s"
        elif code is None or code >= 0:
            text = f"the verifier's process ended with exit code {code}{when}"
        else:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            text = f"the verifier's process was killed by {name}{hint}{when}"
        return text + _printed(ending)

    def _ask(self, request: bytes, limit: float) -> tuple[bytes, bytes]:
        """Send a message and wait for the answer, no longer than the limit for both.

        Returns:
            The letter of the reply and the rest of it.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit
        mark = secrets.token_bytes(worker.MARK_SIZE)
        self._send(self._process.stdin.fileno(), mark + request, deadline)
        pipe = self._process.stdout.fileno()
        (length,) = worker.LENGTH.unpack(self._receive(pipe, worker.LENGTH.size, deadline))
        if not len(mark) < length <= _LONGEST_REPLY:
            raise _Forged
        reply = self._receive(pipe, length, deadline)
        if not hmac.compare_digest(reply[: len(mark)], mark):
            raise _Forged
        return reply[len(mark) : len(mark) + 1], reply[len(mark) + 1 :]

    def _send(self, pipe: int, message: bytes, deadline: float) -> None:
        left = memoryview(worker.LENGTH.pack(len(message)) + message)
        while left:
            self._wait(pipe, select.POLLOUT, deadline)
            try:
                left = left[os.write(pipe, left) :]
            except BrokenPipeError:
                raise _Dead from None

    def _receive(self, pipe: int, length: int, deadline: float) -> bytes:
        data = b""
        while len(data) < length:
            self._wait(pipe, select.POLLIN, deadline)
            more = os.read(pipe, length - len(data))
            if not more:
                raise _Dead
            data += more
        return data

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        """Wait until the pipe is ready, as it also is once the other end is closed."""
        while True:
            left = deadline - time.monotonic()
            if _is_ready(pipe, event, min(max(left, 0.0), _POLL)):
                return
            if left <= 0:
                raise _Late
            if self._stop.is_set():
                raise _Interrupted


_FORGED = (
    "what came back is not the worker's reply: the verifier, or what it ran, wrote to its file "
    "descriptors"
)


def _error(letter: bytes, rest: bytes) -> str:
    """The error in a reply, made by the worker; its text may hold what a model wrote."""
    if letter != worker.FAILED:
        return _FORGED
    return worker.one_line(rest.decode("utf-8", "replace"))


def _printed(ending: _Ending) -> str:
    printed = ending.printed
    if len(printed) > _SHOWN:
        printed = f"...{printed[-_SHOWN:]}"
    return f"; the last it printed: {printed}" if printed else ""


def _received(control: socket.socket, seconds: float) -> bytes:
    """The supervisor's report: all that comes until it ends; empty if that takes too long."""
    deadline = time.monotonic() + seconds
    data = b""
    while _is_ready(control.fileno(), select.POLLIN, max(0.0, deadline - time.monotonic())):
        try:
            more = control.recv(_LONGEST_REPLY)
        except ConnectionError:
            return data
        if not more:
            return data
        data += more
    return b""


def _wait_for_end(pipe: int, seconds: float) -> None:
    """Read and drop all that comes until nobody can write any more, for so many seconds."""
    deadline = time.monotonic() + seconds
    while _is_ready(pipe, select.POLLIN, max(0.0, deadline - time.monotonic())):
        if not os.read(pipe, _LONGEST_REPLY):
            return


def _is_ready(pipe: int, event: int, seconds: float) -> bool:
    """Whether a pipe can be used, or its other end is closed, within so many seconds."""
    poll = select.poll()
    poll.register(pipe, event)
    return bool(poll.poll(math.ceil(1000 * seconds)))
