"""What a person should know of a run's samples and updates, said once rather than at every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from winnow.algorithms.algorithm import Algorithm
from winnow.config.schema import Config
from winnow.types import Group

CUT_OFF = 0.25
"""Above this share of samples, those that were cut off are spoken of."""


def cut_off(groups: Sequence[Group], config: Config) -> str | None:
    """That more than a quarter of the samples were cut off, and what to try."""
    count, total = sum(map(count_cut_off, groups)), sum(len(group.samples) for group in groups)
    return many_cut_off(count, total, config.sampling.max_tokens)


def count_cut_off(group: Group) -> int:
    """How many samples of a group were cut off."""
    return sum(sample.finish_reason == "length" for sample in group.samples)


def many_cut_off(count: int, total: int, max_tokens: int) -> str | None:
    """`cut_off` of samples that were counted."""
    if count <= CUT_OFF * total:
        return None
    return (
        f"{count} of {total} samples were cut off at sampling.max_tokens = {max_tokens}; "
        "raise it, or set sampling.stop to what ends an answer"
    )


def no_update(groups: Sequence[Group], config: Config, algorithm: Algorithm) -> str:
    """Why nothing could be learned from a step, and what to try."""
    values = [value for group in groups for value in group.values]
    samples = sum(len(group.samples) for group in groups)
    if values and len(set(values)) == 1 and len(values) == samples:
        why = f"all {samples} samples have reward {values[0]:g}"
    else:
        reasons = Counter(o.reason for g in groups for o in g.outcomes)
        told = ", ".join(f"{count} {reason:.60}" for reason, count in reasons.most_common(3))
        why = f"of {samples} samples none counts ({told})"
    right = bool(values) and min(values) >= groups[0].right_at
    tries = ["harder prompts" if right else "easier prompts"]
    tries.append(f"more than {config.samples_per_prompt} samples_per_prompt")
    if algorithm.resample == "every-step" and not algorithm.refill and config.samples_file is None:
        tries.append("algorithm.refill")
    tries.append("or look at the samples: is the reward what you mean?")
    return f"no update: {why}; try {', '.join(tries)}"
