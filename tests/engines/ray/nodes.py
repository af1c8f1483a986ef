"""A Ray cluster of several nodes on this machine, and the processes of a run on it.

Each node is a raylet with resources of its own; they share the machine and its address.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import tiny
from tests.engines.fsdp.test_torchrun import alive, below
from tests.engines.ray.hosts import Host

ROOT = Path(__file__).parents[3]
RECIPE = """
model = {model}
steps = {steps}
prompts_per_step = 8
samples_per_prompt = 4
algorithm = "raft"
report = false
reward.name = "exact"
sampling.max_tokens = 4
optimizer.lr = 1e-5
checkpoint.every = 2
eval.size = 0
prompts.source = "problems.jsonl"
ray.ranks = 2
ray.learner = {{learner = 1}}
ray.server = {{server = 1}}
engine.learner = "fsdp"
"""
SERVERS = """
engine.sampler = "vllm"
engine.servers = 2
engine.vllm_python = "./python"
engine.timeout = 120.0
"""
_MARK = "WINNOW_TEST_MARK"
_TOKEN = uuid.uuid4().hex
"""Of the clusters here: nobody else on this machine is to use them."""
_SOON = 900.0
"""Seconds that anything may take: on a machine that does much else, a run of seconds is minutes."""


def laid_out(folder: Path, model: Path, steps: int = 4, *, servers: bool = False) -> None:
    """A recipe and what it names."""
    text = RECIPE.format(model=json.dumps(str(model)), steps=steps)
    (folder / "recipe.toml").write_text(text + (SERVERS if servers else ""))
    rows = "".join(json.dumps(row) + "\n" for row in tiny.problems())
    (folder / "problems.jsonl").write_text(rows)
    python = folder / "python"
    python.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "if sys.argv[1] == '-c':\n"
        "    print('/nowhere'); print('numpy vllm')\n"
        "else:\n"
        f"    served = {str(ROOT / 'tests/engines/ray/served.py')!r}\n"
        f"    os.execv({sys.executable!r}, [{sys.executable!r}, served, *sys.argv])\n"
    )
    python.chmod(python.stat().st_mode | stat.S_IEXEC)


def environment(**more: str) -> dict[str, str]:
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore", "COLUMNS": "100"}
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
    own |= {"RAY_worker_niceness": "0"}  # by default workers yield to all else on the machine
    own |= {"RAY_memory_monitor_refresh_ms": "0"}  # what else is on the machine may fill it
    return {**os.environ, "PYTHONPATH": str(ROOT), **quiet, **own, **more}


class Node:
    """A raylet, with the head of the cluster if it is the first.

    Args:
        host: Where it is, if not beside the others.
        given: Resources, and variables of its own.
    """

    def __init__(
        self, cluster: Cluster, head: bool, host: Host | None, given: dict[str, float | str]
    ) -> None:
        resources = {name: value for name, value in given.items() if not isinstance(value, str)}
        own = {name: value for name, value in given.items() if isinstance(value, str)}
        where = ["--head", f"--port={cluster.port}"] if head else [f"--address={cluster.address}"]
        ray = str(Path(sys.executable).with_name("ray"))
        words = [
            *(ray, "start", "--block", *where, "--num-cpus=4"),
            *(f"--resources={json.dumps(resources)}", f"--object-store-memory={80 * 2**20}"),
            *(["--include-dashboard=false"] if head else []),
        ]
        self.process = subprocess.Popen(
            words if host is None else host.on(*words),
            env=environment(
                **{"RAY_TMPDIR": cluster.folder, "RAY_raylet_start_wait_time_s": "120", **own}
            ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def raylet(self) -> int | None:
        found = [n for n in below(self.process.pid) if "/raylet/raylet" in command(n)]
        return found[0] if found else None

    def remove(self) -> None:
        """As if the machine were gone from the cluster: its raylet is killed."""
        number = self.raylet()
        assert number is not None
        os.kill(number, signal.SIGKILL)

    def close(self) -> None:
        for number in below(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


class Cluster:
    """Nodes that this process has started, and ends.

    Args:
        head: The host of the first of them, if not this machine.
    """

    def __init__(self, folder: str, head: Host | None = None) -> None:
        self.folder = folder
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            self.port = listening.getsockname()[1]
        self.address = f"{'127.0.0.1' if head is None else head.address}:{self.port}"
        self.nodes: list[Node] = []

    def add(self, host: Host | None = None, **given: float | str) -> Node:
        if host is not None:
            host.own(Path(self.folder))
        node = Node(self, not self.nodes, host, given)
        self.nodes.append(node)
        waits("no raylet", lambda: node.raylet() is not None)
        return node


@contextmanager
def cluster(head: Host | None = None) -> Iterator[Cluster]:
    """A cluster without nodes; see `Cluster`."""
    with tempfile.TemporaryDirectory(prefix="wr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(folder, head)
        try:
            yield made
        finally:
            for node in reversed(made.nodes):
                node.close()


class Started:
    """`winnow WORDS`, with a mark by which all that it starts is known.

    Args:
        host: Where the command is given, if not here.
    """

    def __init__(self, folder: Path, *words: str, host: Host | None = None, **more: str) -> None:
        self.mark = uuid.uuid4().hex
        self._there = host is not None
        line = [sys.executable, "-m", "winnow", *words]
        self.process = subprocess.Popen(
            line if host is None else host.on(*line, folder=folder),
            cwd=folder,
            env=environment(**{_MARK: self.mark}, **more),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def signal(self, number: int) -> None:
        """Send the command a signal."""
        (own,) = children(self.process.pid) if self._there else [self.process.pid]
        os.kill(own, number)

    def processes(self) -> list[int]:
        """All that carry the mark and live, the command itself included."""
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [n for n in numbers if environ(n).get(_MARK) == self.mark and alive(n)]

    def ranks(self) -> dict[int, int]:
        """The processes that train, by rank."""
        made: dict[int, int] = {}
        for number in self.processes():
            if "-m winnow train" in command(number) and "supervisor" not in command(number):
                rank = environ(number).get("RANK")
                if rank is not None:
                    made[int(rank)] = number
        return made

    def servers(self) -> list[int]:
        """The processes of servers."""
        said = {number: command(number) for number in self.processes()}
        return [
            number
            for number, line in said.items()
            if ("served.py" in line or "api_server" in line)
            and "--model" in line
            and "supervisor" not in line
        ]

    def ports(self) -> list[int]:
        """What is listened at by ranks and servers."""
        found = [environ(number).get("MASTER_PORT", "") for number in self.ranks().values()]
        for number in self.servers():
            words = command(number).split()
            found.append(words[words.index("--port") + 1])
        return sorted({int(port) for port in found if port})

    def waits(self, what: str, until: Any, seconds: float = _SOON) -> None:
        """Wait for what it does, while it runs."""

        def there() -> bool:
            if self.process.poll() is not None and not until():
                raise AssertionError(f"{what}: {self.finished()[1]}")
            return bool(until())

        waits(what, there, seconds)

    def finished(self, timeout: float = _SOON) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, said

    def close(self) -> None:
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@contextmanager
def started(folder: Path, *words: str, host: Host | None = None, **more: str) -> Iterator[Started]:
    made = Started(folder, *words, host=host, **more)
    try:
        yield made
    finally:
        made.close()


def actor_of(number: int) -> int:
    """The worker of Ray that a supervised process belongs to: beyond both of its supervisors."""
    for _ in range(3):
        number = parent(number)
    assert "ray::" in command(number), command(number)
    return number


def parent(number: int) -> int:
    return int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[1])


def children(number: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def command(number: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def environ(number: int) -> dict[str, str]:
    with suppress(OSError):
        text = Path(f"/proc/{number}/environ").read_text(errors="replace")
        return dict(word.split("=", 1) for word in text.split("\0") if "=" in word)
    return {}


def listened(port: int) -> bool:
    here = {"127.0.0.1", socket.gethostbyname(socket.gethostname())}
    with ExitStack() as stack:
        asking = [(stack.enter_context(socket.socket()), host) for host in here]
        return any(one.connect_ex((host, port)) == 0 for one, host in asking)


def waits(what: str, until: Any, seconds: float = _SOON) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def rows(folder: Path) -> int:
    """Steps that a run has made."""
    path = folder / "run" / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
