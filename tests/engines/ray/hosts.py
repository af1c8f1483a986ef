"""Hosts on this machine: each has an address, a name, processes and a /dev/shm of its own.

They are namespaces of Linux behind one switch, and share the disk. It takes root, and `unshare`,
`nsenter` (util-linux) and `ip` (iproute2).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_FIRST = """
import signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody is left a zombie
print("up", flush=True)
sys.stdin.read()
"""
"""The first process of a host: with it all others end."""
_ALL = ("--net", "--uts", "--mount", "--pid")


class Host:
    """A machine that others know by its address.

    Attributes:
        address: Of its network interface.
    """

    def __init__(self, switch: int | None, number: int, folder: Path) -> None:
        self.name, self.address = f"host-{number}", f"10.77.0.{number}"
        new = ["unshare", *_ALL, "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen(
            [*new, sys.executable, "-I", "-c", _FIRST],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # that its child was killed
            text=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise OSError("this machine lets nobody make namespaces")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._first = int(children.read_text().split()[0])
        boot = folder / f"{self.name}.boot"
        boot.write_text(f"{uuid.uuid4()}\n")
        names = folder / f"{self.name}.hosts"
        names.write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        self._do(f"hostname {self.name}")
        self._do(f"mount --bind {boot} /proc/sys/kernel/random/boot_id")
        self._do(f"mount --bind {names} /etc/hosts")
        self._do("mount -t tmpfs -o size=4g tmpfs /dev/shm")
        self._do("ip link set lo up")
        if switch is None:
            self._do("ip link add switch type bridge", "ip link set switch up")
            return
        port = f"port{number}"
        at_switch = ["nsenter", f"--target={switch}", "--net", "ip", "link"]
        cable = f"add {port} type veth peer name eth0 netns {self._first}"
        for words in (cable, f"set {port} master switch up"):
            subprocess.run([*at_switch, *words.split()], check=True)
        self._do(f"ip addr add {self.address}/24 dev eth0", "ip link set eth0 up")

    @property
    def first(self) -> int:
        """The number of its first process."""
        return self._first

    def has(self, number: int) -> bool:
        """Whether a process is one of its own."""
        spaces = [Path(f"/proc/{n}/ns/pid") for n in (self._first, number)]
        return os.readlink(spaces[0]) == os.readlink(spaces[1])

    def on(self, *command: str, folder: Path = Path("/")) -> list[str]:
        """A command that runs another there."""
        return ["nsenter", f"--target={self._first}", *_ALL, f"--wdns={folder}", "--", *command]

    def own(self, folder: Path) -> None:
        """Have a folder that other hosts do not see, at a path that they may have too."""
        self._do(f"mount -t tmpfs -o size=1g tmpfs {folder}")

    def _do(self, *lines: str) -> None:
        for line in lines:
            subprocess.run(self.on(*line.split()), check=True)

    def listened(self) -> set[int]:
        """The ports of TCP that somebody listens at."""
        table = ["cat", "/proc/net/tcp", "/proc/net/tcp6"]
        said = subprocess.run(self.on(*table), check=True, capture_output=True, text=True).stdout
        rows = [line.split() for line in said.splitlines()]
        return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}

    def close(self) -> None:
        """As if its power were cut."""
        with suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)
        self._process.communicate()


class Hosts:
    """Hosts behind one switch, which is one more of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made = [Host(None, 250, folder)]

    def add(self) -> Host:
        self._made.append(Host(self._made[0].first, len(self._made), self._folder))
        return self._made[-1]

    def close(self) -> None:
        for host in reversed(self._made):
            host.close()


def possible() -> bool:
    """Whether there can be any on this machine."""
    tools = all(map(shutil.which, ("unshare", "nsenter", "ip", "mount", "hostname")))
    tried = ["unshare", *_ALL, "--fork", "--mount-proc", "true"]
    return tools and subprocess.run(tried, capture_output=True).returncode == 0


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Behind a switch, none yet."""
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        made = Hosts(Path(folder))
        try:
            yield made
        finally:
            made.close()
