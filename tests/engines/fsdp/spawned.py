"""Runs a function in several processes that share a model, over gloo on the CPU."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from winnow.engines.fsdp.crew import serve
from winnow.engines.fsdp.ranks import Team
from winnow.engines.fsdp.worker import Worker
from winnow.engines.learning.microbatches import Rank
from winnow.engines.local.sampler import LocalSampler


def on(ranks: int, function: Callable[..., Any], *given: Any) -> list[Any]:
    """What a function gives in each of so many processes; it is called with a team first."""
    forked = multiprocessing.get_context("fork")  # nothing is imported again
    with tempfile.TemporaryDirectory() as folder:
        pipes = [forked.Pipe() for _ in range(ranks)]
        started = [
            forked.Process(
                target=_one,
                args=(Rank(n, ranks), str(Path(folder, "store")), pipe[1], function, given),
            )
            for n, pipe in enumerate(pipes)
        ]
        for process in started:
            process.start()
        try:
            found = [
                pickle.loads(pipe[0].recv_bytes()) if pipe[0].poll(120) else (False, "hangs")
                for pipe in pipes
            ]
        finally:
            for process in started:
                process.kill()
                process.join()
    for fine, told in found:
        assert fine, told
    return [told for _, told in found]


def led(ranks: int, function: Callable[..., Any], *given: Any) -> Any:
    """What a function gives in rank 0, called with a worker, which the other processes follow."""
    return on(ranks, _crew, function, given)[0]


def _crew(team: Team, function: Callable[..., Any], given: tuple[Any, ...]) -> Any:
    worker = Worker(team, LocalSampler)
    if not team.leads:
        return serve(worker)
    found = function(worker, *given)
    team.end()
    return found


def _one(
    rank: Rank, file: str, pipe: Connection, function: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(file, rank.of)
        told = True, function(Team(torch.device("cpu"), store, rank), *given)
    except BaseException:  # noqa: BLE001 (the parent fails with it)
        told = False, traceback.format_exc()
    pipe.send_bytes(pickle.dumps(told))  # `send` would share tensors, which end with the process
    pipe.close()
    os._exit(0)
