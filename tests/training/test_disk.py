"""What a run takes on the disk, told before and after; what of it may be dropped or cleaned."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import winnow
from tests.kills import KillAt, config, go, logits
from winnow.cli import main
from winnow.reporting.observer import Observers
from winnow.storage.lock import FolderLock
from winnow.storage.sizes import measured, told
from winnow.training.cleaning import clean
from winnow.training.run import run

KINDS = ("leftover", "checkpoint", "optimizer")


def plain(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def kept(tiny_model, tmp_path_factory):
    """A run of six steps with all its checkpoints, and what it said."""
    folder = tmp_path_factory.mktemp("kept")
    heard = KillAt()
    settings = config(
        tiny_model, folder, algorithm="raft", steps=6, checkpoint={"every": 2, "keep": 2}
    )
    run(settings, out=folder / "run", observers=heard)
    return folder / "run", heard.notes


@pytest.fixture
def copy(kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "run")
    return tmp_path / "run"


def test_the_estimate_is_what_a_run_takes_at_most(kept):
    """Three checkpoints while one is written, of 12 bytes a weight; two stay."""
    (said,) = [note for note in kept[1] if note.startswith("disk: ")]
    weights = sum(p.numel() for p in plain(kept[0] / "checkpoints" / "step-6").parameters())
    one = measured(kept[0] / "checkpoints" / "step-6")
    assert 12 * weights < one < 12 * weights + 310_000
    assert said.startswith("disk: up to ")
    assert "(3 x " in said
    most = float(said.split()[3])
    assert 3 * one < most * 1e6 < 4.5 * one  # what is beside a tiny model's weights weighs much
    assert told(kept[0]).endswith(" kB)")
    assert "(2 checkpoints " in told(kept[0])


def extend(folder: Path, steps: int) -> None:
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("\nsteps = 6", f"\nsteps = {steps}"))


def test_a_run_may_drop_the_optimizers_state_at_its_end(tiny_model, tmp_path, kept):
    settings = config(
        tiny_model,
        tmp_path,
        algorithm="raft",
        steps=6,
        checkpoint={"every": 2, "keep": 2, "keep_optimizer": False},
    )
    result = go(settings, tmp_path / "run")
    assert not list((tmp_path / "run").rglob("optimizer.pt"))
    assert measured(tmp_path / "run") < 0.45 * measured(kept[0])
    whole = kept[0] / "checkpoints" / "step-6"
    assert torch.equal(logits(plain(result.checkpoint)), logits(plain(whole)))
    again = run(resume=tmp_path / "run", observers=Observers())
    assert again.checkpoint == result.checkpoint
    extend(tmp_path / "run", 8)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(winnow.UserError, match=r"optimizer's state was dropped.*--set model=.*-6$"):
        run(resume=tmp_path / "run", observers=Observers())
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_run_that_is_cleaned_but_for_the_optimizer_is_resumed(copy, kept):
    """Made longer, it ends as the one that was not cleaned."""
    shutil.copytree(copy, copy.parent / "other")
    found = clean(copy, ("leftover", "checkpoint"), delete=True)
    assert [one.path.name for one in found] == ["step-4"]
    ends = []
    for folder in (copy, copy.parent / "other"):
        extend(folder, 8)
        ends.append(run(resume=folder, observers=Observers()).checkpoint)
    assert torch.equal(*(logits(plain(end)) for end in ends))


def stopped_early(tiny_model: Path, folder: Path, **other):
    """A run in `run` that stops before its last step: nothing becomes better."""
    settings = config(
        tiny_model,
        folder,
        algorithm="raft",
        steps=6,
        eval={"size": 5, "every": 1, "patience": 2, "samples": 4, "test_size": 0},
        optimizer={"lr": 0.0},
        **other,
    )
    return go(settings, folder / "run")


def test_what_early_stopping_chose_stays(tiny_model, tmp_path):
    result = stopped_early(tiny_model, tmp_path)
    assert result.checkpoint.name != f"step-{len(result.metrics)}"
    left = clean(tmp_path / "run", KINDS, delete=True)
    assert {one.kind for one in left} == {"optimizer"}
    plain(result.checkpoint)
    assert sum(1 for _ in (tmp_path / "run" / "checkpoints").iterdir()) == 2
    again = run(resume=tmp_path / "run", observers=Observers())  # it is done, and stays so
    assert (again.checkpoint, len(again.metrics)) == (result.checkpoint, len(result.metrics))


def test_a_run_that_was_killed_as_it_stopped_early_keeps_the_optimizer(tiny_model, tmp_path):
    """The evaluation that ends it is on the disk, the checkpoint of its step is not."""
    result = stopped_early(tiny_model, tmp_path, checkpoint={"every": 1, "keep": 3})
    last = len(result.metrics)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{last}")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(lines[:-1]))
    found = clean(tmp_path / "run", KINDS, delete=False)
    assert not [one for one in found if one.kind == "optimizer"]
    again = run(resume=tmp_path / "run", observers=Observers())
    assert (again.checkpoint, len(again.metrics)) == (result.checkpoint, last)


def test_the_command_lists_and_deletes_with_yes_alone(copy):
    def said(*given: str):
        return CliRunner().invoke(main.app, ["clean", str(copy), *given])

    before = set(copy.rglob("*"))
    listed = json.loads(said("--json").output)
    assert [one["kind"] for one in listed["found"]] == ["checkpoint", "optimizer"]
    assert listed["bytes"] == sum(one["size"] for one in listed["found"])
    assert set(copy.rglob("*")) == before
    assert "nothing is deleted without --yes" in said().output
    for kind in ("checkpoint", "optimizer"):
        option = "--checkpoints" if kind == "checkpoint" else kind
        some = json.loads(said("--json", f"--{option.lstrip('-')}").output)
        assert {one["kind"] for one in some["found"]} == {kind}
    with FolderLock() as lock:
        lock.take(copy)
        refused = said("--yes").exception
    assert isinstance(refused, winnow.UserError)
    assert "another winnow is writing" in str(refused)
    assert set(copy.rglob("*")) == before
    assert "deleted" in said("--yes").output
    gone = {str(p.relative_to(copy)) for p in before - set(copy.rglob("*"))}
    assert {name for name in gone if not name.startswith("checkpoints/step-4")} == {
        "checkpoints/step-6/optimizer.pt"
    }
    assert "nothing to delete" in said().output


def test_a_run_that_is_named_twice_is_counted_once(copy, monkeypatch):
    def found(*given: str):
        return json.loads(CliRunner().invoke(main.app, ["clean", *given, "--json"]).output)

    once = found(str(copy))
    monkeypatch.chdir(copy)
    (copy.parent / "link").symlink_to(copy)
    assert found(str(copy), f"{copy}/", ".", "../link") == once


def test_leftovers_of_no_bytes_are_not_deleted_without_yes_either(copy):
    clean(copy, KINDS, delete=True)
    (copy / "rollouts" / ".train-000007.parquet.partial").touch()
    said = CliRunner().invoke(main.app, ["clean", str(copy)]).output
    assert said.splitlines()[-1] == "0 B in all; nothing is deleted without --yes"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(winnow.UserError, match=r"^RUN: .*no run folder"):
        clean(tmp_path, KINDS, delete=True)


def test_a_run_that_is_not_done_keeps_the_optimizer(copy):
    extend(copy, 60)
    assert {one.kind for one in clean(copy, KINDS, delete=False)} == {"checkpoint"}
