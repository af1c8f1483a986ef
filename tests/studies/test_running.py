"""Studies of the fake engine: every run in a process of its own, killed where a test says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tomli_w

from tests.closed import closed
from tests.fake_engine import Engine
from tests.studies.faked import COMPARE, ROOT, SLOW, TRAIN, study
from winnow.engines import factory
from winnow.errors import DiskError, UserError
from winnow.storage.lines import line_of
from winnow.storage.rollouts import rollout_files
from winnow.storage.run_folder import RunStore
from winnow.studies.outcomes import outcome_of
from winnow.studies.preview import preview_study
from winnow.studies.running import (
    PAGE,
    RESULT,
    TIMES,
    Comparison,
    opened,
    run_study,
    seconds_of,
)
from winnow.studies.runs import state_of


@pytest.fixture(autouse=True)
def _without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))


def compared(values: dict[str, Any], out: Path) -> Comparison:
    return run_study(values, out, quiet=True, train=TRAIN)


def told(folder: Path) -> tuple[str, str]:
    """All that a study says: its JSON and its page."""
    return (folder / RESULT).read_text(), (folder / PAGE).read_text()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A study of two variants and two seeds that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    values = study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
        made = compared(values, folder / "out")
    assert not made.failed
    return values, folder / "out"


def test_every_run_is_an_ordinary_run_folder(unbroken: tuple[dict[str, Any], Path]) -> None:
    _, out = unbroken
    found = sorted(path.relative_to(out).as_posix() for path in (out / "runs").glob("*/*"))
    assert found == ["runs/raft/seed-0", "runs/raft/seed-1", "runs/rloo/seed-0", "runs/rloo/seed-1"]
    for folder in found:
        assert state_of(out / folder) == "done"
        assert len((out / folder / "metrics.jsonl").read_text().splitlines()) == 6


def test_variants_of_a_seed_share_what_is_random(unbroken: tuple[dict[str, Any], Path]) -> None:
    """All of it, since the two differ in what they learn alone. Seeds differ in it."""
    result = json.loads((unbroken[1] / RESULT).read_text())
    (sharing,) = result["sharing"]
    assert [sharing[key] for key in ("held_out", "order", "samples")] == [2, 2, 2]
    assert "share held-out prompts, prompts and their order and samples" in sharing["said"]


def test_it_says_why_they_do_not(tmp_path: Path) -> None:
    variants = {"a": {}, "b": {"prompts_per_step": 2}, "c": {"sampling": {"temperature": 0.7}}}
    result = compared(study(tmp_path, variants, seeds=[3]), tmp_path / "out").result
    other_prompts, other_heat = result["sharing"]
    assert [other_prompts[key] for key in ("held_out", "order", "samples")] == [1, 1, 0]
    assert "samples of the first step (prompts_per_step differs)" in other_prompts["said"]
    assert "samples of the first step (sampling.temperature differs)" in other_heat["said"]


def test_entropy_is_of_the_policy_that_was_evaluated(
    unbroken: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """By the versions in the files: samples of the step after an evaluation are of its policy."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken[1] / "runs" / "rloo" / "seed-0", folder)
    rows = [{**row, "entropy": row["step"] / 10} for row in RunStore(folder).lines("metrics.jsonl")]
    (folder / "metrics.jsonl").write_text("".join(map(line_of, rows)))
    versions = {
        (split, step): {row["policy_version"] for row in pq.read_table(path).to_pylist()}
        for step, split, path in rollout_files(folder)
    }
    outcome = outcome_of(folder, "accuracy")
    assert outcome is not None
    assert [point.step for point in outcome.points] == [0, 2, 4, 6]
    for point in outcome.points[:-1]:
        assert versions["eval", point.step] == versions["train", point.step + 1]
        assert point.quantities["entropy"] == (point.step + 1) / 10
        assert point.spent["samples"] == 32 * point.step
    assert "entropy" not in outcome.points[-1].quantities  # nothing was sampled with it
    assert outcome.last["entropy"] == 0.6
    assert outcome.final == RunStore(folder).lines("evals.jsonl")[-1]["accuracy"]


