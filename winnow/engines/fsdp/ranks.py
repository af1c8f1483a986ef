"""The processes of a run: rank 0 commands, the others do the same on their part of the model.

`torchrun` starts them. A process that was started alone is the only one of its run, over the same
code. Commands and objects travel over gloo, on the CPU; the model's tensors over gloo or NCCL.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from winnow.engines.learning.microbatches import Rank
from winnow.errors import WinnowError
from winnow.rewards.source import dumps

T = TypeVar("T")

_WAITS = timedelta(days=30)
"""For a command: rewards may take long."""
OVER = "over"
"""Set by rank 0 when it ends."""
_TELLS = 2.0
"""Seconds that a process that fails is given to say why."""


class Lost(WinnowError):
    """Another process has ended."""


class Store(Protocol):
    """What processes found each other with: values by name, of `torch.distributed`."""

    def set(self, name: str, value: Any, /) -> None: ...
    def get(self, name: str, /) -> bytes: ...
    def check(self, names: list[str], /) -> bool: ...


class Team:
    """The processes that share a model.

    Args:
        device: Of this process.
        store: What they found each other with.
    """

    def __init__(self, device: torch.device, store: Store, rank: Rank) -> None:
        self.rank, self.device = rank, device
        self._store = store
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, store=cast(Any, store), rank=rank.number, world_size=rank.of
        )
        self.commands = dist.new_group(backend="gloo", timeout=_WAITS)
        self.mesh: DeviceMesh = init_device_mesh(device.type, (rank.of,))
        self._unfinished: Callable[[], object] | None = None
        self._told = False

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank.number == 0

    def tell(self, function: Callable[..., object], *given: object) -> None:
        """Have the other processes call a function; rank 0 alone, which then does its own part.

        Args:
            given: What they call it with, behind their own worker.
        """
        if self._unfinished is not None:
            finish, self._unfinished = self._unfinished, None
            finish()
        self._told = True
        if self.rank.of > 1:
            self._broadcast(dumps((sys.path, function, given)))

    def done(self) -> None:
        """The others have done, or will do, all that they were told."""
        self._told = False

    def run(self, worker: object, function: Callable[..., T], *given: object) -> T:
        """Have every process call a function; give back what it gave here.

        Raises:
            WinnowError: another process has ended, or raised it.
        """
        self.tell(function, *given)
        with self.noticing():
            found = function(worker, *given)
        self.done()
        return found

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """In the block, an error that comes of another process's end says so.

        Raises:
            WinnowError: another process has ended, or told that it failed.
        """
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from error

    def hear(self) -> tuple[Callable[..., object], tuple[object, ...]] | None:
        """The next command, for a process that follows; ``None``: the run is over."""
        heard = self._broadcast(b"")
        if not heard:
            return None
        path, function, given = pickle.loads(heard)
        sys.path += [folder for folder in path if folder not in sys.path]
        return function, given

    def later(self, finish: Callable[[], object]) -> None:
        """Finish something only if there is another command: what was left in its middle."""
        self._unfinished = finish

    def everyone(self, own: T) -> list[T]:
        """What each process has, by rank."""
        found: list[Any] = [None] * self.rank.of
        with self.noticing():
            dist.all_gather_object(found, own, group=self.commands)
        return found

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in the place of what this one has."""
        dist.all_reduce(tensor)
        return tensor

    def failed(self, error: BaseException) -> None:
        """Say why this process ends, so that rank 0 can."""
        told = error
        if not isinstance(error, WinnowError):
            told = WinnowError(f"rank {self.rank.number}: {type(error).__name__}: {error}")
        self._store.set(f"failed/{self.rank.number}", pickle.dumps(told))

    def end(self) -> None:
        """Tell the others that the run is over.

        Those that are in the middle of something see it when this process is gone.
        """
        self._store.set(OVER, "1")
        if not self._told:
            if self.rank.of > 1:
                self._broadcast(b"")
            dist.destroy_process_group()

    @property
    def over(self) -> bool:
        """Whether rank 0 has ended the run."""
        try:
            return self._store.check([OVER])
        except RuntimeError:
            return False

    @staticmethod
    def is_lost(error: BaseException) -> bool:
        """Whether an error may be that another process has ended."""
        text = str(error).lower()
        words = ("by peer", "broken pipe", "gloo", "nccl")
        return isinstance(error, RuntimeError) and any(word in text for word in words)

    def lost(self, error: RuntimeError) -> BaseException:
        """What an error is, if it is that another process has ended."""
        if not self.is_lost(error):
            return error
        if not self.leads:
            return Lost("rank 0 is gone")
        until = time.monotonic() + _TELLS
        while time.monotonic() < until:
            for number in range(self.rank.of):
                with suppress(RuntimeError):
                    if self._store.check([f"failed/{number}"]):
                        told: WinnowError = pickle.loads(self._store.get(f"failed/{number}"))
                        return told
            time.sleep(0.1)
        return Lost(
            "another process of this run has ended, so the run has; what was saved is whole: "
            "start all processes again with --resume"
        )

    def _broadcast(self, what: bytes) -> bytes:
        held = [what]
        with self.noticing():
            dist.broadcast_object_list(held, src=0, group=self.commands)
        return held[0]
