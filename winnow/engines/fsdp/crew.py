"""How the processes that `torchrun` started find each other, follow rank 0 and end.

Rank 0 runs the command. The others wait for it to read a model, and then do what it does on their
part of it, until it ends. They let rank 0 answer signals, and end by themselves where it does not.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress

import torch
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed.rendezvous import rendezvous

from winnow.engines.devices import launched, pick_device
from winnow.engines.fsdp.ranks import OVER, Lost, Store, Team
from winnow.engines.fsdp.worker import MakeSampler, Worker
from winnow.engines.learning.microbatches import Rank
from winnow.errors import WinnowError

_BEGUN = "begun"
_GRACE = 5.0
"""Seconds that rank 0 has to end by itself after a signal, or after what fails here too."""
_worker: Worker | None = None
"""Of this process, which has one team at most."""


def lead(device: str, make_sampler: MakeSampler) -> Worker:
    """The worker of rank 0; the others join.

    Args:
        device: As the settings name it.
    """
    global _worker
    if _worker is None:
        own = own_device(device)
        rank = Rank(*launched())
        if rank.number:
            problem = f"this is process {rank.number} of {rank.of}"
            raise WinnowError(f"{problem}; start them with torchrun -m winnow train")
        store: Store = HashStore() if rank.of == 1 else _meeting()
        store.set(_BEGUN, device)
        _watch_parent(rank)
        _worker = Worker(Team(own, store, rank), make_sampler)
    return _worker


def dismiss() -> None:
    """Let the others end, as rank 0 does."""
    global _worker
    try:
        if _worker is not None:
            _worker.team.end()
        elif launched()[1] > 1:
            _meeting().set(OVER, "1")
    except (RuntimeError, WinnowError):
        pass  # they have ended
    _worker = None


def follow(make_sampler: MakeSampler) -> int:
    """Be one of the others until rank 0 ends; the exit code."""
    heard = {signal.SIGINT, signal.SIGTERM}
    asked, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)  # where a library has started threads already, one of them gets it
    for number in heard:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)  # threads that are started now inherit it
    threading.Thread(target=_end_after, args=(heard, asked), daemon=True).start()
    try:
        team = _joined()
    except (RuntimeError, WinnowError):
        return 1  # rank 0 is gone
    return 0 if team is None else serve(Worker(team, make_sampler))


def serve(worker: Worker) -> int:
    """Do what rank 0 does until it ends; the exit code."""
    team = worker.team
    while True:
        try:
            command = team.hear()
        except WinnowError:
            return 0 if team.over else 1  # rank 0 is gone
        if command is None:
            return 0
        function, given = command
        try:
            function(worker, *given)
        except Exception as error:  # noqa: BLE001 (told to rank 0, which raises it)
            if team.over:
                return 0
            if isinstance(error, Lost) or team.is_lost(error):
                return 1
            if not isinstance(error, WinnowError):
                traceback.print_exc()
            with suppress(RuntimeError):
                team.failed(error)
            return 0 if _is_over(team, within=_GRACE) else 1


def _is_over(team: Team, within: float) -> bool:
    """Whether rank 0 ends in some seconds by itself: it made the same mistake, and tells it.

    What started the processes would end it by a signal as soon as another one fails.
    """
    until = time.monotonic() + within
    while not team.over and time.monotonic() < until:
        time.sleep(0.05)
    return team.over


def own_device(name: str) -> torch.device:
    """The device of this process: each has a GPU of its own, where there are."""
    device = pick_device(name)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK") or device.index or 0))
        torch.cuda.set_device(device)
    return device


def _joined() -> Team | None:
    """The team, once rank 0 has made it; ``None``: it ended without one."""
    store = _meeting()
    while not store.check([_BEGUN]):
        if store.check([OVER]):
            return None
        time.sleep(0.1)
    device = own_device(store.get(_BEGUN).decode())
    return Team(device, store, Rank(*launched()))


def _meeting() -> Store:
    """Where all processes that were started together can look each other up."""
    store, _, _ = next(rendezvous("env://"))
    return PrefixStore(f"winnow/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _end_after(heard: set[signal.Signals], asked: int) -> None:
    """End this process a while after a signal, or when what started it is gone.

    Args:
        asked: What can be read from once a signal has come to a thread that does not block it.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        blocked = signal.sigtimedwait(heard, 1.0)
        if blocked is not None or select.select([asked], [], [], 0)[0]:
            time.sleep(_GRACE)
            break
    os._exit(1)


def _watch_parent(rank: Rank) -> None:
    """Have rank 0 stop, as by a signal, when what started all processes is gone."""
    if rank.of == 1:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        print("winnow: what started the processes is gone", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