def test_done_is_not_done_again(unbroken: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    values, before = unbroken
    out = tmp_path / "out"
    shutil.copytree(before, out)
    compared_again = run_study(values, out, quiet=True, train=("/nothing/there",))
    assert not compared_again.failed
    assert told(out) == told(before)


MOMENTS = {
    "begun": "study.toml",
    "a run is made": "runs/raft/seed-0/config.toml",
    "before a checkpoint": "runs/raft/seed-0/rollouts/train-000001.parquet",
    "after a checkpoint": "runs/rloo/seed-0/rollouts/train-000004.parquet",
    "the second seed": "runs/raft/seed-1/rollouts/train-000005.parquet",
}
FEW = {("study", "after a checkpoint"), ("run", "the second seed")}
KILLS = [(whom, moment) for whom in ("study", "run", "both") for moment in MOMENTS]


@pytest.mark.parametrize(
    ("whom", "moment"),
    [pytest.param(*one, marks=() if one in FEW else pytest.mark.torture) for one in KILLS],
)
def test_killed_and_run_again_it_says_the_same(
    unbroken: tuple[dict[str, Any], Path], tmp_path: Path, whom: str, moment: str
) -> None:
    """SIGKILL to the study, whose runs then live on and are waited for; to its runs; or to all."""
    values, before = unbroken
    out = tmp_path / "out"
    process = started(values, tmp_path, out)
    while not (out / MOMENTS[moment]).is_file():
        assert process.poll() is None
        time.sleep(0.01)
    children = children_of(process.pid)
    if whom != "run":
        process.kill()
    for child in children if whom != "study" else ():
        os.kill(child, signal.SIGKILL)
    process.communicate(timeout=120)
    made = compared(values, out)
    assert not made.failed
    assert told(out) == told(before)
    logs = "".join(path.read_text() for path in (out / "logs").glob("*/*"))
    if whom != "study" and moment in ("after a checkpoint", "the second seed"):
        assert "resuming from step-" in logs


def started(values: dict[str, Any], folder: Path, out: Path) -> subprocess.Popen[str]:
    """The study in a process of its own, each of its runs a few seconds long."""
    recipe = folder / "STUDY.toml"
    recipe.write_text(tomli_w.dumps({**values, "study": {**values["study"], "name": "study"}}))
    return subprocess.Popen(
        [*COMPARE, str(recipe), "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), SLOW: "0.2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in found.read_text().split()] if found.is_file() else []


def test_ctrl_c_ends_the_runs_saved(unbroken: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    values, before = unbroken
    out = tmp_path / "out"
    process = started(values, tmp_path, out)
    while not (out / "runs" / "raft" / "seed-0" / "metrics.jsonl").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "winnow: stopped; to resume, run the same command again"
    assert state_of(out / "runs" / "raft" / "seed-0") == "unfinished"  # it had just begun
    log = (out / "logs" / "raft" / "seed-0.log").read_text()
    assert "winnow: stopped; resume: winnow train --resume" in log
    compared(values, out)
    assert told(out) == told(before)


def test_a_run_that_fails_ends_no_other(tmp_path: Path) -> None:
    """Its verifier answers with text; the other variant is still run and compared."""
    (tmp_path / "mine.py").write_text("def score(prompt, completion):\n    return 'x'\n")
    variants = {"good": {}, "broken": {"reward": f"{tmp_path}/mine.py:score"}}
    made = compared(study(tmp_path, variants, seeds=1), tmp_path / "out")
    (line,) = made.failed
    assert line.startswith("broken seed 0: ")
    assert made.result["variants"][0]["seeds"] == [0]
    assert made.result["variants"][1]["seeds"] == []
    assert "broken: no result for seed 0" in made.result["notes"][0]


def test_only_whole_runs_are_timed(unbroken: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """One that fails says nothing of how long a run takes, nor the rest of one that was killed.

    A line that a kill has cut short is no part of the next.
    """
    values, before = unbroken
    out = tmp_path / "out"
    shutil.copytree(before, out)
    times = out / TIMES
    timed = {(name, seed) for name in values["variants"] for seed in (0, 1)}
    assert set(seconds_of(out)) == timed
    whole = times.read_bytes()
    times.write_bytes(b"".join(whole.splitlines(keepends=True)[:1]) + b'{"variant": "ra')
    (known,) = seconds_of(out)
    shutil.rmtree(out / "runs" / "raft" / "seed-1")
    shutil.rmtree(out / "runs" / "rloo" / "seed-1")
    assert len(run_study(values, out, quiet=True, train=("false",)).failed) == 2
    assert set(seconds_of(out)) == {known}
    killed = out / "runs" / "rloo" / "seed-1"
    shutil.copytree(before / "runs" / "rloo" / "seed-1", killed)
    shutil.rmtree(killed / "checkpoints" / "step-6")
    assert state_of(killed) == "unfinished"
    assert not compared(values, out).failed
    assert set(seconds_of(out)) == {known, ("raft", 1)}


def test_a_budget_is_held(tmp_path: Path) -> None:
    """32 samples a step: 100 are reached with the fourth, whatever the variant."""
    values = study(tmp_path, seeds=1, budget={"samples": 100})
    result = compared(values, tmp_path / "out").result
    for variant in result["variants"]:
        assert variant["steps"] == [4]
        assert variant["spent"][0]["samples"] == 128
    assert result["curves"]["raft"]["metric"]["x"] == [0, 64, 128]


def test_patience_is_why_a_run_ended_before_its_budget(tmp_path: Path) -> None:
    """It learns nothing, so that an evaluation is no better soon."""
    own = {"eval": {"patience": 1}, "optimizer": {"lr": 0.0}, "steps": 40}
    values = study(tmp_path, {"a": own}, seeds=1, budget={"samples": 1200})
    notes = compared(values, tmp_path / "out").result["notes"]
    said = "a: ended before its budget of 1,200 samples at 1 of 1 seeds: eval.patience ended it"
    assert said in notes


def test_other_settings_are_refused_and_more_seeds_are_not(
    unbroken: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    values, before = unbroken
    out = tmp_path / "out"
    shutil.copytree(before, out)
    changed = {**values, "base": {**values["base"], "steps": 7}}
    with pytest.raises(UserError, match=r"was begun with other settings .*steps 6 -> 7"):
        compared(changed, out)
    shorter = {**values["base"]["eval"], "max_tokens": 3}
    changed = {**values, "base": {**values["base"], "eval": shorter}}
    with pytest.raises(UserError, match=r"other settings \(eval.max_tokens unset -> 3\)"):
        compared(changed, out)
    assert told(out) == told(before)
    more = compared({**values, "study": {**values["study"], "seeds": 3}}, out)
    assert [variant["seeds"] for variant in more.result["variants"]] == [[0, 1, 2]] * 2


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is no folder of a study"):
        compared(study(tmp_path), out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", ["afile", "afile/x", "afile/x/y"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, place: str) -> None:
    """Also by what only tells what would be run."""
    (tmp_path / "afile").write_text("x")
    out = tmp_path / place
    problem = "exists already" if place == "afile" else f"cannot make .*{place}: .*afile is not a"
    for does in (compared, preview_study):
        with pytest.raises(UserError, match=problem) as told:
            does(study(tmp_path), out)
        assert (told.value.setting, told.value.remedy) == ("out", "choose another --out")


@pytest.mark.parametrize("there", ["logs", "recipes", "runs"])
def test_a_folder_that_cannot_be_made_within_a_study_is_told(tmp_path: Path, there: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).write_text("x")
    with pytest.raises(DiskError, match="cannot write"):
        compared(study(tmp_path), tmp_path / "out")


def test_a_studys_folder_is_a_study(unbroken: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """Its study.toml is resolved: from another working folder it is the same."""
    out = tmp_path / "moved"
    shutil.copytree(unbroken[1], out)
    made = run_study(out, quiet=True, train=TRAIN)
    assert made.folder == out
    assert told(out) == told(unbroken[1])


def test_a_study_in_a_closed_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    with (
        closed(folder),
        pytest.raises(UserError, match=r"^study: cannot read .*: Permission denied"),
    ):
        opened(folder / "study.toml")
