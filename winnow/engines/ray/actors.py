"""What Ray places: an actor for each learner process, and one for each vLLM server.

They hold no torch and no model. What they start is supervised, so it ends when they do.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from winnow.engines.ray.child import Child
from winnow.engines.ray.placement import Seat, door, of_child
from winnow.engines.ray.servers import Placed
from winnow.engines.vllm.process import Plan, Process, free_port

GONE = 128 + signal.SIGKILL


class Learner:
    """One of the processes that train; that of rank 0 is the command itself.

    Args:
        name: Of its log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._child: Child | None = None

    def seat(self) -> Seat:
        """Where it is."""
        import ray

        context = ray.get_runtime_context()
        gpus = tuple(str(gpu) for gpu in ray.get_gpu_ids())
        address = ray.util.get_node_ip_address()
        return Seat(context.get_node_id(), address, gpus, platform.node())

    def free_port(self) -> int:
        """A port of its machine."""
        return free_port("")

    def start(
        self,
        words: Sequence[str],
        command: Mapping[str, str],
        own: Mapping[str, str],
        folders: tuple[Path, Path],
        servers: Sequence[Any],
    ) -> bool:
        """Start `winnow WORDS`.

        Args:
            command: Variables of the command that was given.
            own: Variables by which the process knows which one it is.
            folders: The working folder, and that of the run.
            servers: Actors of the servers, for rank 0.

        Returns:
            Whether the working folder is there.
        """
        if not folders[0].is_dir():
            return False
        more = door(*Placed(servers).opened()) if servers else {}
        environment = of_child(command, {**own, **more})
        line = [sys.executable, "-m", "winnow", *words]
        self._child = Child(line, environment, *folders, self._name)
        return True

    def wait(self) -> int:
        """See `Child.wait`."""
        assert self._child is not None
        return self._child.wait()

    def said(self) -> bytes:
        """See `Child.said`."""
        assert self._child is not None
        return self._child.said()

    def signal(self, number: int) -> None:
        """See `Child.signal`."""
        if self._child is not None:
            self._child.signal(number)

    def close(self) -> None:
        """See `Child.close`."""
        if self._child is not None:
            self._child.close()


class Server:
    """One vLLM server. An actor that Ray has started anew has none until it is told to.

    Args:
        command: Variables of the command that was given.
    """

    def __init__(self, command: Mapping[str, str]) -> None:
        os.environ.update(command)  # for the server, which gets those of this process
        self._process: Process | None = None

    def address(self) -> str:
        """Of its machine."""
        import ray

        return str(ray.util.get_node_ip_address())

    def start(self, plan: Plan, number: int, model: Path) -> str:
        """Start it, in place of one that runs; its URL."""
        self.close()
        here = replace(plan, host=self.address(), sweeps=False)
        self._process = Process(here, number, model)
        return self._process.url

    def ended(self) -> int | None:
        """See `Process.ended`."""
        return GONE if self._process is None else self._process.ended

    def last_words(self) -> str:
        """See `Process.last_words`."""
        return "" if self._process is None else self._process.last_words()

    def close(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.close()
            self._process = None
