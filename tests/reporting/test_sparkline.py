"""Lines of bars: of what they are means, how wide they are, and in what characters."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reporting.test_terminal import Clock, row
from winnow.reporting.console import Console
from winnow.reporting.events import RunEnd, StepEnd
from winnow.reporting.sparkline import ASCII_BARS, BARS, shortened, sparkline, trend, trends
from winnow.reporting.terminal import Terminal
from winnow.storage.lines import line_of

NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_each_eighth_of_the_range_has_a_bar() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 60) == "▁▂▃▄▅▆▇█"
    # 0 to 16: an eighth is 2 wide, and the highest is in the last
    assert sparkline([0, 1.9, 2, 15.9, 16, None, 8], 60) == "▁▁▂██ ▅"
    assert sparkline([0, float("nan"), 1, float("inf")], 60, ASCII_BARS) == "_ # "
    assert sparkline([0.75] * 3, 60) == "▅▅▅"
    assert sparkline([None, None], 60) == "  "
    assert sparkline([], 60) == ""


def test_more_numbers_than_columns_are_means_of_neighbours() -> None:
    assert shortened([1, 3, 10, None, None, None], 3) == [2, 10, None]
    assert shortened([1, 2, 3], 5) == [1, 2, 3]
    # 7 into 3: two, two and three
    assert shortened([1, 2, 3, 4, 5, 6, 7], 3) == [1.5, 3.5, 6]


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=200), st.integers(1, 80))
def test_no_number_is_lost(values: list[int], width: int) -> None:
    """Neighbours of one size: the mean of the means is that of the numbers."""
    many = values * width
    means = shortened(many, width)
    assert len(means) == width
    assert math.fsum(filter(None, means)) / width == pytest.approx(sum(values) / len(values))


@given(st.lists(NUMBERS, max_size=200), st.sampled_from([40, 60, 80]), st.booleans())
def test_a_line_has_room_for_its_ends(values: list[float | None], width: int, ascii: bool) -> None:
    small = [None if value is None else value % 10 for value in values]
    line = trend("reward", small, ".3f", width=width, ascii=ascii)
    there = [value for value in small if value is not None]
    assert (line is None) == (len(there) < 2)
    if line is not None:
        assert len(line) <= width
        assert line.isascii() or not ascii
        assert line.endswith(f"{there[0]:.3f} {'->' if ascii else '→'} {there[-1]:.3f}")


@pytest.mark.parametrize("width", [40, 60])
def test_many_steps_fill_the_line(width: int) -> None:
    line = trend("reward", [*range(1000)], ".0f", width=width)
    assert line is not None
    assert (len(line), line[:9], line[-9:]) == (width, "reward ▁▁", "█ 0 → 999")


def test_the_reward_is_that_of_steps_that_sampled() -> None:
    steps = [{"reward_mean": x, "tokens_sampled": n} for x, n in ((0.0, 5), (0.9, 0), (0.5, 5))]
    of = [("eval", 0.25), ("test", 0.9), ("eval", 0.75), ("final", 0.1)]
    evaluations = [{"split": split, "accuracy": x} for split, x in of]
    assert trends(steps, evaluations) == [
        "reward   ▁█ 0.000 → 0.500",
        "held-out ▁█ 25.0% → 75.0%",
    ]
    assert trends(steps[:2], evaluations[:1]) == []


@pytest.mark.parametrize(("encoding", "bars"), [("utf-8", BARS), ("ascii", ASCII_BARS)])
def test_the_end_of_a_run_shows_all_of_it(tmp_path: Path, encoding: str, bars: str) -> None:
    """Steps before it was resumed too; in the characters that the output takes."""
    rows = [{"step": n, "reward_mean": n / 8, "tokens_sampled": 1} for n in range(1, 9)]
    text = "".join(map(line_of, rows))
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 9, "rew')
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    observer = Terminal(Console(file=file, highlight=False, markup=False), Clock())
    observer.on_step(StepEnd(8, row()))
    observer.on_end(RunEnd(tmp_path, "done"))
    observer.on_end(RunEnd(tmp_path, "stopped"))
    file.seek(0)
    arrow = "→" if encoding == "utf-8" else "->"
    assert file.read().splitlines()[2:] == [
        "1 step in 0:00",
        f"reward   {bars} 0.125 {arrow} 1.000",
    ]
