"""How often two right samples of a prompt differ, by enumeration."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests.build import group
from winnow.rollouts.diversity import distinct_right, with_diversity
from winnow.types import Batch, Group

PATHS = {"a": "2 + 3 = 5", "b": "3+2 = 5", "c": "none"}
"""Texts by the name of their path."""


def of(paths: str, rewards: list[float | None] | None = None) -> Group:
    return group(rewards or [1] * len(paths), texts=[PATHS[path] for path in paths])


def test_it_is_the_share_of_pairs_that_differ() -> None:
    for paths in ("aa", "ab", "aab", "aabb", "aabc", "abcabcc", "aaaa"):
        pairs = [one != other for one, other in combinations(paths, 2)]
        assert distinct_right([of(paths)]) == pytest.approx(sum(pairs) / len(pairs))


def test_only_right_samples_and_prompts_with_two_of_them_count() -> None:
    groups = [
        of("abc", [1, 0, None]),  # one right sample: no pair
        of("abab", [1, 0, 1, 0]),  # its right ones agree
        of("ab"),
        of("cc", [0, 0]),
    ]
    assert distinct_right(groups) == 0.5
    assert distinct_right(groups[:1]) is None
    assert distinct_right([]) is None


def test_equations_are_compared_and_not_their_wording() -> None:
    worded = group([1, 1, 1], texts=["2+3=5", "So 2 + 3 = 5.", "3 + 2 = 5"])
    assert distinct_right([worded]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("m", [2, 3, 4, 5])
def test_its_expectation_does_not_depend_on_how_many_are_right(m: int) -> None:
    """Over all lists of m paths by their probability: 1 - sum p^2, whatever m is."""
    p = {"a": 0.6, "b": 0.3, "c": 0.1}
    expected = 0.0
    for paths in product(p, repeat=m):
        probability = 1.0
        for path in paths:
            probability *= p[path]
        found = distinct_right([of("".join(paths))])
        assert found is not None
        expected += probability * found
    assert expected == pytest.approx(1 - 0.36 - 0.09 - 0.01)


def test_earlier_rounds_are_not_of_the_step() -> None:
    batch = Batch([of("ab"), of("aa")], True, merged=1, measures={"kl_beta": 0.1})
    assert with_diversity(batch).measures == {"kl_beta": 0.1, "distinct_right": 1.0}
