"""Groups made by hand, for tests of the pure stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.selection import select
from winnow.types import Group, Prompt, Sample, Score


def sample(text: str = "a", tokens: Sequence[int] = (1,), logprob: float = -1.0) -> Sample:
    return Sample(tuple(tokens), (logprob,) * len(tokens), text, "stop")


def group(
    rewards: Sequence[float | None],
    *,
    texts: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    name: str = "x",
) -> Group:
    """A scored group; a reward of ``None`` is a verifier error."""
    texts = texts or [f"answer {i}" for i in range(len(rewards))]
    lengths = lengths or [1] * len(rewards)
    return Group(
        prompt=Prompt(id=name, text=name),
        prompt_ids=(1, 2),
        samples=tuple(
            sample(text, [3] * length) for text, length in zip(texts, lengths, strict=True)
        ),
        scores=tuple(Score.failed("broken") if r is None else Score(r) for r in rewards),
    )


def with_advantages(groups: Sequence[Group], algorithm: Algorithm, seed: int = 0) -> list[Group]:
    """Selected, with advantages, as a rollout does it."""
    rng = np.random.default_rng(seed)
    chosen = [select(g, algorithm.select, rng) for g in groups]
    return assign_advantages(chosen, algorithm.advantage, algorithm.reward_scale)
