"""The sampler that `[engine]` asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from winnow.config.schema import Config
from winnow.engines.base import Engine
from winnow.engines.server.client import Passing, Refused
from winnow.engines.vllm.link import Link
from winnow.engines.vllm.member import Member, Start, started, started_here
from winnow.engines.vllm.process import RANKS, Environment, Plan, environment_of
from winnow.engines.vllm.sampler import Terms, VLLMSampler
from winnow.errors import UserError

SERVERS = "servers"
"""The folder of a run with the logs of the servers that were started for it."""
_EXACT, _ROUNDED = 1e-3, 0.5
"""Most nats between two log-probs of one token: both in float32; one of them in 16 bits."""
_FOUND = 10.0
"""Seconds that a server which runs already may take to say so."""


def vllm_sampler(
    config: Config,
    engine: Engine,
    folder: Path | None,
    note: Callable[[str], None],
    start: Start = started_here,
) -> VLLMSampler:
    """A sampler over the servers of a config; none is started yet.

    Args:
        folder: Of the run, for the servers' logs.
        start: Starts a server.

    Raises:
        UserError: a server that should run does not answer; no vLLM where it should be; adapters
            are to travel that there are not, or that are too large.
    """
    own = config.engine
    if own.transfer == "lora":
        _check_adapters(config)
    dtype = own.vllm_dtype or config.dtype
    exact = dtype == config.dtype == "float32"
    where = environment_of(own.vllm_python) if own.servers and own.vllm_python else None
    terms = Terms(
        temperature=config.sampling.temperature,
        tolerance=own.canary or (_EXACT if exact else _ROUNDED),
        lora=own.transfer == "lora",
        pause=own.pause,
        timeout=own.start_timeout,
        precision="" if dtype == config.dtype else dtype,
        untied=where is not None and where.cpu,
        context=own.vllm_context,
    )
    number = own.servers or len(own.urls)
    slots = -(-config.sampling.batch // number)
    if where is not None:
        plan = _plan(config, where, folder, dtype, slots)
        members = [started(plan, n, slots, own.timeout, start) for n in range(own.servers)]
    else:
        members = [_found(url, own.served_model or "", own.timeout, slots) for url in own.urls]
    return VLLMSampler(members, engine, terms, retries=own.retries, tell=note)


def _check_adapters(config: Config) -> None:
    rank, most = config.lora.rank, RANKS[-1]
    if not rank:
        remedy = "set lora.rank, or engine.transfer = 'folder'"
        raise UserError(
            "engine.transfer", "'lora' sends adapters alone, and there are none", remedy
        )
    if config.engine.servers and rank > most:
        remedy = "lower it, or set engine.transfer = 'folder'"
        raise UserError("lora.rank", f"vLLM takes adapters of rank {most} at most", remedy)


def _plan(config: Config, where: Environment, folder: Path | None, dtype: str, slots: int) -> Plan:
    own = config.engine
    return Plan(
        where=where,
        dtype=dtype,
        slots=slots,
        memory=own.vllm_memory,
        cache_gib=config.sampling.cache_gib,
        context=own.vllm_context,
        devices=own.vllm_devices,
        arguments=own.vllm_args,
        port=own.vllm_port,
        rank=config.lora.rank if own.transfer == "lora" else 0,
        folder=None if folder is None else folder / SERVERS,
    )


def _found(url: str, served: str, timeout: float, slots: int) -> Member:
    """A server that runs already.

    Raises:
        UserError: it does not answer.
    """
    link = Link(url, timeout)
    try:
        link.get("/health", timeout=min(timeout, _FOUND))
    except (Passing, Refused) as error:
        remedy = "start it (docs/vllm.md has the command), or fix the address"
        raise UserError("engine.urls", f"{link.url}: {error}", remedy) from None
    return Member(link.url, link, slots, served=served)
