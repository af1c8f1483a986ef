"""The page of a study, driven in a headless Chromium: `make test-page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.page.test_page import browser, opened  # noqa: F401
from tests.reporting.page.test_blocks import HOSTILE
from tests.studies.test_analysis import RUNS, study
from winnow.reporting.page.study import study_page
from winnow.studies.analysis import compared

pytestmark = pytest.mark.page


@pytest.fixture
def page_of_a_study(tmp_path: Path) -> Path:
    """Three variants; what could be HTML in it is hostile."""
    result = compared(study(), RUNS)
    result["study"]["name"] = HOSTILE  # a study is refused it; a file may have it
    same = dict.fromkeys(("seeds", "held_out", "order", "samples"), 8)
    result["sharing"] = [{"variant": "b", "other": "a", "said": HOSTILE, **same}]
    path = tmp_path / "study.html"
    path.write_text(study_page(result), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1280, 390])
def test_it_shows_what_the_comparison_says(
    opened: Any,  # noqa: F811
    page_of_a_study: Path,
    width: int,
) -> None:
    page = opened(page_of_a_study, width=width).page
    said = [one.inner_text() for one in page.locator("#sentences li").all()]
    assert said[0].startswith("b is better than a")
    assert said[1].startswith("cannot tell c from a")
    # two variants beside the reference, each with a paired interval and an unpaired one
    assert page.locator("#forest svg line.interval").count() == 4
    assert page.locator("#forest svg line.interval.up").count() == 1
    assert page.locator("#pairs tbody tr").count() == 6
    assert page.locator("#charts .chart").count() == 2  # accuracy and entropy
    assert page.locator("#paths svg polyline").count() == 3
    assert page.locator("#sharing li.good").count() == 1
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width


def test_the_intervals_can_be_left_out(opened: Any, page_of_a_study: Path) -> None:  # noqa: F811
    page = opened(page_of_a_study).page
    drawn = page.locator("#charts .chart .plot").first
    before = drawn.screenshot()
    page.locator("#bands").uncheck()
    page.wait_for_timeout(200)
    assert page.locator("#charts .chart .plot").first.screenshot() != before


def test_a_difference_without_an_interval_has_none_in_its_title(
    opened: Any,  # noqa: F811
    page_of_a_study: Path,
) -> None:
    page = opened(page_of_a_study).page
    told = page.evaluate(
        """() => [[null, null], [-1, 1]].map(([low, high]) => {
          const d = { estimate: 0, low, high, method: "t" };
          const rows = [{ name: "b", paired: d, unpaired: d, told: false }];
          return forest(rows, 800, 1, "points").querySelector("title").textContent;
        })"""
    )
    assert told == ["b: 0, t", "b: 0 [-1, 1], t"]
