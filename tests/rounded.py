"""What products in bfloat16 may do to gradients, and groups on which they can be compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from winnow.types import Group

ROUNDING = 2.0**-9
"""Most relative error of a number in bfloat16: it has 8 bits."""
EXPECTED = 0.014
"""Relative error of a gradient of four layers under rounded products. On the way to it a number
goes through about 10 of them in each layer and back (q, k, v, scores, attention, o, gate, up, down:
inputs and results), some 150 roundings. Each is off by 2^-9 / sqrt(3) in the root mean square at
most, so together, independent, by sqrt(150) 2^-9 / sqrt(3) = 1.4 %. Where a gradient is a small
difference of large terms, by more."""


def far_from_clips(
    groups: Sequence[Group], found: Sequence[Sequence[Sequence[float]]]
) -> list[Group]:
    """With other recorded log-probs, which no ratio is near a clip of: rounding would move tokens
    over it.

    Args:
        found: Of each group and sample, log pi of each token.
    """
    by = itertools.cycle((0.02, -0.8, 0.8, -0.02))

    def moved(group: Group, own: Sequence[Sequence[float]]) -> Group:
        samples = [
            replace(sample, logprobs=tuple(x + shift for x in logp))
            for sample, logp, shift in zip(group.samples, own, by, strict=False)
        ]
        return group.with_(samples=tuple(samples))

    return [moved(group, own) for group, own in zip(groups, found, strict=True)]
