"""The process above a worker: it ends all that a verifier has started and bounds what it may use.

    winnow --- supervisor --- worker (runs the verifier) --- whatever the verifier starts

It runs nothing of the user's, so no verifier keeps it from acting. On Linux it adopts the orphans
below it (PR_SET_CHILD_SUBREAPER), so that a process in a session of its own is found and killed
too, and watches the memory of all of them. Elsewhere it kills the worker's process group.

It runs as a plain file and imports only the standard library. Its arguments are a socket, the limit
of memory in bytes (0: none) and the worker's file. When the other end of the socket is shut down,
or the worker ends, it kills everything and sends one JSON, {"code": how the worker ended, as
`subprocess` has it, "memory": whether it used too much, "printed": the end of what it printed}.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_POLL = 0.1  # seconds between two looks at the memory
_UNKILLABLE = 3.0  # seconds that killed processes may take to be gone
_SHOWN = 64 * 1024  # characters of a worker's output that reach stderr
_KEPT = 300  # characters of its end that are kept
_PIECE = 4096  # what a pipe that is ready takes without blocking (PIPE_BUF)
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LISTS_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_CUT = b"\n(the verifier prints more, which is not shown)\n"


def main() -> NoReturn:
    """Start the worker, wait for an end, kill everything, report."""
    control, most, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.set_inheritable(control, False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    deaths = _wake_at_deaths()
    ours, theirs = os.pipe()
    me = os.getpid()
    worker = os.fork()
    if worker == 0:
        _become(program, theirs, me)
    nothing = os.open(os.devnull, os.O_RDWR)
    for used in (0, 1):  # the worker's pipes to and from Winnow, which end when it does
        os.dup2(nothing, used)
    os.close(theirs)
    output = _Output(ours)
    code, greedy = _watch(worker, control, deaths, output, most)
    code = _end_all(worker, code)
    output.take_all()
    report = {"code": code, "memory": greedy, "printed": output.end()}
    with contextlib.suppress(OSError):  # nobody is there to read it
        os.write(control, json.dumps(report).encode())
    os._exit(0)


def _become(program: str, output: int, supervisor: int) -> NoReturn:
    """Turn into the worker, in a session of its own, which the kernel kills first."""
    try:
        os.setsid()
        os.dup2(output, 2)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:  # else it is gone already, and no signal will come
            os.execv(sys.executable, [sys.executable, "-P", program])
    finally:
        os._exit(1)


def _watch(
    worker: int, control: int, deaths: int, output: _Output, most: int
) -> tuple[int | None, bool]:
    """Wait for an end: how the worker died, if it did, and whether it used too much memory."""
    poll = select.poll()
    for pipe in (control, deaths, output.pipe):
        poll.register(pipe, select.POLLIN)
    while True:
        ready = {pipe for pipe, _ in poll.poll(1000 * _POLL if most else None)}
        if output.pipe in ready and not output.take():
            poll.unregister(output.pipe)
        if deaths in ready:
            os.read(deaths, _PIECE)
            code = _reap(worker)
            if code is not None:
                return code, False
        if control in ready:
            return None, False
        if most and _is_above(most):
            return None, True


def _reap(worker: int) -> int | None:
    """Bury the dead, adopted ones too; how the worker ended, if it was among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (dead := os.waitpid(-1, os.WNOHANG))[0]:
            if dead[0] == worker:
                code = os.waitstatus_to_exitcode(dead[1])
    return code


def _end_all(worker: int, code: int | None) -> int | None:
    """Kill all that is below until nothing is left; how the worker ended."""
    deadline = time.monotonic() + _UNKILLABLE
    while time.monotonic() < deadline:
        if (
            code is None or sys.platform != "linux"
        ):  # once it is buried, its number may be another's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker, signal.SIGKILL)
        for pid in _below(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                if dead[0] == worker:
                    code = os.waitstatus_to_exitcode(dead[1])
        except ChildProcessError:  # of none, and so of no orphan either
            break
        time.sleep(0.005)
    return code


def _below(pid: int) -> list[int]:
    """All descendants of a process, by /proc; on Linux only."""
    if sys.platform != "linux":
        return []
    children = _children_listed if _LISTS_CHILDREN else _all_children().get
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children(todo.pop()) or []
        found += below
        todo += below
    return found


def _children_listed(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):  # it is gone
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    return found


def _all_children() -> dict[int, list[int]]:
    """The children of every process: for kernels that do not list them (CONFIG_PROC_CHILDREN)."""
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
                found.setdefault(parent, []).append(int(name))
    return found


def _is_above(most: int) -> bool:
    """Whether the processes below use more bytes than that.

    Pages that they share count for each in the quick sum, and once in the sum that decides.
    """
    pids = _below(os.getpid())
    return sum(map(_resident, pids)) > most and sum(map(_proportional, pids)) > most


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return _PAGE * int(file.read().split()[1])
    except OSError:
        return 0


def _proportional(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return _resident(pid)


class _Output:
    """What the worker and all below it print: shown on stderr up to a limit, its end kept.

    Control characters are escaped: a verifier prints what a model wrote.

    Attributes:
        pipe: Where it is read.
    """

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self.pipe, self._last = pipe, ""
        self._left = _SHOWN
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def take(self) -> bool:
        """Read what is there; False at the end."""
        try:
            data = os.read(self.pipe, 16 * _PIECE)
        except BlockingIOError:
            return True
        text = self._decode(data)
        self._last = (self._last + text)[-_KEPT:]
        if text and self._left:
            self._show(_escaped(text[: self._left]).encode())
            self._left = max(0, self._left - len(text))
            if not self._left:
                self._show(_CUT)
        return bool(data)

    def end(self) -> str:
        """Its last characters, on one line."""
        return _escaped(" ".join(self._last.split()))[-_KEPT:]

    def take_all(self) -> None:
        """Read what is left, when nobody writes any more."""
        deadline = time.monotonic() + _UNKILLABLE
        while select.select([self.pipe], [], [], 0)[0] and self.take():
            if time.monotonic() > deadline:
                return

    def _show(self, data: bytes) -> None:
        """Write as much as stderr takes: waiting for it would keep a hanging worker alive."""
        poll = select.poll()
        with contextlib.suppress(OSError):
            poll.register(2, select.POLLOUT)
            for start in range(0, len(data), _PIECE):
                if poll.poll(_POLL * 1000):
                    os.write(2, data[start : start + _PIECE])


def _escaped(text: str) -> str:
    """The text with its lines and tabs, all else that is unprintable escaped."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def _wake_at_deaths() -> int:
    """A pipe that can be read once a child has ended."""
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.set_blocking(theirs, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # or there is nothing to wake up for
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    return ours


def _prctl(option: int, value: int) -> None:
    """A call to the Linux kernel; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
