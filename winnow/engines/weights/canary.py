"""Canaries: token sequences whose log-probs tell whether a sampler has the learner's weights.

A sampler that was sent weights may have the wrong ones, half of them, or a prefix cache of earlier
ones. Each canary is longer than a block of such a cache and begins as something did that was asked
before, so what is stale in the cache shows in what comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from winnow.engines.base import Engine
from winnow.types import Group, Prompt, Sample

BLOCK = 32
"""Tokens of the largest usual block of a prefix cache."""
LENGTH = 3 * BLOCK + 1
"""Tokens of a canary, if the model takes so many."""
_ASKED = 16
_LIKELIEST = 4
_TEXT = (
    "From 1896 to 1986 canaries were taken down into mines, as they noticed bad air 20 minutes "
    "before the miners did: a bird stopped singing, and all 345 men left. "
)


@dataclass(frozen=True)
class Canary:
    """A prefix, and what the learner gives for tokens after it.

    Attributes:
        logprobs: Of each of ``tokens``, nats, at the temperature of sampling.
    """

    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def prefixes(
    engine: Engine, asked: Sequence[Sequence[int]], context: int | None
) -> list[tuple[int, ...]]:
    """Token sequences to ask about: one that is always the same, and those that were asked before.

    Those that are shorter than `LENGTH` are continued by themselves.
    """
    length = LENGTH if context is None else min(LENGTH, context - 2)
    fixed = engine.encode(Prompt("canary", _TEXT))
    found = []
    for ids in [fixed, *asked]:
        times = -(-(length + 1) // len(ids))
        found.append(tuple((list(ids) * times)[:length]))
    return list(dict.fromkeys(found))


def canaries(
    engine: Engine, sequences: Sequence[tuple[int, ...]], temperature: float
) -> list[Canary]:
    """The canaries of some prefixes, by the present weights.

    Asked about are the likeliest of the tokens that the sequence itself has: log-probs far down are
    the least exact.
    """
    groups = []
    for ids in sequences:
        tokens = tuple(dict.fromkeys([*ids[-_ASKED:], *ids]))[:_ASKED]
        samples = tuple(Sample((token,), (), engine.decode((token,)), "length") for token in tokens)
        groups.append(Group(Prompt("canary", ""), ids, samples))
    found = []
    for group, logprobs in zip(groups, engine.logprobs(groups, temperature), strict=True):
        pairs = [(s.token_ids[0], p) for s, p in zip(group.samples, logprobs, strict=True)]
        best = sorted(pairs, key=lambda pair: -pair[1])[:_LIKELIEST]
        tokens, values = zip(*best, strict=True)
        found.append(Canary(group.prompt_ids, tokens, values))
    return found


def distance(canary: Canary, given: Mapping[int, float]) -> float:
    """The largest difference of log-probs, nats; infinite where one is missing."""
    pairs = zip(canary.tokens, canary.logprobs, strict=True)
    return max(abs(given.get(token, float("inf")) - own) for token, own in pairs)
