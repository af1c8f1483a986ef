"""Prompts -> groups of samples, each group with a seed of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from winnow.config.schema import Config
from winnow.engines.base import Request, Sampler, SamplingParams
from winnow.reporting.observer import Progress
from winnow.types import Group, Origin, Prompt, Split


def derive_seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts and on nothing else."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def random_stream(*parts: object) -> np.random.Generator:
    """A generator of random numbers, the same for the same parts."""
    return np.random.default_rng(derive_seed(*parts))


def requests(
    prompts: Sequence[Prompt],
    n: int,
    params: SamplingParams,
    *,
    seed: int,
    split: Split,
    step: int,
    first: int = 0,
) -> list[Request]:
    """Requests for n samples of each prompt, seeded by the run's seed, split, step and place.

    Args:
        first: Prompts that were sampled for this step before.
    """
    return [
        Request(prompt, n, derive_seed(seed, split, step, first + place), params, step)
        for place, prompt in enumerate(prompts)
    ]


def ask(sampler: Sampler, requests: Sequence[Request]) -> Generator[tuple[int, Group], None, None]:
    """Groups as they finish, each with the position of its request; closing it cancels the rest."""
    first = sampler.submit(requests)
    try:
        for number, group in sampler.results():
            yield number - first, group
    finally:
        sampler.cancel()


def sample(
    sampler: Sampler, requests: Sequence[Request], model: str, progress: Progress
) -> list[Group]:
    """The group of each request, in their order, by a model of that name."""
    groups: dict[int, Group] = {}
    progress("sample", 0, len(requests))
    with closing(ask(sampler, requests)) as sampled:
        for place, group in sampled:
            params = requests[place].params
            groups[place] = group.with_(origin=Origin(model, params.temperature, params.truncated))
            progress("sample", len(groups), len(requests))
    return [groups[place] for place in range(len(requests))]


def sampling_params(config: Config) -> SamplingParams:
    """The `[sampling]` settings as engines take them."""
    sampling = config.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop=tuple(sampling.stop),
    )


def evaluation_params(config: Config) -> SamplingParams:
    """`sampling_params`, with what `[eval]` has of its own."""
    own = config.eval.model_dump(include={"temperature", "top_k", "top_p", "max_tokens"})
    said = {key: value for key, value in own.items() if value is not None}
    return replace(sampling_params(config), **said)
