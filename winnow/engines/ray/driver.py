"""`winnow train --ray`: has the processes of a run placed, and begins them again if one is lost.

The processes are those of `torchrun`, with its variables. Ray places them, notices what is lost and
starts actors of servers anew; an attempt is never retried by Ray itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.config.schema import Config
from winnow.engines.ray.cluster import Actors, Ears, connected, placed
from winnow.engines.ray.placement import bundles, carried, environments
from winnow.errors import UserError
from winnow.storage.lock import alone, forsaken
from winnow.storage.paths import shown

_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of a run that was told to stop."""
_TICK = 0.5
_SOON = 20.0
"""Seconds in which Ray notices what rank 0 has noticed: that another process is gone."""
_LETS_GO = 120.0
"""Seconds after which what is left of an attempt has ended: on a machine without network, as Ray
ends what it runs there once it has found no head node for one of them."""
_GIVES_UP = 300.0
"""Seconds after which a folder that is still written to is not waited for."""


@dataclass(frozen=True)
class Job:
    """A `winnow train` to run.

    Attributes:
        words: Of the command, without Ray's.
        folder: Of the run.
    """

    config: Config
    words: tuple[str, ...]
    folder: Path

    @property
    def begun(self) -> bool:
        """Whether there is something to resume."""
        return (self.folder / "config.toml").is_file()

    @property
    def next_words(self) -> tuple[str, ...]:
        """The command of the next attempt."""
        if "--resume" in self.words or not self.begun:
            return self.words
        return ("train", "--resume", str(self.folder))


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        code: Of rank 0.
        lost: What was lost, if that is why; else empty.
    """

    code: int
    lost: str = ""


def launch(address: str, job: Job, show: Callable[[bytes], None]) -> int:
    """Run a command on a cluster; its exit code.

    Args:
        address: See `cluster.connected`.
        show: Takes what rank 0 says.

    Raises:
        UserError: no cluster, or not what the run needs; no such folder on another machine.
    """
    learners, servers = bundles(job.config, gpus=False)  # for its errors, before Ray is imported
    with Ears() as ears, connected(address, [*learners, *servers], ears) as ray:
        gpus = ray.cluster_resources().get("GPU", 0) > 0
        learners, servers = bundles(job.config, gpus)
        words, own = job.words, job.config.ray
        for number in range(1, own.attempts + 1):
            host = ""
            with placed(ray, learners, servers, own.wait) as actors:
                try:
                    host = _begin(ray, actors, job, words)
                    ended = _followed(ray, actors.learners, ears, show)
                except _losses(ray) as error:  # before its processes had begun
                    ended = Ended(1, f"what was placed is lost: {_gone(error)}")
                ears.forward = None
            if not ended.lost or ears.heard:
                return ended.code
            words = job.next_words
            last = number == own.attempts
            show(_told(ended.lost, job, number, own.attempts, last).encode())
            if not last:
                _free(job.folder, host)
        return 1


def _told(lost: str, job: Job, number: int, of: int, last: bool) -> str:
    resume = f"winnow train --resume {shown(job.folder)}" if job.begun else ""
    if last:
        after = f"; resume: {resume}" if resume else ""
        return f"winnow: {lost} in attempt {number} of {of}{after}\n"
    what = "resumes" if resume else "begins anew"
    return f"winnow: {lost}; attempt {number + 1} of {of} {what}\n"


def _begin(ray: Any, actors: Actors, job: Job, words: Sequence[str]) -> str:
    """Start the processes of an attempt; the name of rank 0's machine."""
    seats = ray.get([actor.seat.remote() for actor in actors.learners])
    where = ray.get([actor.address.remote() for actor in actors.servers])
    if job.config.engine.transfer_dir is None and set(where) - {seats[0].address}:
        problem = "is missing, and servers are on other machines than rank 0"
        raise UserError("engine.transfer_dir", problem, "set a folder that all machines see")
    port = ray.get(actors.learners[0].free_port.remote())
    command, here = carried(os.environ), Path.cwd()
    started = []
    for rank, own in enumerate(environments(seats, port)):
        servers = [] if rank else actors.servers
        given = list(words), command, own, (here, job.folder), servers
        started.append(actors.learners[rank].start.remote(*given))
    for seat, fine in zip(seats, ray.get(started), strict=True):
        if not fine:
            problem = f"{here} is not there on {seat.address}"
            raise UserError("--ray", problem, "run it in a folder that all machines see")
    return str(seats[0].host)


