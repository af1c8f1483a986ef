"""Cuts a mini-batch into micro-batches.

Whole groups stay together where there is room, so that a prompt is read once for all its samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from winnow.engines.models.forward import Piece
from winnow.engines.models.prefix_tree import added
from winnow.types import Group


@dataclass(frozen=True)
class Part:
    """Some samples of one group, by number; `place` is the group's own in the mini-batch."""

    group: Group
    place: int
    samples: tuple[int, ...]

    @property
    def piece(self) -> Piece:
        return Piece(self.group.prompt_ids, [self.group.samples[i].token_ids for i in self.samples])

    @property
    def lengths(self) -> list[int]:
        return [len(self.group.samples[i].token_ids) for i in self.samples]


@dataclass(frozen=True)
class Rank:
    """Which of several processes this is that share mini-batches."""

    number: int = 0
    of: int = 1


ALONE = Rank()


def balanced(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """For each rank the numbers of what is its own, the sums of their sizes about equal.

    The largest goes first, each to the rank that has least.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    has = [0] * ranks
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        rank = has.index(min(has))
        shares[rank].append(number)
        has[rank] += sizes[number]
    return [sorted(share) for share in shares]


def dealt(
    groups: Sequence[Group], asked: Sequence[Sequence[int]], ranks: int
) -> list[list[Sequence[int]]]:
    """For each rank what `asked` is for it: whole groups, balanced by tokens."""
    busy = [place for place, numbers in enumerate(asked) if numbers]
    tokens = [
        len(groups[place].prompt_ids)
        + sum(len(groups[place].samples[i].token_ids) for i in asked[place])
        for place in busy
    ]
    shares: list[list[Sequence[int]]] = [[()] * len(groups) for _ in range(ranks)]
    for share, numbers in zip(shares, balanced(tokens, ranks), strict=True):
        for number in numbers:
            share[busy[number]] = asked[busy[number]]
    return shares


def turns(
    groups: Sequence[Group],
    asked: Sequence[Sequence[int]],
    limit: int,
    rank: Rank,
    *,
    share: bool,
    whole: bool = False,
) -> tuple[list[list[Part]], list[list[Part]]]:
    """Micro-batches of one rank, and those that it goes through besides, for nothing.

    Where ranks hold parts of one model, each pass takes all of them. So all make as many: who has
    fewer repeats the shortest micro-batch of all. Every rank finds this out by itself.

    Args:
        groups: Of all ranks, as `asked` is; see `cut` for the others.
    """
    every = [
        cut(groups, own, limit, share=share, whole=whole) for own in dealt(groups, asked, rank.of)
    ]
    own = every[rank.number]
    missing = max(map(len, every)) - len(own)
    if not missing:
        return own, []
    return own, [min((parts for one in every for parts in one), key=_tokens)] * missing


def _tokens(parts: Sequence[Part]) -> int:
    return sum(sum(map(len, part.piece.inputs)) for part in parts)


def cut(
    groups: Sequence[Group],
    asked: Sequence[Sequence[int]],
    limit: int,
    *,
    share: bool,
    whole: bool = False,
) -> list[list[Part]]:
    """Micro-batches.

    Args:
        asked: For each group the numbers of the samples that are to go through the model.
        limit: Most tokens of one (a shared prefix counted once, padding counted), unless a single
            sample with its prompt is longer.
        share: Whether what samples have in common is read once.
        whole: Never cut a group: a term compares its samples.
    """
    parts = [
        Part(group, place, tuple(numbers))
        for place, (group, numbers) in enumerate(zip(groups, asked, strict=True))
        if numbers
    ]
    return _trees(parts, limit, whole) if share else _rows(parts, limit, whole)


def _trees(parts: list[Part], limit: int, whole: bool) -> list[list[Part]]:
    """Whole groups, those whose prompts share a prefix side by side, longer groups split.

    Micro-batches are about equally long: no last one is too small for a good matrix product.
    """
    parts = sorted(parts, key=lambda part: part.group.prompt_ids)
    if not whole:
        parts = [some for part in parts for some in _split(part, limit)]
    total = added((), [ids for part in parts for ids in part.piece.inputs])
    enough = total / max(1, -(-total // limit))
    batches: list[list[Part]] = []
    used = 0
    before: tuple[int, ...] = ()
    for part in parts:
        inputs = part.piece.inputs
        extra = added(before, inputs)
        if not batches or used >= enough or used + extra > limit:
            batches.append([])
            used, extra = 0, added((), inputs)
        batches[-1].append(part)
        used, before = used + extra, max(inputs)
    return batches


def _split(part: Part, limit: int) -> list[Part]:
    """The whole group where it is short enough, else samples with a common prefix together."""
    inputs = dict(zip(part.samples, part.piece.inputs, strict=True))
    parts: list[Part] = []
    taken: list[int] = []
    used = 0
    for i in sorted(inputs, key=lambda i: inputs[i]):
        extra = added(inputs[taken[-1]] if taken else (), [inputs[i]])
        if taken and used + extra > limit:
            parts.append(Part(part.group, part.place, tuple(sorted(taken))))
            taken, used, extra = [], 0, len(inputs[i])
        taken.append(i)
        used += extra
    return [*parts, Part(part.group, part.place, tuple(sorted(taken)))]


def _rows(parts: list[Part], limit: int, whole: bool) -> list[list[Part]]:
    """Each sample in a row of its own, rows of like length side by side."""
    if not whole:
        parts = [Part(part.group, part.place, (i,)) for part in parts for i in part.samples]
    parts = sorted(parts, key=lambda part: -_longest(part))
    batches: list[list[Part]] = []
    rows = 0
    for part in parts:
        if batches and (rows + len(part.samples)) * _longest(batches[-1][0]) <= limit:
            batches[-1].append(part)
            rows += len(part.samples)
        else:
            batches.append([part])
            rows = len(part.samples)
    return batches


def _longest(part: Part) -> int:
    return max(map(len, part.piece.inputs))
