"""Prefix trees: sequences laid out so that a common prefix is there once.

    prompt p q, completions a b and a c      prompt p r, completion d

    node          0  1  2  3  4  5  6
    token         p  q  a  b  c  r  d        (depth first)
    depth         0  1  2  3  3  1  2        (its position)
    end           7  5  5  4  5  7  7        (one past what hangs on it)

Node j is on the path to node i, or is i, exactly if ``j <= i < end[j]``: one vector says who sees
whom. Pure: sequences in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """A forest of tokens in depth-first order; all arrays (nodes,)."""

    tokens: Index
    depths: Index
    ends: Index
    paths: list[Index]
    """For each sequence, in the order given, its nodes: shape (length,)."""

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Blocks:
    """Attention over a tree, cut into equal runs of its nodes.

    A run sees the path to its first node, and itself: a few keys instead of the whole tree.

    Attributes:
        keys: Nodes that each block reads, shape (blocks, keys); -1 fills up.
        allowed: Who sees whom, shape (blocks, queries, keys); blocks x queries is the number of
            nodes and a few more, which see key 0 only.
    """

    keys: Index
    allowed: NDArray[np.bool_]

    @property
    def places(self) -> int:
        """Blocks x queries: how long the row of tokens must be made."""
        return int(self.allowed.shape[0] * self.allowed.shape[1])


def grow(sequences: Sequence[Sequence[int]]) -> Tree:
    """The tree of some sequences: each distinct prefix becomes one node.

    In lexicographic order a sequence shares most with its neighbour, so one pass over the sorted
    sequences finds every node, in depth-first order.
    """
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    paths: list[Index] = [np.empty(0, np.int64)] * len(sequences)
    before: Sequence[int] = ()
    path = np.empty(0, np.int64)
    for number in sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])):
        sequence = sequences[number]
        shared = common(before, sequence)
        for node in path[shared:]:
            ends[node] = len(tokens)
        fresh = np.arange(len(tokens), len(tokens) + len(sequence) - shared)
        tokens += sequence[shared:]
        depths += range(shared, len(sequence))
        ends += [0] * len(fresh)
        before, path = sequence, np.concatenate([path[:shared], fresh])
        paths[number] = path
    for node in path:
        ends[node] = len(tokens)
    return Tree(np.array(tokens), np.array(depths), np.array(ends), paths)


def cut(tree: Tree, length: int) -> Blocks:
    """Blocks of about ``length`` nodes, as equal as can be."""
    nodes = len(tree)
    count = max(1, -(-nodes // length))
    queries = -(-nodes // count)
    starts = [block * queries for block in range(count)]
    runs = [
        np.concatenate([ancestors(tree, start), np.arange(start, min(start + queries, nodes))])
        if start < nodes
        else np.empty(0, np.int64)
        for start in starts
    ]
    width = max(len(run) for run in runs)
    keys = np.full((count, width), -1, dtype=np.int64)
    for row, run in zip(keys, runs, strict=True):
        row[: len(run)] = run
    query = np.arange(count * queries).reshape(count, queries, 1)
    key = keys[:, None, :]
    allowed = (key >= 0) & (key <= query) & (query < tree.ends[key])
    allowed[(query >= nodes)[:, :, 0], 0] = True
    return Blocks(keys, allowed)


def ancestors(tree: Tree, node: int) -> Index:
    """The nodes before this one on its path, root first."""
    return np.flatnonzero(tree.ends[:node] > node)


def added(before: Sequence[int], sequences: Sequence[Sequence[int]]) -> int:
    """Nodes that sequences add to a tree whose last sequence, in order, is ``before``.

    Exact where all of them come after it in order; else an upper bound.
    """
    nodes = 0
    for sequence in sorted(map(tuple, sequences)):
        nodes += len(sequence) - common(before, sequence)
        before = sequence
    return nodes


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    for place, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return place
    return min(len(a), len(b))
