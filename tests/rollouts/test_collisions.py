"""How often samples of a prompt should be equal, by enumeration of a small policy."""

from __future__ import annotations

import math
from itertools import product

import pytest

from tests.build import group
from winnow.rollouts.collisions import identical_expected, identical_pairs, with_collisions
from winnow.types import Batch, Group, Origin, Sample

P = {(1,): 0.5, (2, 1): 0.3, (2, 2): 0.2}
"""Completions and their probabilities; the sum of squares is .25 + .09 + .04 = .38."""


def of(*completions: tuple[int, ...], origin: Origin | None = None) -> Group:
    made = group([1] * len(completions))
    samples = []
    for ids in completions:
        # 2 is sampled with .5, then 1 with .6 and 2 with .4
        logprobs = (math.log(0.5), *(math.log(P[ids] / 0.5) for _ in ids[1:]))
        samples.append(Sample(ids, logprobs, "one text", "eos"))
    return made.with_(samples=tuple(samples), origin=origin)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_both_are_the_collision_probability_on_average(n: int) -> None:
    pairs = expected = 0.0
    for drawn in product(P, repeat=n):
        chance = math.prod(P[ids] for ids in drawn)
        found = identical_pairs([of(*drawn)]), identical_expected([of(*drawn)])
        pairs += chance * (found[0] or 0)
        expected += chance * (found[1] or 0)
    assert (pairs, expected) == pytest.approx((0.38, 0.38))


def test_a_sampler_that_gives_one_sample_again_is_seen() -> None:
    """Over what it may give, by its probability: all pairs are equal, .38 of them should be."""
    same = [(P[ids], of(ids, ids, ids)) for ids in P]
    assert sum(p * (identical_pairs([own]) or 0) for p, own in same) == pytest.approx(1)
    assert sum(p * (identical_expected([own]) or 0) for p, own in same) == pytest.approx(0.38)


def test_only_prompts_with_two_samples_count() -> None:
    one, two, three = of((1,)), of((1,), (1,)), of((1,), (2, 1), (2, 2))
    assert identical_pairs([one, two, three]) == 0.5
    assert identical_expected([one, two, three]) == pytest.approx((0.5 + 1 / 3) / 2)
    assert (identical_pairs([one]), identical_expected([])) == (None, None)


def test_what_is_not_known_is_not_told() -> None:
    known = of((1,), (1,))
    unknown = known.with_(
        samples=tuple(Sample((), (), text, "eos", length=1) for text in ("a", "a"))
    )
    assert identical_expected([known, unknown]) is None
    assert identical_pairs([known, unknown]) == 1
    for origin in (Origin("m", 0.0), Origin("m", truncated=True)):
        assert identical_expected([of((1,), (1,), origin=origin)]) is None
    batch = Batch([known, of((2, 1), (2, 2))], True, merged=1, measures={"kl_beta": 0.1})
    pairs = {"kl_beta": 0.1, "identical_pairs": 1.0}
    told = with_collisions(batch, true_logprobs=True).measures
    assert told == {**pairs, "identical_expected": pytest.approx(0.5)}
    told = with_collisions(batch, true_logprobs=False).measures
    assert told == {**pairs, "identical_expected": None}
