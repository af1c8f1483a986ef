"""Intervals of rates over prompts, of their differences, and of resamples."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.theory import coverage
from winnow.theory.intervals import (
    clustered_interval,
    mean_interval,
    paired_difference,
    rate_interval,
    resampled_interval,
    wilson,
)

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
RATES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=30)


def test_of_resamples_it_is_the_middle_95_percent():
    values = np.arange(201) / 2
    many = 10**9  # prompts: nothing to make up for
    assert resampled_interval(values, many) == pytest.approx((2.5, 97.5))
    some = np.array([*values, math.nan, math.inf])
    assert resampled_interval(some, many) == resampled_interval(values, many)
    assert all(map(math.isnan, resampled_interval(np.array([math.nan]), 9)))


@pytest.mark.parametrize("prompts", [6, 9, 32, 64, 1000])
def test_resamples_of_few_prompts_are_expanded(prompts):
    """Resamples of a mean have variance (m - 1) / m of what it should be, and t replaces z."""
    normal = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) * np.sqrt(1 - 1 / prompts)
    expected = stats.t.ppf(0.975, prompts - 1)
    found = resampled_interval(normal, prompts)
    assert found == pytest.approx((-expected, expected), abs=2e-3)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 30, 1000])
def test_a_mean_is_within_students_t(count) -> None:
    values = np.random.default_rng(count).normal(size=count)
    mean, low, high = mean_interval(values)
    t = stats.t(count - 1).ppf(0.975)
    assert mean == pytest.approx(values.mean())
    assert high - mean == pytest.approx(t * values.std(ddof=1) / np.sqrt(count), rel=2e-3)
    assert mean - low == pytest.approx(high - mean)


def test_values_that_are_all_the_same_leave_their_mean_in_doubt() -> None:
    """Student's t would give an interval without width: of two such prompts as of a thousand."""
    for same in ([0.5], [-1.0, -1.0], [0.0] * 1000, [0.3, 0.1 + 0.2, 0.3]):
        assert mean_interval(np.array(same)) == (pytest.approx(same[0]), None, None)


