"""Trees of sequences, and attention over them in blocks, against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.engines.models.prefix_tree import added, ancestors, common, cut, grow

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


def beginnings(sequences):
    return {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}


def test_the_example_of_the_module():
    p, q, r, a, b, c, d = range(7)
    tree = grow([[p, q, a, b], [p, q, a, c], [p, r, d]])
    assert tree.tokens.tolist() == [p, q, a, b, c, r, d]
    assert tree.depths.tolist() == [0, 1, 2, 3, 3, 1, 2]
    assert tree.ends.tolist() == [7, 5, 5, 4, 5, 7, 7]
    assert [path.tolist() for path in tree.paths] == [[0, 1, 2, 3], [0, 1, 2, 4], [0, 5, 6]]
    assert ancestors(tree, 4).tolist() == [0, 1, 2]


@given(SEQUENCES)
def test_a_node_for_each_distinct_beginning(sequences):
    tree = grow(sequences)
    assert len(tree) == len(beginnings(sequences)) == added((), sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == sequence
        assert tree.depths[path].tolist() == list(range(len(sequence)))
        # `j <= i < end[j]` holds for the nodes of the path, and for no other
        last = path[-1]
        nodes = np.arange(len(tree))
        assert np.flatnonzero((nodes <= last) & (last < tree.ends)).tolist() == path.tolist()


@given(SEQUENCES, st.integers(1, 9))
def test_blocks_let_each_node_see_its_path_once(sequences, length):
    tree = grow(sequences)
    blocks = cut(tree, length)
    count, queries, _ = blocks.allowed.shape
    assert len(tree) <= blocks.places < len(tree) + count
    assert queries <= max(length, 1)
    seen = [
        sorted(blocks.keys[block][blocks.allowed[block, query]].tolist())
        for block in range(count)
        for query in range(queries)
    ]
    for node in range(len(tree)):
        assert seen[node] == [*ancestors(tree, node).tolist(), node]
    assert all(seen)  # what fills up must see something too, or its attention is not a number


@given(SEQUENCES, SEQUENCES)
def test_added_counts_what_a_later_group_brings(first, second):
    first = [[0, *s] for s in first]
    second = [[1, *s] for s in second]
    before = max(first)
    assert added(before, second) == len(beginnings(second))
    together = [[9, *s] for s in first], [[9, *s] for s in second]
    assert added(max(together[0]), together[1]) == len(beginnings([*together[0], *together[1]])) - (
        len(beginnings(together[0]))
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"), [("", "x", 0), ("abc", "abd", 2), ("ab", "abc", 2), ("ab", "ab", 2)]
)
def test_common_beginnings(a, b, expected):
    assert common(list(a.encode()), list(b.encode())) == expected
