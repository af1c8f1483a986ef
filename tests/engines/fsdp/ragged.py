"""Groups of all sizes, scored and annotated, for whatever a row of the table reads."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests import build
from winnow.algorithms.algorithm import Algorithm
from winnow.types import Group, Prompt, Sample, Score, TokenAnnotations

COUNTS = (3, 2, 4, 1, 2)
"""Samples of each group."""


def groups(row: Algorithm, counts: Sequence[int] = COUNTS, *, length: int = 8) -> list[Group]:
    """Groups of random tokens of the tiny model, with the advantages of a row.

    One score is an error. Log-probs, values and returns are random too: what a loss is computed
    from is nothing to this.
    """
    rng = random.Random(0)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(2, 40) for _ in range(rng.randrange(1, most + 1)))

    made = []
    for number, n in enumerate(counts):
        prompt = (5, *tokens(6))
        samples = [
            Sample(ids := tokens(length), tuple(-3 - rng.random() for _ in ids), str(ids), "length")
            for _ in range(n)
        ]
        scores = [Score(float((i + number) % 2)) for i in range(n)]
        if number == 2:
            scores[0] = Score.failed("broken")
        made.append(Group(Prompt(str(number), str(number)), prompt, tuple(samples), tuple(scores)))
    if row.advantage.over == "token":  # GAE reads annotations
        made = [noted(group, rng) for group in made]
    return [noted(group, rng) for group in build.with_advantages(made, row)]


def noted(group: Group, rng: random.Random) -> Group:
    def some(sample: Sample) -> tuple[float, ...]:
        return tuple(rng.uniform(-1, 1) for _ in sample.token_ids)

    kept = [group.annotation(i).token_advantages for i in range(len(group.samples))]
    return group.with_(
        annotations=tuple(
            TokenAnnotations(some(one), some(one), some(one), own)
            for one, own in zip(group.samples, kept, strict=True)
        )
    )
