"""A page stays under its size, keeps the ends and what lies evenly between, and says so."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from winnow.reporting.page.blocks import Block
from winnow.reporting.page.budget import embed, spread

SIZES = {"rows": 10, "texts": 50, "marks": 100}


def blocks(number: int) -> list[Block]:
    return [Block(str(place), (Path(f"{place}.parquet"),), (100,)) for place in range(number)]


def packed(block: Block, part: str) -> bytes:
    return bytes(SIZES[part])


@given(st.integers(0, 300))
def test_spread_is_an_order_of_all(number: int) -> None:
    assert sorted(spread(number)) == list(range(number))


def test_spread_halves_the_widest_gaps() -> None:
    assert spread(9) == [8, 0, 4, 2, 6, 1, 3, 5, 7]


def test_all_is_there_where_it_fits() -> None:
    made = embed(blocks(3), 10_000, packed)
    assert made.rule == ""
    assert len(made.parts) == 9


@given(st.integers(1, 40), st.integers(200, 5000))
def test_the_limit_holds(number: int, limit: int) -> None:
    made = embed(blocks(number), limit, packed)
    assert sum(-(-len(part) // 3) * 4 for part in made.parts.values()) <= limit
    held = {part: {name for name, of in made.parts if of == part} for part in SIZES}
    assert held["marks"] <= held["texts"] <= held["rows"]
    if held["rows"]:
        assert str(number - 1) in held["rows"]
    assert (made.rule == "") == (len(held["marks"]) == number)


def test_the_rule_says_how_many() -> None:
    # in base64 rows take 16 bytes a block, texts 68, marks 136
    made = embed(blocks(10), 800, packed)
    assert {name for name, part in made.parts if part == "rows"} == set(map(str, range(10)))
    # rows 160; texts until 720: eight blocks, all but the last two of the order
    assert {name for name, part in made.parts if part == "texts"} == set("90426135")
    assert not [name for name, part in made.parts if part == "marks"]
    assert "the texts of 800 and the token marks of 0 of 1000 samples" in made.rule
