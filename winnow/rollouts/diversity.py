"""How different the right samples of a step are. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from winnow.algorithms.dedup import reasoning_path
from winnow.types import Batch, Group


def distinct_right(groups: Sequence[Group]) -> float | None:
    """Probability that two right samples of a prompt take different paths, mean over prompts.

    Two of the m right samples, picked at random without replacement, differ with probability

        1 - sum_j c_j (c_j - 1) / (m (m - 1)),

    where c_j of them take path j: Simpson's index (1949), without bias for every m. It is the
    number of distinct paths among two right samples, less 1 (rarefaction, Hurlbert 1971), and does
    not rise with m as a count of paths does. A path is that of the rule `distinct`: the list of
    equations, or the text where there are none.

    Returns:
        ``None`` if no prompt has two right samples; the others are left out.
    """
    found = []
    for group in groups:
        pairs = zip(group.samples, group.right, strict=True)
        paths = Counter(reasoning_path(sample.text) for sample, right in pairs if right)
        m = paths.total()
        if m > 1:
            found.append(1 - sum(c * (c - 1) for c in paths.values()) / (m * (m - 1)))
    return float(np.mean(found)) if found else None


def with_diversity(batch: Batch) -> Batch:
    """The batch with this measure of its groups, without those of earlier rounds."""
    groups = batch.groups[: len(batch.groups) - batch.merged]
    return replace(batch, measures={**batch.measures, "distinct_right": distinct_right(groups)})
