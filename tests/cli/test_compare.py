"""`winnow compare` as it is called: what it prints, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from tests.fake_engine import Engine
from tests.studies.faked import TRAIN, study
from tests.studies.test_analysis import RUNS
from tests.studies.test_analysis import study as of_names
from winnow.cli import main
from winnow.cli.compare_table import comparison_lines
from winnow.engines import factory
from winnow.errors import UserError
from winnow.studies.analysis import compared
from winnow.studies.outcomes import Outcome
from winnow.studies.running import FailedRuns, run_study


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    monkeypatch.setitem(run_study.__kwdefaults__, "train", TRAIN)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "STUDY.toml"
    path.write_text(tomli_w.dumps(study(tmp_path)))
    return path


def said(*words: str) -> str:
    done = CliRunner().invoke(main.app, ["compare", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_dry_run_writes_nothing(recipe: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    printed = said(str(recipe), "--dry-run")
    assert "2 variants x 2 seeds = 4 runs, 0 of them done" in printed
    assert "2 seeds can tell no difference; 6 are the fewest that can" in printed
    assert "rloo: 6 steps at most, 192 samples, 0 runs done" in printed
    told = json.loads(said(str(recipe), "--dry-run", "--json"))
    assert [variant["name"] for variant in told["variants"]] == ["raft", "rloo"]
    assert sorted(tmp_path.rglob("*")) == before


def test_one_is_no_plural(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(tomli_w.dumps(study(tmp_path, ["raft"], seeds=1)))
    printed = said(str(recipe), "--dry-run")
    assert "runs:    1 variant x 1 seed = 1 run, 0 of them done" in printed
    assert "note: 1 seed can tell no difference" in printed


def test_a_dry_run_counts_every_phase(tmp_path: Path, recipe: Path) -> None:
    """Twice 3 steps of 32 samples and 5 of 8."""
    phases = [{"algorithm": "raft", "steps": 3}, {"algorithm": "rloo", "samples_per_prompt": 2}]
    turns = {"phases": phases, "cycles": 2}
    path = tmp_path / "phases.toml"
    path.write_text(tomli_w.dumps(study(tmp_path, {"plain": {}, "turns": {**turns, "steps": 5}})))
    printed = said(str(path), "--dry-run")
    assert "turns: 16 steps at most, 272 samples, 0 runs done" in printed
    assert "plain: 6 steps at most, 192 samples, 0 runs done" in printed
    (turned,) = json.loads(said(str(path), "--dry-run", "--json"))["variants"][1:]
    assert "cycles = 2" in turned["settings"]
    assert "algorithm.select: unset" in turned["settings"]
    assert not any("None" in setting for setting in turned["settings"])


def test_it_runs_and_a_plan_is_made_of_it(recipe: Path, tmp_path: Path) -> None:
    told = json.loads(said(str(recipe), "--out", "out", "--json"))
    assert told["failed"] == []
    assert told == {
        "folder": str(tmp_path / "out"),
        "failed": [],
        **json.loads((tmp_path / "out" / "result.json").read_text()),
    }
    assert "cannot tell rloo from raft" in said(str(recipe), "--out", "out", "--resume")
    plan = said("out", "--plan", "--difference", "0.05")
    assert "to find a difference of 0.05 in 80% of studies" in plan
    assert "sd is of 2 seeds" in plan
    assert "2 runs at a time" in plan
    preview = said(str(recipe), "--out", "out", "--dry-run")
    assert "4 runs, 4 of them done" in preview


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--plan"], "--plan: it says how many seeds a difference needs; give --difference"),
        (["--difference", "1"], "--difference: it is for --plan"),
        (["--plan", "--difference", "1", "--dry-run"], "--dry-run: it does not go with --plan"),
        (["--plan", "--resume"], "--resume: it does not go with --plan; give one of them"),
        (["--dry-run", "--resume"], "--resume: it does not go with --dry-run"),
        (["--out", "nothing", "--resume"], "--resume: no study was begun in"),
    ],
)
def test_what_does_not_go_together(recipe: Path, words: list[str], problem: str) -> None:
    with pytest.raises(UserError) as raised:
        CliRunner().invoke(main.app, ["compare", str(recipe), *words], catch_exceptions=False)
    assert str(raised.value).startswith(problem)


def test_one_run_that_failed_is_one_run(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(prompt, completion):\n    return 'x'\n")
    variants = {"good": {}, "broken": {"reward": f"{tmp_path}/mine.py:score"}}
    recipe.write_text(tomli_w.dumps(study(tmp_path, variants, seeds=1)))
    with pytest.raises(FailedRuns, match=r"^1 run failed: broken seed 0: "):
        CliRunner().invoke(main.app, ["compare", str(recipe)], catch_exceptions=False)


def test_the_table_fits_into_80_columns() -> None:
    """Also where a name is as long as it may be, and with a reward in place of an accuracy."""
    long = "n" * 60
    runs = {"a": RUNS["a"], long: RUNS["b"], "c": RUNS["c"]}
    for metric in ("accuracy", "reward"):
        lines = list(comparison_lines(compared(of_names(("a", long, "c"), metric=metric), runs)))
        assert max(map(len, lines)) <= 80
        assert sum(line.startswith(long) for line in lines) >= 2
    assert any(line.startswith("- a ") for line in lines)


def test_shares_beside_the_metric_differ_by_points() -> None:
    """pass@k rises by 6.25 and by 18.75 of 100, so by 12.5 on average, and t of one is 12.706."""

    def run(top: float) -> Outcome:
        points = [
            replace(point, quantities={"entropy": 1.5 * height, "pass_at_k": height})
            for point, height in zip(RUNS["a"][0].points, (0.25, top), strict=True)
        ]
        return replace(RUNS["a"][0], points=points)

    runs = {"a": {0: run(0.5), 1: run(0.5)}, "b": {0: run(0.5625), 1: run(0.6875)}}
    lines = list(comparison_lines(compared(of_names(("a", "b"), seeds=2), runs)))
    assert any("differences in points" in line for line in lines)
    place = next(n for n, line in enumerate(lines) if "at equal accuracy" in line)
    heading, entropy, passes = lines[place : place + 3]
    assert "points or nats" in heading
    assert "+0.188 [-1.004, 1.379]" in entropy
    assert "+12.5 [-66.9, 91.9]" in passes


@pytest.mark.parametrize("scale", [-1.0, 1.0, 30.0, -300.0, 4000.0])
def test_rewards_of_any_size_are_in_line(scale: float) -> None:
    """Fewer decimals where a cell would pass its column."""
    runs = {
        name: {
            seed: replace(
                run,
                final=scale * run.final,
                points=[replace(point, metric=scale * point.metric) for point in run.points],
            )
            for seed, run in own.items()
        }
        for name, own in RUNS.items()
    }
    lines = list(comparison_lines(compared(of_names(metric="reward"), runs)))
    assert max(map(len, lines)) <= 80
    first, second, *_ = (n for n, line in enumerate(lines) if line.startswith("- a  "))
    rows = [*lines[first : first + 3], *lines[second : second + 3]]
    assert {len(row) for row in rows} == {80}
    heading, *variants = lines[3:7]
    assert {row.index("]") for row in variants} == {heading.index("reward") + 5}
