"""How many seeds a difference needs, from a pilot that was made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.studies.faked import study
from tests.studies.test_analysis import of_finals
from winnow.cli.compare_table import plan_lines
from winnow.errors import UserError
from winnow.storage.lines import line_of
from winnow.studies import planning
from winnow.studies.planning import plan_study
from winnow.studies.schema import study_of

A = np.array([0.40, 0.52, 0.47, 0.61])
B = A + np.array([0.02, 0.06, 0.03, 0.05])


@pytest.fixture
def pilot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two variants, four seeds; a run of the one took 10 s, of the other 20 s, two at a time."""
    file = study_of(study(tmp_path, seeds=4))
    runs = {"raft": of_finals(A), "rloo": of_finals(B)}
    monkeypatch.setattr(planning, "opened", lambda _: (file, tmp_path))
    monkeypatch.setattr(planning, "outcomes_of", lambda *_: runs)
    rows = [
        {"variant": name, "seed": seed, "seconds": seconds}
        for name, seconds in (("raft", 10.0), ("rloo", 20.0))
        for seed in range(4)
    ]
    # a run whose folder was removed, and that was made again: the last one counts
    rows.insert(0, {"variant": "raft", "seed": 0, "seconds": 4.0})
    (tmp_path / "times.jsonl").write_text("".join(line_of(row) for row in rows))
    return tmp_path


def power(seeds: int, effect: float) -> float:
    """Of a two-sided paired t test at 5 %, by SciPy's noncentral t."""
    edge = stats.t.ppf(0.975, seeds - 1)
    shift = effect * np.sqrt(seeds)
    return float(stats.nct.sf(edge, seeds - 1, shift) + stats.nct.cdf(-edge, seeds - 1, shift))


def test_seeds_are_the_fewest_with_that_power(pilot: Path) -> None:
    made = plan_study(pilot, 0.02)
    (need,) = made.needs
    assert need.sd == pytest.approx(np.std(B - A, ddof=1))
    assert need.unpaired_sd == pytest.approx(np.sqrt(np.var(A, ddof=1) + np.var(B, ddof=1)))
    assert need.alone is not None
    assert need.alone == need.all  # one comparison: nothing to correct for
    effect = 0.02 / need.sd
    assert power(need.alone, effect) >= 0.8 > power(need.alone - 1, effect)


def test_time_and_samples_are_those_of_the_pilot(pilot: Path) -> None:
    """A run of each for every seed, 30 s together, two at a time; each made 100 samples."""
    made = plan_study(pilot, 0.02)
    assert made.seeds is not None
    assert made.seconds == pytest.approx(made.seeds * 30.0 / 2)
    assert made.run_seconds == {"raft": 10.0, "rloo": 20.0}
    assert made.samples == made.seeds * 200


def test_a_smaller_difference_needs_more(pilot: Path) -> None:
    needed = [plan_study(pilot, difference).seeds for difference in (0.05, 0.01, 0.002)]
    assert needed == sorted(needed, key=lambda seeds: seeds or 0)
    assert len(set(needed)) == 3


@pytest.mark.parametrize("difference", [0.0, -1.0, float("nan"), float("inf")])
def test_a_difference_is_above_zero(pilot: Path, difference: float) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        plan_study(pilot, difference)


def test_differences_that_are_all_the_same_promise_nothing(
    pilot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "an sd of 0" not in " ".join(plan_lines(plan_study(pilot, 0.02)))
    runs: Any = {"raft": of_finals(A), "rloo": of_finals(A + 0.1)}  # 0.1 up to rounding
    monkeypatch.setattr(planning, "outcomes_of", lambda *_: runs)
    made = plan_study(pilot, 0.02)
    assert made.needs[0].sd == 0
    assert made.seeds == 6  # flips of signs tell nothing with fewer: 2 / 2^5 > 0.05
    assert "an sd of 0 (rloo - raft) does not say that" in " ".join(plan_lines(made))


def test_one_seed_is_no_pilot(pilot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: Any = {"raft": of_finals(A[:1]), "rloo": of_finals(B[:1])}
    monkeypatch.setattr(planning, "outcomes_of", lambda *_: runs)
    with pytest.raises(UserError, match="run a pilot first"):
        plan_study(pilot, 0.1)
