"""Scoring in worker processes: a verifier may raise, hang or crash without ending the run.

A worker is killed when a sample takes longer than its limit, and a new one is started for the next
sample. Linux and macOS.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import operator
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import CodeType
from typing import Any, ClassVar

import cloudpickle  # type: ignore[import-untyped, unused-ignore]

from winnow.errors import WinnowError
from winnow.rewards import worker
from winnow.types import Prompt, Score

START_LIMIT = 60.0
"""Seconds that a worker may take to import its verifier. Not part of any sample's limit."""

_LONGEST_REPLY = 1_000_000
_POLL = 0.1  # seconds between two looks at whether to stop waiting
_GRACE = 1.0  # seconds that a worker may take to exit once it has closed its pipes


class StartError(WinnowError):
    """A worker could not be started: its verifier cannot be imported, unpickled or called."""


class _Dead(Exception):
    """The worker is gone, or its reply is nonsense."""


class _Late(Exception):
    """The worker did not answer in time."""


class _Interrupted(Exception):
    """Another thread has ended the scoring."""


@dataclass(frozen=True)
class Source:
    """What a worker runs, in the parent's current folder of when this was made.

    Attributes:
        target: ``module:function``, resolved in the worker; or ``function`` is given.
        function: A callable, pickled with cloudpickle.
        options: Keyword arguments that go with every call.
        user: Whether it is the user's code. A user's module is also looked for in the current
            folder, and an error in the user's code names its line.
    """

    target: str | None = None
    function: bytes | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    user: bool = True
    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    folder: str = field(default_factory=os.getcwd)

    def start_message(self) -> bytes:
        """The first message to a worker."""
        path = list(self.path)
        if self.user and self.target and not {"", self.folder} & set(path):
            path.insert(0, self.folder)  # as ``python -m`` has it; a console script does not
        start: worker.Start = {
            "path": path,
            "target": self.target,
            "function": self.function,
            "options": dict(self.options),
            "user": self.user,
        }
        return pickle.dumps(start)


def pickled(function: Callable[..., object]) -> bytes:
    """The function for a worker: by value from a script or notebook, else by its module's name.

    Raises:
        StartError: It cannot be pickled, as one that holds a lock or an open file.
    """
    try:
        return _dumps(function)
    except Exception as error:  # pickling runs the code of whatever the function holds
        raise StartError(f"it cannot be sent to a process: {worker.describe(error)}") from error


