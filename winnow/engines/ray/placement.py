"""What a run asks a cluster for, and which process is which: arithmetic, without Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from winnow.config.schema import Config
from winnow.errors import UserError

Bundle = dict[str, float]
"""Amounts of resources, by Ray's names for them."""
_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
_OF_A_MACHINE = (*_DEVICES, "HOSTNAME", "PWD", "OLDPWD", "TMPDIR", "LD_LIBRARY_PATH")
"""What a process takes from its own machine, not from the one with the command."""


def bundles(config: Config, gpus: bool) -> tuple[list[Bundle], list[Bundle]]:
    """What each learner process gets, and each server that Winnow starts.

    Args:
        gpus: Whether the cluster has any.

    Raises:
        UserError: processes that share a model, of a learner of one process.
    """
    own = config.ray
    if own.ranks > 1 and config.engine.learner != "fsdp":
        problem = f"asks for {own.ranks} processes, and engine.learner = 'local' trains in one"
        raise UserError("ray.ranks", problem, "set engine.learner = 'fsdp', or ray.ranks = 1")
    usual: Bundle = {"CPU": 1.0, **({"GPU": 1.0} if gpus else {})}
    plain: Bundle = {"CPU": 1.0}
    learner = dict(own.learner) or (plain if config.device == "cpu" else usual)
    server = dict(own.server) or usual
    servers = config.engine.servers if config.engine.sampler == "vllm" else 0
    return [learner] * own.ranks, [server] * servers


def total(wanted: Sequence[Bundle]) -> Bundle:
    """The sum of bundles."""
    names = dict.fromkeys(name for bundle in wanted for name in bundle)
    return {name: sum(bundle.get(name, 0.0) for bundle in wanted) for name in names}


def told(bundle: Bundle) -> str:
    """A bundle for a person to read."""
    return ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())


def by_node(nodes: Mapping[int, str], these: Collection[int]) -> list[int]:
    """Some bundles in an order in which those of one node follow each other.

    Args:
        nodes: The node of each bundle.
    """
    first: dict[str, int] = {}
    for bundle in sorted(these):
        first.setdefault(nodes[bundle], bundle)
    return sorted(these, key=lambda bundle: (first[nodes[bundle]], bundle))


@dataclass(frozen=True)
class Seat:
    """Where a learner process is.

    Attributes:
        node: Its node, by Ray's name.
        address: Of its machine.
        gpus: That it was given, by their numbers there.
        host: The name of its machine.
    """

    node: str
    address: str
    gpus: tuple[str, ...] = ()
    host: str = ""


def environments(seats: Sequence[Seat], port: int) -> list[dict[str, str]]:
    """The variables by which each process knows which one it is: those that torchrun sets.

    On a node all see the GPUs of all, and take that of their LOCAL_RANK.

    Args:
        seats: By rank, nodes in one piece.
        port: At which rank 0 can be met.
    """
    made = []
    for rank, seat in enumerate(seats):
        here = [other for other in seats if other.node == seat.node]
        gpus = [gpu for other in here for gpu in other.gpus]
        local = sum(other.node == seat.node for other in seats[:rank])
        said = {}
        if len(seats) > 1:
            said = {
                "RANK": str(rank),
                "WORLD_SIZE": str(len(seats)),
                "LOCAL_RANK": str(local),
                "LOCAL_WORLD_SIZE": str(len(here)),
                "MASTER_ADDR": seats[0].address,
                "MASTER_PORT": str(port),
            }
        if gpus:
            said["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        made.append(said)
    return made


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the command that its processes on other machines get too."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _OF_A_MACHINE and not name.startswith("RAY_")
    }


def of_child(command: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process: those of the command, of its machine, and its own."""
    here = {name: os.environ[name] for name in _OF_A_MACHINE if name in os.environ}
    return {**here, **command, **own}


DOOR = "WINNOW_PLACED_SERVERS"
"""The variable that tells rank 0 where to ask for servers."""


def door(address: tuple[str, int], key: bytes) -> dict[str, str]:
    """The variable that leads rank 0 to the servers of its run."""
    return {DOOR: json.dumps([*address, key.hex()])}


def behind(environment: Mapping[str, str]) -> tuple[tuple[str, int], bytes] | None:
    """Address and key of what starts servers for this process; ``None``: it starts its own."""
    if not environment.get(DOOR):
        return None
    host, port, key = json.loads(environment[DOOR])
    return (host, port), bytes.fromhex(key)
