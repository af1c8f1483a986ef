"""How often verdicts and intervals over seeds err, counted: see tests/theory/calibration.py."""

from __future__ import annotations

import math
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from tests.theory import calibration
from winnow.theory.comparison import paired
from winnow.theory.student import power
from winnow.theory.verdicts import Rule, told

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
FEW, MANY = 400, 4000
"""Sets of outcomes by day and by night."""


def most(sets: int, rate: float = 0.05) -> float:
    """What a true rate passes once in two thousand times (3.3 standard errors)."""
    return rate + 3.3 * math.sqrt(rate * (1 - rate) / sets)


class TestEqualVariants:
    def check(self, seeds: int, sets: int) -> None:
        for world in calibration.WORLDS:
            for shared in (False, True):
                rates = calibration.called(world, seeds, shared, sets)
                for test in set(calibration.TESTS) - {"bootstrap"}:
                    assert rates[test] <= most(sets), (world, shared, test)
                if seeds < 6:
                    assert rates["verdict"] == 0
                assert rates["verdict"] <= min(rates["paired t"], rates["sign flips"])

    @pytest.mark.parametrize("seeds", calibration.SEEDS)
    def test_are_called_different_in_5_percent_at_most(self, seeds) -> None:
        self.check(seeds, FEW)

    @pytest.mark.long
    @pytest.mark.parametrize("seeds", calibration.SEEDS)
    def test_are_so_counted_more_often(self, seeds) -> None:
        self.check(seeds, MANY)

    @pytest.mark.parametrize("seeds", [3, 5])
    def test_a_percentile_bootstrap_would_err(self, seeds) -> None:
        """Why there is none: its interval of 3 equal differences is a fourth of the time to one
        side of 0, at 2^-3 for each side."""
        rates = calibration.called("normal", seeds, False, FEW)
        assert rates["bootstrap"] > 2 * 0.05 + most(FEW) - 0.05

    @pytest.mark.parametrize("world", ["normal", "accuracy near 1 %", "learns or fails"])
    def test_of_many_pairs_one_is_called_different_in_5_percent(self, world) -> None:
        """Five variants, ten pairs, corrected by Holm: by the verdict."""
        sets = 300
        by_verdict, _ = calibration.called_in_family(world, 5, 8, sets)
        assert by_verdict <= most(sets)

    def test_a_t_test_alone_would_err_in_families_of_three_seeds(self) -> None:
        """Why the flips are asked too: runs that learn or fail are alike three times by chance."""
        _, by_t = calibration.called_in_family("learns or fails", 8, 3, 400)
        assert by_t > most(400) - 0.01

    def test_the_flips_are_exact_by_enumeration(self) -> None:
        """All 2^8 signs of 8 differences: 5 % of them at most are called, those that the rule may.

        By symmetry each is as probable if the variants are equal, whatever their distribution.
        """
        sizes = np.array([0.3, 1.0, 1.1, 1.7, 2.0, 2.2, 2.4, 0.05])
        count = 0
        for flipped in range(2**8):
            signs = np.where(flipped >> np.arange(8) & 1, 1.0, -1.0)
            d = paired(np.zeros(8), signs * sizes)
            count += told(d, d.p, Rule())
        assert 0 < count <= 0.05 * 2**8


class TestTrueDifferences:
    @pytest.mark.parametrize("seeds", [3, 5, 10, 20])
    def test_of_two_standard_errors_are_found_as_often_as_theory_says(self, seeds) -> None:
        effect, sets = 2 / math.sqrt(seeds), 1000
        theory = power(effect, seeds)
        _, by_t = calibration.found(effect, seeds, sets)
        assert by_t == pytest.approx(theory, abs=most(sets, theory) - theory)

    @pytest.mark.parametrize("seeds", [10, 20])
    def test_the_verdict_finds_nearly_as_many(self, seeds) -> None:
        """Flips of ten signs cost 2 in 100; at 20 nothing that is seen."""
        effect, sets = 2 / math.sqrt(seeds), 1000
        by_verdict, by_t = calibration.found(effect, seeds, sets)
        assert by_t - 0.04 <= by_verdict <= by_t

    def test_at_six_seeds_only_those_that_all_agree(self) -> None:
        """Phi(2)^6 = .871: what `seeds_needed` reckons with."""
        by_verdict, _ = calibration.found(2.0, 6, 1000)
        expected = 0.9772499**6
        assert by_verdict == pytest.approx(expected, abs=most(1000, expected) - expected)


class TestIntervals:
    @pytest.mark.parametrize("seeds", [3, 5, 10, 20])
    @pytest.mark.parametrize("world", ["normal", "accuracy near 50 %"])
    def test_they_hold_the_truth(self, world, seeds) -> None:
        sets = 300
        for name, share in calibration.held(world, seeds, sets).items():
            assert share >= 1 - most(sets), name

    @pytest.mark.parametrize("world", ["log-normal", "accuracy near 1 %"])
    def test_of_differences_they_hold_it_elsewhere_too(self, world) -> None:
        shares = calibration.held(world, 5, 300)
        for name in ("paired t", "Welch's t", "sign flips", "improvement, paired", "improvement"):
            assert shares[name] >= 1 - most(300), name


def rows(name: str) -> dict[int, list[float]]:
    found = re.findall(
        rf"^\| {re.escape(name)} \| (\d+) \|(.*)\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {int(seeds): [float(cell) for cell in cells.split("|")] for seeds, cells in found}


class TestDocs:
    def test_their_example_prints_what_they_show(self, capsys) -> None:
        section = DOCS.read_text(encoding="utf-8").partition("## Intervals over seeds")[2]
        code, shown = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)[:2]
        exec(compile(code, "metrics.md", "exec"), {})
        assert capsys.readouterr().out == shown

    @pytest.mark.parametrize("test", calibration.TESTS)
    def test_they_have_how_often_tests_err(self, test) -> None:
        """The verdict's are 5 % at most, to what may be seen by chance; one row is made again."""
        told_of = rows(test)
        assert tuple(told_of) == calibration.SEEDS
        assert {len(cells) for cells in told_of.values()} == {len(calibration.WORLDS) + 1}
        if test == "verdict":
            assert max(max(cells[:-1]) for cells in told_of.values()) <= most(2000)
        made = calibration.called_unlike(10, 600)[test]
        assert told_of[10][-1] == pytest.approx(made, abs=0.05)

    @pytest.mark.parametrize("name", ["verdict, 28 pairs", "paired t, 28 pairs"])
    def test_they_have_families(self, name) -> None:
        assert len(list(combinations(range(8), 2))) == 28
        told_of = rows(name)
        assert tuple(told_of) == calibration.SEEDS
        if name.startswith("verdict"):
            assert max(max(cells) for cells in told_of.values()) <= most(400)

    def test_they_have_what_is_found(self) -> None:
        told_of = rows("found")
        assert tuple(told_of) == calibration.SEEDS
        for seeds, (theory, by_t, _) in told_of.items():
            assert theory == round(power(2 / math.sqrt(seeds), seeds), 3)
            assert by_t == pytest.approx(theory, abs=most(MANY, theory) - theory)

    def test_they_have_intervals(self) -> None:
        made = calibration.held("normal", 5, 300)
        for name, share in made.items():
            told_of = rows(f"interval, {name}")
            assert tuple(told_of) == calibration.SEEDS
            assert told_of[5][0] == pytest.approx(share, abs=0.05)
