"""What a person should know of a run's samples and updates, said once rather than at every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from winnow.algorithms.algorithm import Algorithm
from winnow.config.schema import Config
from winnow.engines.base import SamplingParams
from winnow.types import Group

MAX_TOKENS = "sampling.max_tokens"
CUT_OFF = 0.25
"""Above this share of samples, those that were cut off are spoken of."""


def cut_off(
    groups: Sequence[Group], setting: str, max_tokens: int, *, told_from: float | None = None
) -> str | None:
    """That more than a quarter of the samples were cut off at a setting, and what to try.

    Args:
        told_from: The share from which on an alarm tells it, if one does.
    """
    count, total = sum(map(count_cut_off, groups)), sum(len(group.samples) for group in groups)
    if told_from is not None and count >= told_from * total:
        return None
    return many_cut_off(count, total, max_tokens, setting)


def count_cut_off(group: Group) -> int:
    """How many samples of a group were cut off."""
    return sum(sample.finish_reason == "length" for sample in group.samples)


def many_cut_off(count: int, total: int, max_tokens: int, setting: str = MAX_TOKENS) -> str | None:
    """`cut_off` of samples that were counted."""
    if count <= CUT_OFF * total:
        return None
    return (
        f"{count} of {total} samples were cut off at {setting} = {max_tokens}; "
        "raise it, or set sampling.stop to a text that ends a completion"
    )


def alike(n: int, params: SamplingParams, where: str) -> str | None:
    """That several samples of a prompt are asked for, and will be the same.

    Args:
        where: The table or setting that asks.
    """
    if n < 2 or not params.greedy:
        return None
    return f"{where}: at temperature 0 the {n} samples of a prompt are the same; one is enough"


def no_update(groups: Sequence[Group], config: Config, algorithm: Algorithm, path: Path) -> str:
    """Why nothing could be learned from a step, and what to try.

    Args:
        path: Where its samples are.
    """
    values = [value for group in groups for value in group.values]
    samples = sum(len(group.samples) for group in groups)
    if values and len(set(values)) == 1 and len(values) == samples:
        why = f"all {samples} samples have reward {values[0]:g}"
    else:
        reasons = Counter(_reason(group, n) for group in groups for n in range(len(group.samples)))
        told = ", ".join(f"{count} {reason:.60}" for reason, count in reasons.most_common(3))
        why = f"of {samples} samples none counts ({told})"
    right = bool(values) and sum(sum(group.right) for group in groups) == len(values)
    tries = ["harder prompts" if right else "easier prompts"]
    tries.append(f"more than {config.samples_per_prompt} samples_per_prompt")
    if algorithm.resample == "every-step" and not algorithm.refill and config.samples_file is None:
        first = "" if algorithm.may_refill else "algorithm.select = ['mixed'] with "
        tries.append(f"{first}algorithm.refill")
    tries.append(f"or look at the samples in {path}: is the reward what you mean?")
    return f"no update: {why}; try {', '.join(tries)}"


def _reason(group: Group, number: int) -> str:
    """Why a sample does not count; errors are one reason, told in full where they are counted."""
    return "without a score" if group.scores[number].error else group.outcomes[number].reason