def _dumps(what: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(what)
    return file.getvalue()


class _Bare:
    """A code object, reduced as cloudpickle does it."""

    def __init__(self, code: CodeType) -> None:
        self._code = code

    def __reduce__(self) -> Any:
        return cloudpickle.Pickler.dispatch_table[CodeType](self._code)


def _code(code: CodeType) -> tuple[object, ...]:
    return operator.methodcaller("replace", co_filename=code.co_filename), (_Bare(code),)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """cloudpickle's pickler, except that code keeps the name of its file.

    cloudpickle from 3.1.3 on replaces it by ``<dynamic-code>``, and errors could not name the
    user's file and line.
    """

    dispatch_table: ClassVar = ChainMap({CodeType: _code}, cloudpickle.Pickler.dispatch_table)


class IsolatedReward:
    """Scores completions in worker processes. A :class:`winnow.rewards.base.Reward`.

    Args:
        name: What the run calls this reward.
        source: The verifier.
        time_limit: Seconds that one sample may take.
        workers: How many processes, each scoring one sample at a time.
        start_limit: Seconds that a process may take to import the verifier.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        time_limit: float = 10.0,
        workers: int = 2,
        start_limit: float = START_LIMIT,
    ) -> None:
        self.name = name
        self._stop = threading.Event()
        self._children = [
            _Child(source, time_limit, start_limit, self._stop) for _ in range(workers)
        ]
        self._lock = threading.Lock()
        # also when this is garbage-collected, and at the interpreter's exit
        self._finalizer = weakref.finalize(
            self, _close, self._children, self._stop, self._lock, os.getpid()
        )

    def start(self) -> None:
        """Start the first worker now rather than at the first sample; `StartError` if it fails."""
        with self._lock:
            self._children[0].start()

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score an item, in order. A failure, a hang or a death is that item's error.

        Raises:
            WinnowError: The reward is closed.
        """
        with self._lock:
            if not self._finalizer.alive:
                raise WinnowError(f"the reward {self.name!r} is closed")
            self._stop.clear()
            scores = [Score.failed("not scored")] * len(items)
            todo: SimpleQueue[int] = SimpleQueue()
            for index in range(len(items)):
                todo.put(index)

            def work(child: _Child) -> None:
                while not self._stop.is_set():
                    try:
                        index = todo.get_nowait()
                    except Empty:
                        return
                    scores[index] = child.score(*items[index])

            self._run(work, self._children[: len(items)])
            return scores

    def close(self) -> None:
        """Kill the workers and all that they have started. Safe to call twice."""
        self._finalizer()

    def _run(self, work: Callable[[_Child], None], children: list[_Child]) -> None:
        """Work with each child in a thread of its own; stop them all if one fails."""
        with ThreadPoolExecutor(max(1, len(children))) as pool:
            futures = [pool.submit(work, child) for child in children]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # KeyboardInterrupt above all: leaving ``with`` waits for threads
                self._stop.set()
                raise


def _close(children: list[_Child], stop: threading.Event, lock: threading.Lock, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner ends; the workers are not its own
        return
    stop.set()
    with lock:
        for child in children:
            child.kill()


class _Child:
    """One worker process: started at its first sample, and anew after each death."""

    def __init__(
        self, source: Source, time_limit: float, start_limit: float, stop: threading.Event
    ) -> None:
        self._source = source
        self._time_limit = time_limit
        self._start_limit = start_limit
        self._stop = stop
        self._process: subprocess.Popen[bytes] | None = None
        self._life: int | None = None

    def start(self) -> None:
        """Start the process and have it load the verifier, unless it is running.

        Raises:
            StartError: It cannot be started, or its verifier cannot be loaded.
        """
        if self._process is not None:
            return
        try:
            self._spawn()
            error = self._ask(self._source.start_message(), self._start_limit).get("error")
        except OSError as failure:  # no memory, too many processes, a folder that is gone
            self.kill()
            raise StartError(f"no process for the verifier: {worker.describe(failure)}") from None
        except _Dead:
            raise StartError(f"{self._death()} while it was loaded") from None
        except _Late:
            self.kill()
            raise StartError(f"it was not loaded within {self._start_limit:g} s") from None
        except BaseException:
            self.kill()
            raise
        if error is not None:
            self.kill()
            raise StartError(str(error))

    def score(self, prompt: Prompt, completion: str) -> Score:
        """The score of one sample, or why there is none."""
        try:
            request = _dumps((prompt, completion))
        except Exception as error:  # noqa: BLE001 (pickling runs the code of what data holds)
            return Score.failed(f"the prompt cannot be sent: {worker.describe(error)}")
        try:
            self.start()
            reply = self._ask(request, self._time_limit)
            return Score(reply.get("value"), reply.get("error"))
        except StartError as error:
            return Score.failed(f"the verifier could not be started: {error}")
        except (_Dead, OSError, TypeError, ValueError):  # the last two: no such score
            return Score.failed(self._death())
        except _Late:
            return Score.failed(self._death(late=True))
        except _Interrupted:
            self.kill()
            return Score.failed("scoring was interrupted")
        except BaseException:  # an unread reply would be taken for the next sample's
            self.kill()
            raise

    def kill(self) -> int | None:
        """Kill the process and all that it has started; return its exit code, if any."""
        process, self._process = self._process, None
        life, self._life = self._life, None
        code = None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            # Already dead is fine (macOS then refuses permission). Before it is reaped: until then
            # its group's number is nobody else's.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            process.stdin.close()
            process.stdout.close()
        if life is not None:
            os.close(life)
        return code

    def _spawn(self) -> None:
        ours, self._life = os.pipe()
        try:
            # Not multiprocessing: it would run the user's script again. As a file with -P, so that
            # neither this folder (which has a "numbers.py") nor the user's hides a standard module.
            self._process = subprocess.Popen(
                [sys.executable, "-P", worker.__file__, str(ours)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                cwd=self._source.folder,
                pass_fds=(ours,),
                start_new_session=True,  # a group to kill as one, out of reach of Ctrl-C
            )
        finally:
            os.close(ours)
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def _death(self, late: bool = False) -> str:
        """Reap the process; return what it died of."""
        if not late:
            self._let_exit()
        code = self.kill()
        if late and code in (None, -signal.SIGKILL):
            return f"no score within {self._time_limit:g} s"
        if code is None or code >= 0:
            return f"the verifier's process ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the verifier's process was killed by {name}{hint}"

    def _let_exit(self) -> None:
        """Wait a moment for its exit code: its pipes close a little before it is gone."""
        deadline = time.monotonic() + _GRACE
        while self._process is not None and hasattr(os, "waitid"):  # macOS has it from 3.13 on
            options = os.WEXITED | os.WNOWAIT | os.WNOHANG  # without reaping it: see ``kill``
            if os.waitid(os.P_PID, self._process.pid, options) or time.monotonic() > deadline:
                return
            time.sleep(0.01)

    def _ask(self, request: bytes, limit: float) -> dict[str, Any]:
        """Send a message and wait for the answer, no longer than the limit for both."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit
        self._send(self._process.stdin.fileno(), request, deadline)
        pipe = self._process.stdout.fileno()
        (length,) = worker.LENGTH.unpack(self._receive(pipe, worker.LENGTH.size, deadline))
        if length > _LONGEST_REPLY:
            raise _Dead
        try:
            reply = json.loads(self._receive(pipe, length, deadline))
        except ValueError:
            raise _Dead from None
        if not isinstance(reply, dict):
            raise _Dead
        return reply

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
        poll = select.poll()
        poll.register(pipe, event)
        while True:
            left = deadline - time.monotonic()
            if poll.poll(math.ceil(1000 * min(max(left, 0.0), _POLL))):
                return
            if left <= 0:
                raise _Late
            if self._stop.is_set():
                raise _Interrupted
