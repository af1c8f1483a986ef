"""What of a run goes into a page that must stay small, by a rule that the page states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from winnow.errors import number_of
from winnow.reporting.page.blocks import Block, part_of

LIMIT = 19_000_000
"""Bytes of a page's samples as they stand in it: four for three compressed ones."""
_SHARES = {"rows": 0.5, "texts": 0.9, "marks": 1.0}
"""What part of the limit is full after each kind; what one leaves, the next may take."""


@dataclass(frozen=True)
class Embedded:
    """The parts of blocks that are in a page.

    Attributes:
        parts: By block's name and part, compressed.
        rule: What was left out and why, for the reader; empty where all is there.
    """

    parts: dict[tuple[str, str], bytes]
    rule: str = ""


def embed(
    blocks: Sequence[Block],
    limit: int = LIMIT,
    packed: Callable[[Block, str], bytes] = part_of,
) -> Embedded:
    """As many parts of blocks as fit: numbers first, then texts, then what shades tokens.

    The last block comes first, then the first one, then those that lie evenly between.

    Args:
        packed: Makes a part of a block.
    """
    parts: dict[tuple[str, str], bytes] = {}
    size = 0
    order = [blocks[place] for place in spread(len(blocks))]
    kept: dict[str, list[Block]] = {}
    for part, share in _SHARES.items():
        kept[part] = []
        for block in order:
            made = packed(block, part)
            own = -(-len(made) // 3) * 4
            if size + own > share * limit and (part != "rows" or kept[part]):
                continue  # a later one may be smaller
            size += own
            parts[block.name, part] = made
            kept[part].append(block)
        order = kept[part]
    return Embedded(parts, _rule(blocks, kept))


def spread(number: int) -> list[int]:
    """The numbers below one: the last, the first, then always the middle of a widest gap."""
    if number < 2:
        return list(range(number))
    order, gaps = [number - 1, 0], [(0, number - 1)]
    while gaps:
        halves = []
        for low, high in gaps:
            middle = (low + high) // 2
            if low < middle:
                order.append(middle)
                halves += [(low, middle), (middle, high)]
        gaps = halves
    return order


def _rule(blocks: Sequence[Block], kept: dict[str, list[Block]]) -> str:
    every = sum(block.rows for block in blocks)
    there = {part: sum(block.rows for block in own) for part, own in kept.items()}
    if there["marks"] == every:
        return ""
    what = [("numbers", there["rows"]), ("texts", there["texts"]), ("token marks", there["marks"])]
    said = [f"the {name} of {count:,}" for name, count in what if count < every]
    return (
        f"So that this page stays small it holds {' and '.join(said)} of "
        f"{number_of(every, 'sample')}: of the last and the first steps and of steps spread evenly "
        "between them. The others are in the run folder, under rollouts/."
    )