def _followed(
    ray: Any, learners: Sequence[Any], ears: Ears, show: Callable[[bytes], None]
) -> Ended:
    """What becomes of the processes of an attempt; what rank 0 says meanwhile is shown."""
    waits = {actor.wait.remote(): rank for rank, actor in enumerate(learners)}
    saying = learners[0].said.remote()
    ears.forward = lambda number: learners[0].signal.remote(number)
    while True:
        also = [] if saying is None else [saying]
        for ref in ray.wait([*also, *waits], timeout=_TICK)[0]:
            if ref == saying:
                saying = _shown(ray, learners[0], ref, show)
                continue
            rank = waits.pop(ref)
            code, lost = _end_of(ray, ref, rank)
            if rank and not lost:
                continue
            if rank == 0:
                _rest(ray, learners[0], saying, show)
            if rank == 0 and code == 1 and not lost:
                lost = _soon_lost(ray, waits)
            return Ended(code, lost)


def _end_of(ray: Any, ref: Any, rank: int) -> tuple[int, str]:
    """A process's exit code, and if it was lost, how."""
    try:
        code: int = ray.get(ref)
    except _losses(ray) as error:
        return 1, f"rank {rank} is lost: {_gone(error)}"
    if code > 128 and code not in _STOPPED:
        with suppress(ValueError):
            return code, f"rank {rank} was ended by {signal.Signals(code - 128).name}"
    return code, ""


def _losses(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises instead of the answer of an actor that has ended."""
    found = ray.exceptions
    return found.RayActorError, found.OutOfMemoryError, found.NodeDiedError


def _gone(error: Exception) -> str:
    """Why an actor has ended, by one of `_losses`."""
    if type(error).__name__ == "OutOfMemoryError":
        return "Ray has ended its actor, as the memory of its node is nearly full"
    if type(error).__name__ == "ActorUnavailableError":
        return "its actor does not answer"
    return "its node is gone" if "node has died" in str(error) else "its actor is gone"


def _soon_lost(ray: Any, waits: dict[Any, int]) -> str:
    """Whether another process was lost, so that rank 0 has failed for that."""
    deadline = time.monotonic() + _SOON
    while waits and time.monotonic() < deadline:
        for ref in ray.wait(list(waits), timeout=_TICK)[0]:
            _, lost = _end_of(ray, ref, waits.pop(ref))
            if lost:
                return lost
    return ""


def _shown(ray: Any, actor: Any, ref: Any, show: Callable[[bytes], None]) -> Any:
    """Show what was said; what waits for more, if there may be."""
    try:
        text: bytes = ray.get(ref)
    except _losses(ray):
        return None
    if not text:
        return None
    show(text)
    return actor.said.remote()


def _rest(ray: Any, actor: Any, saying: Any, show: Callable[[bytes], None]) -> None:
    """Show what rank 0 has said before its end."""
    while saying is not None and ray.wait([saying], timeout=10 * _TICK)[0]:
        saying = _shown(ray, actor, saying, show)


def _free(folder: Path, host: str) -> None:
    """Wait until what is left of an attempt no longer writes to the folder.

    What was killed on another machine leaves a lock that this one cannot judge. By then its process
    has ended: with its actor, whose end Ray has seen, or with its node.

    Args:
        host: The name of rank 0's machine.
    """
    begun = time.monotonic()
    while folder.is_dir():
        try:
            with alone(folder):
                return
        except UserError:
            waited = time.monotonic() - begun
            if not (waited > _LETS_GO and forsaken(folder, host)) and waited > _GIVES_UP:
                raise
        time.sleep(_TICK)