class TestRate:
    @pytest.mark.parametrize("samples", [2, 16])
    @pytest.mark.parametrize("spread", coverage.SPREADS)
    @pytest.mark.parametrize("rate", coverage.RATES)
    def test_it_covers(self, rate, spread, samples) -> None:
        """400 data sets: a true 95 % is below 91.5 % once in 500 times."""
        assert coverage.of_rates(400, 64, rate, samples, spread) >= 0.915

    @given(RATES, st.integers(1, 9))
    def test_right_and_wrong_are_mirror_images(self, values, blocks) -> None:
        _, low, high = rate_interval(np.array(values), blocks)
        _, other_low, other_high = rate_interval(1 - np.array(values), blocks)
        assert (low, high) == pytest.approx((1 - other_high, 1 - other_low))

    def test_one_that_differs_says_little_of_how_samples_go_together(self) -> None:
        """One right sample of 64 x 16: that of 1024 samples alike would exclude a rate of .01."""
        values = np.array([1 / 16] + [0.0] * 63)
        apart = wilson(np.array([1.0] + [0.0] * 1023))
        assert apart[1] < 0.01 < rate_interval(values, 16)[2]


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Method 10 of Newcombe (1998) from a 2 x 2 table: right before and after, only before, ..."""
    n = both + first + second + neither
    rows, columns = (both + first, second + neither), (both + second, first + neither)
    product = both * neither - first * second
    if product > 0:
        product = max(product - n / 2, 0)
    root = math.sqrt(math.prod(rows) * math.prod(columns))
    phi = product / root if root else 0.0
    p, q = rows[0] / n, columns[0] / n
    (l1, u1), (l2, u2) = (wilson(np.repeat([1.0, 0.0], pair)) for pair in (rows, columns))
    down = (q - l2) ** 2 - 2 * phi * (q - l2) * (u1 - p) + (u1 - p) ** 2
    up = (u2 - q) ** 2 - 2 * phi * (u2 - q) * (p - l1) + (p - l1) ** 2
    return q - p - math.sqrt(down), q - p + math.sqrt(up)


class TestClusters:
    @given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(1, 6))
    def test_of_clusters_of_one_size_it_is_that_of_rates(self, right, size) -> None:
        outcomes = np.repeat(np.array(right, dtype=float), size)
        outcomes[: len(right)] = 1.0
        clusters = np.repeat(np.arange(len(right)), size)
        rates = outcomes.reshape(-1, size).mean(axis=1)
        assert clustered_interval(outcomes, clusters) == pytest.approx(rate_interval(rates, size))

    def test_alone_it_is_wilsons(self) -> None:
        outcomes = np.array([1.0] * 30 + [0.0] * 10)
        assert clustered_interval(outcomes, np.arange(40))[1:] == pytest.approx(wilson(outcomes))

    def test_copies_of_an_outcome_say_nothing_new(self) -> None:
        """Each cluster four times over: the interval of the clusters alone."""
        outcomes = np.array([1.0] * 300 + [0.0] * 100)
        made = clustered_interval(np.repeat(outcomes, 4), np.repeat(np.arange(400), 4))
        assert made[1:] == pytest.approx(wilson(outcomes), abs=1e-3)

    def test_of_too_little(self) -> None:
        nothing = np.array([], dtype=np.int64)
        assert clustered_interval(np.array([]), nothing) == (None, None, None)
        assert clustered_interval(np.ones(3), np.zeros(3, dtype=np.int64)) == (1.0, None, None)

    @pytest.mark.parametrize("share", [0.6, 0.9, 0.99])
    def test_it_covers(self, share) -> None:
        assert coverage.of_pairs(400, 100, share) >= 0.925


class TestDifference:
    @pytest.mark.parametrize("samples", [1, 4])
    @pytest.mark.parametrize("alike", [True, False])
    @pytest.mark.parametrize("change", coverage.CHANGES)
    def test_it_covers(self, change, alike, samples) -> None:
        assert coverage.of_differences(400, 256, change, samples, 2.0, alike) >= 0.9

    @given(st.tuples(*[st.integers(0, 20)] * 4).filter(lambda table: sum(table) > 1))
    def test_of_yes_and_no_it_is_newcombes(self, table) -> None:
        before = np.repeat([1.0, 1.0, 0.0, 0.0], table)
        after = np.repeat([1.0, 0.0, 1.0, 0.0], table)
        found = paired_difference(before, after, (1, 1))
        assert found[0] == pytest.approx(after.mean() - before.mean())
        assert found[1:] == pytest.approx(newcombe(*table), abs=1e-7)

    def test_prompts_that_stay_as_they_are_leave_room(self) -> None:
        """Half right and the same half after: neither closed, nor as wide as unpaired."""
        values = np.repeat([0.0, 1.0], 64)
        _, low, high = paired_difference(values, values, (4, 4))
        assert -0.05 < low < 0 < high < 0.05
        _, apart, _ = paired_difference(values, np.tile([0.0, 1.0], 64), (4, 4))
        assert apart < -0.1

    def test_nothing_right_before_or_after(self) -> None:
        _, low, high = paired_difference(np.zeros(256), np.zeros(256), (4, 4))
        assert (low, high) == pytest.approx((-0.01478, 0.01478), abs=1e-5)  # Wilson's, 0 of 256

    def test_one_prompt_has_no_interval(self) -> None:
        assert paired_difference(np.array([0.0]), np.array([0.5]), (2, 2)) == (0.5, None, None)

    @given(st.data(), RATES)
    def test_it_holds_the_difference(self, data, before) -> None:
        after = data.draw(st.lists(st.floats(0, 1), min_size=len(before), max_size=len(before)))
        difference, low, high = paired_difference(np.array(before), np.array(after), (4, 4))
        assert -1 <= low <= difference <= high <= 1


def test_the_docs_have_what_it_covers() -> None:
    """As many rows as are made, none of 256 prompts below .91; one of each table is made again."""
    means = dict(re.findall(r"^\| means \| ([a-z-]+) \|(.*)\|$", DOCS.read_text(), re.MULTILINE))
    assert list(means) == list(coverage.KINDS)
    told_of_normal = [float(cell) for cell in means["normal"].split("|")]
    assert told_of_normal[1] == pytest.approx(coverage.of_means(600, 8, "normal"), abs=0.03)
    row = r"^\| (64|256) \| ((?:\d|pass|pairs)[^|]*) \|(.*)\|$"
    rows = re.findall(row, DOCS.read_text(), re.MULTILINE)
    told = {(int(m), name): [float(cell) for cell in cells.split("|")] for m, name, cells in rows}
    assert len(told) == len(coverage.PROMPTS) * (
        2 * len(coverage.RATES) + len(coverage.CHANGES) + 1
    )
    assert min(min(cells) for (m, _), cells in told.items() if m == 256) >= 0.91
    made = min(coverage.of_rates(600, 64, 0.05, 4, spread) for spread in coverage.SPREADS)
    assert told[64, "0.05, 0.95"][2] == pytest.approx(made, abs=0.03)
    made = min(
        coverage.of_differences(300, 64, (0.01, 0.99), 1, spread, alike)
        for spread in coverage.SPREADS
        for alike in (True, False)
    )
    assert told[64, "0.01 to 0.99"][0] == pytest.approx(made, abs=0.05)
