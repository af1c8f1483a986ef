"""Whether samples of a prompt are as different as their probabilities say. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from winnow.types import Batch, Group


def identical_pairs(groups: Sequence[Group]) -> float | None:
    """Share of pairs of a prompt's samples that are equal token by token, mean over prompts.

    Of n samples, c_j of which are the completion j: sum_j c_j (c_j - 1) / (n (n - 1)). If they are
    independent samples of p, its expectation is the collision probability sum_y p(y)^2 for every n.

    Returns:
        ``None`` if no prompt has two samples; the others are left out.
    """
    found = []
    for group in _several(groups):
        n = len(group.samples)
        equal = Counter(sample.token_ids or sample.text for sample in group.samples)
        found.append(sum(c * (c - 1) for c in equal.values()) / (n * (n - 1)))
    return float(np.mean(found)) if found else None


def identical_expected(groups: Sequence[Group]) -> float | None:
    """What `identical_pairs` should be, by the log-probs of the samples: mean over prompts of p(y).

    The mean of p(y) over samples of p has the same expectation, E p(y) = sum_y p(y)^2, and does not
    ask how the samples of a prompt hang together.

    Returns:
        ``None`` if no prompt has two samples, a sample has no log-probs, or they are not of the
        distribution that was sampled from: at temperature 0, with top-k or top-p.
    """
    found = []
    for group in _several(groups):
        origin = group.origin
        if origin is not None and (origin.truncated or origin.temperature == 0):
            return None
        if not all(sample.logprobs for sample in group.samples):
            return None
        found.append(np.mean([math.exp(math.fsum(s.logprobs)) for s in group.samples]))
    return float(np.mean(found)) if found else None


def with_collisions(batch: Batch, *, true_logprobs: bool) -> Batch:
    """The batch with these measures of its groups, without those of earlier rounds.

    Args:
        true_logprobs: Of the sampler's capabilities.
    """
    groups = batch.groups[: len(batch.groups) - batch.merged]
    measures = {
        "identical_pairs": identical_pairs(groups),
        "identical_expected": identical_expected(groups) if true_logprobs else None,
    }
    return replace(batch, measures={**batch.measures, **measures})


def _several(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if len(group.samples) > 1]
