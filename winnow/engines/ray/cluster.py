"""A connection to a cluster, or one of this machine alone, and what is placed there."""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from winnow.engines.ray.actors import Learner, Server
from winnow.engines.ray.placement import Bundle, by_node, carried, told, total
from winnow.errors import UserError, install_extra

ALONE = "local"
_MEMORY = 100 * 2**20
"""Of a cluster of this machine alone, for objects: lines of text travel."""
_REMEDY = "start one (ray start --head), fix the address, or use --ray local"
_ANSWERS = 10.0
"""Seconds that a head node may take to take a connection."""
_CLOSES = 45.0
_RESTARTS = 3
"""Of the actor of a server, by Ray."""
_TICK = 0.5


class Ears:
    """Hears SIGINT and SIGTERM in its block: the first is for the run, the next for this process.

    Attributes:
        forward: Takes the first one; ``None``: there is nobody to take it.
        heard: Whether there was one.
    """

    def __init__(self) -> None:
        self.forward: Callable[[int], None] | None = None
        self.heard = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Ears:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.getsignal(number)
        self.listen()
        return self

    def listen(self) -> None:
        """Hear them again, after something else has taken to hear them."""
        for number in self._before:
            signal.signal(number, self._hear)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.forward is not None and not self.heard:
            self.heard = True
            self.forward(number)
            return
        self.heard = True
        self._before[number](number, frame)


@contextmanager
def connected(address: str, wanted: Sequence[Bundle], ears: Ears) -> Iterator[Any]:
    """Ray, connected to a cluster; one of this machine alone is ended afterwards.

    Args:
        address: Ray's: HOST:PORT, "auto", or "local" for a cluster of this machine alone. That has
            as much of everything as is wanted, but no more GPUs than there are.

    Raises:
        UserError: Ray is not installed, or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # of "local": Ray's is 15, behind all else
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray", "Ray is not installed", install_extra("ray")) from error
    _check(address)
    how: dict[str, Any] = {"address": address}
    if address == ALONE:
        sums = {name: amount for name, amount in total(wanted).items() if name != "GPU"}
        how["num_cpus"] = int(max(os.cpu_count() or 1, sums.pop("CPU", 0) + 0.999))
        how |= {"resources": sums, "object_store_memory": _MEMORY, "include_dashboard": False}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(namespace=unique(), configure_logging=True, **quiet, **how)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError("--ray", f"no cluster at {address!r}: {reason}", _REMEDY) from error
    finally:
        ears.listen()  # Ray has taken SIGTERM
    try:
        yield ray
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise a `UserError` where nobody listens: Ray asks for minutes."""
    if address in (ALONE, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UserError("--ray", f"{address!r} is no address", "use HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError("--ray", f"no cluster at {address!r}: {reason}", _REMEDY) from error


def unique() -> str:
    """A name that no other run has."""
    return f"winnow-{uuid.uuid4().hex[:12]}"


@dataclass(frozen=True)
class Actors:
    """What was placed.

    Attributes:
        learners: By rank, those of a node in one piece.
        servers: By number.
    """

    learners: list[Any]
    servers: list[Any]


@contextmanager
def placed(
    ray: Any, learners: Sequence[Bundle], servers: Sequence[Bundle], wait: float
) -> Iterator[Actors]:
    """Actors in one placement group; all ended afterwards, and what they started.

    Args:
        wait: Seconds that the resources may take to be free.

    Raises:
        UserError: they are not.
    """
    from ray.util.placement_group import placement_group, placement_group_table
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    name = unique()
    wanted = [*learners, *servers]
    group = placement_group(wanted, strategy="PACK", name=name)
    made: list[Any] = []
    try:
        _awaited(ray, group, wanted, wait)
        nodes = placement_group_table(group)["bundles_to_node_id"]
        order = by_node(nodes, range(len(learners)))

        def actor(kind: type, bundle: int, what: str, *given: Any, **more: Any) -> Any:
            amounts: dict[str, Any] = dict(wanted[bundle])
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
            own: dict[str, Any] = {
                "num_cpus": amounts.pop("CPU", 0),
                "num_gpus": amounts.pop("GPU", 0),
            }
            own |= {"resources": amounts, "scheduling_strategy": where, "max_task_retries": 0}
            how = {**own, "name": f"{name}-{what}", **more}
            made.append(ray.remote(kind).options(**how).remote(*given))
            return made[-1]

        command = carried(os.environ)
        yield Actors(
            [
                actor(Learner, bundle, f"learner-{rank}", f"learner-{rank}", max_concurrency=8)
                for rank, bundle in enumerate(order)
            ],
            [
                actor(
                    Server,
                    len(learners) + number,
                    f"server-{number}",
                    command,
                    max_restarts=_RESTARTS,
                )
                for number in range(len(servers))
            ],
        )
    finally:
        _ended(ray, made)
        with suppress(ray.exceptions.RayError):
            ray.util.remove_placement_group(group)


def _awaited(ray: Any, group: Any, wanted: Sequence[Bundle], wait: float) -> None:
    """Wait until a placement group has its resources."""
    ready, deadline = group.ready(), time.monotonic() + wait
    while not ray.wait([ready], timeout=_TICK)[0]:
        if time.monotonic() > deadline:
            here = {n: a for n, a in ray.cluster_resources().items() if n in total(wanted)}
            problem = (
                f"a run needs {told(total(wanted))} and the cluster has {told(here) or 'none'}"
            )
            problem += f", not all of it free within {wait:g} seconds"
            remedy = "add nodes, or lower ray.ranks, ray.learner or ray.server"
            raise UserError("ray.wait", problem, remedy)


def _ended(ray: Any, actors: Sequence[Any]) -> None:
    """End actors: what they have started first."""
    closing = [actor.close.remote() for actor in actors]
    if closing:
        ray.wait(closing, num_returns=len(closing), timeout=_CLOSES)
    for actor in actors:
        ray.kill(actor)
