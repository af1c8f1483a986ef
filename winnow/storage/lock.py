"""One process at a time writes to a folder, as far as that can be known: also on a shared disk.

The lock is the kernel's, on a file in the folder, so it ends with its process, however that ends. A
kernel knows nothing of other machines where a file system does not pass locks on; for these the
file says who holds it: host, process, start.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from winnow.errors import UserError
from winnow.storage.atomic import disk
from winnow.storage.paths import shown

LOCK = ".lock"
"""The file; it is there while a process writes to its folder, and after one was killed."""


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names.

    Attributes:
        boot: Identifies the running kernel; another after a restart of the machine.
        space: Its process numbers are of this namespace (a container has its own).
        ticks: When it started, by the kernel's clock: numbers of processes come again.
        since: When it took the lock.
    """

    host: str
    pid: int
    boot: str
    space: str
    ticks: str
    since: str

    @classmethod
    def this(cls) -> Holder:
        """The process that asks."""
        pid = os.getpid()
        space = ""
        with suppress(OSError):
            space = os.readlink("/proc/self/ns/pid")
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        boot = _read("/proc/sys/kernel/random/boot_id")
        return cls(platform.node(), pid, boot, space, _ticks(pid), since)

    @property
    def gone(self) -> bool:
        """Whether it has surely ended, without asking the lock."""
        here = Holder.this()
        if self.boot != here.boot:
            return self.host == here.host  # this machine has been restarted since
        return self.space == here.space and self.ticks != _ticks(self.pid)

    def under(self, kernel: Holder) -> bool:
        """Whether a free lock means that it has ended: it ran under this kernel or before it."""
        return self.host == kernel.host or (self.boot != "" and self.boot == kernel.boot)


class FolderLock:
    """Locks a folder from `take` to the end of the block.

    Args:
        setting: What messages are about.
    """

    def __init__(self, setting: str = "resume") -> None:
        self._setting = setting
        self._folder: Path | None = None
        self._handle, self._owner = -1, os.getpid()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self, folder: Path) -> None:
        """Lock a folder.

        Raises:
            UserError: another process writes to it, or may do so on another machine.
            DiskError: it cannot be written to.
        """
        path = folder / LOCK
        with disk(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            while not _is(path, handle):  # its last holder has just removed it
                os.close(handle)
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._claim(folder, handle)
            with disk(path):
                os.ftruncate(handle, 0)
                os.pwrite(handle, (json.dumps(asdict(Holder.this())) + "\n").encode(), 0)
                os.fsync(handle)
            self._handle, self._folder, self._owner = handle, folder, os.getpid()
            _HELD.add(handle)
        finally:
            if handle not in _HELD:
                os.close(handle)

    def _claim(self, folder: Path, handle: int) -> None:
        other = _holder(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal(folder, other, "wait until it ends, or stop it") from error
        except OSError:  # a file system without locks
            free = other is None or other.gone
        else:
            free = other is None or other.under(Holder.this())
            if not _is(folder / LOCK, handle):  # it was taken and let go of meanwhile
                raise self._refusal(folder, None, "try again")
        if not free:
            path = folder / LOCK
            remedy = f"wait until it ends, or if it has ended remove {path}"
            raise self._refusal(folder, other, remedy, "may be")

    def _refusal(
        self, folder: Path, other: Holder | None, remedy: str, verb: str = "is"
    ) -> UserError:
        who = ""
        if other is not None:
            who = f" (process {other.pid} on {other.host} since {other.since}; "
            who += f"it last wrote at {_last_write(folder)})"
        problem = f"another winnow {verb} writing to {shown(folder)}{who}"
        return UserError(self._setting, problem, remedy)

    @property
    def held(self) -> bool:
        return self._folder is not None

    def moved(self, folder: Path) -> None:
        """The locked folder has another name."""
        self._folder = folder

    def release(self) -> None:
        """Let go of the folder, if it is locked."""
        if self._folder is None or self._owner != os.getpid():
            return
        path = self._folder / LOCK
        with suppress(OSError):
            if _is(path, self._handle):
                path.unlink()
        os.close(self._handle)
        _HELD.discard(self._handle)
        self._folder = None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder during the block.

    Raises:
        UserError: another process writes to it.
    """
    with FolderLock() as lock:
        lock.take(folder)
        yield


def forsaken(folder: Path, host: str) -> bool:
    """Remove the lock that a process of another machine has left, which is known to have ended.

    Args:
        host: The machine's name.

    Returns:
        Whether there was one.
    """
    path = folder / LOCK
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        holder = _holder(handle)
        if holder is None or holder.host != host:
            return False
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)


def written_to(folder: Path) -> bool:
    """Whether a process seems to write to a folder; asking takes no lock, so it disturbs none."""
    try:
        with (folder / LOCK).open("rb") as file:
            holder = _holder(file.fileno())
    except OSError:
        return False
    return holder is not None and not holder.gone


_HELD: set[int] = set()
"""Handles of this process's locks."""


def _let_go() -> None:
    """In a copy of the process, which may outlive it, locks are not held."""
    for handle in _HELD:
        with suppress(OSError):
            os.close(handle)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


def _is(path: Path, handle: int) -> bool:
    """Whether a path still names an open file."""
    try:
        there, mine = path.stat(), os.fstat(handle)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _holder(handle: int) -> Holder | None:
    """What a lock file says; ``None`` where that is nothing, or half of it."""
    with suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(os.pread(handle, 4096, 0)))
    return None


def _last_write(folder: Path) -> str:
    """When something in a folder last changed."""
    times = []
    for path in (folder, *folder.glob("*"), *folder.glob("*/*")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(max(times, default=0)))


def _ticks(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where there is none, or no /proc."""
    after = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return after[19] if len(after) > 19 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
