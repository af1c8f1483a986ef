"""Runs a server, and ends it with all its processes when its parent is gone: a script by itself.

    python supervisor.py FOLDER COMMAND...

Its standard input is held open by the parent: that it ends means that the server is to end. If it
ends because the parent was killed, FOLDER is removed too, unless it is "". The first line that it
prints is the number of the server's process group.

It is two processes: what ends a parent may kill the parent's own children with it, as Ray does,
and the one that watches over the server is not one of these.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

_EVERY = 0.25
_GRACE = 10.0
"""Seconds that a server may take to end by itself."""


def main() -> int:
    """Run the server until it ends, or is to end; its exit code, or 128 and a signal's number."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what Ray starts has it blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    parent = os.getppid()
    folder, *command = sys.argv[1:]
    front = os.getpid()
    if not (watcher := os.fork()):
        return watch(command, front)
    code = os.waitstatus_to_exitcode(os.waitpid(watcher, 0)[1])
    if folder and os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return 128 - code if code < 0 else code


def watch(command: list[str], parent: int) -> int:
    """Run the server until it ends, the parent ends or standard input does; see `main`."""
    server = subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=sys.stderr
    )
    print(server.pid, flush=True)
    while server.poll() is None and os.getppid() == parent:
        if select.select([sys.stdin], [], [], _EVERY)[0] and not os.read(0, 1024):
            break
    end(server)
    code = server.returncode
    return 128 - code if code < 0 else code


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server and what it started: kindly, then not."""
    if server.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:  # of one that was killed, the others live on
        try:
            os.killpg(server.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # all gone, or only a zombie is left
            break
        server.poll()
        time.sleep(0.05)
    server.wait()


if __name__ == "__main__":
    sys.exit(main())
