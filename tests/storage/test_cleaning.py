"""`winnow clean`: what goes, what stays, and that a kill at any moment loses nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.kills import Killed
from winnow.storage.atomic import drop_folder
from winnow.storage.checkpoints import DROPPED, OPTIMIZER, drop_optimizer, open_sealed, set_aside
from winnow.storage.cleaning import removable, remove
from winnow.storage.run_folder import RunStore
from winnow.storage.sizes import measured


def save(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights" * 100)
    (folder / OPTIMIZER).write_bytes(b"moments" * 200)


@pytest.fixture
def run(tmp_path) -> Path:
    """Checkpoints of steps 2, 4 and 6, one that was damaged, and what kills have left."""
    store = RunStore.create(tmp_path / "run", "", {})
    for step in (2, 4, 5, 6):
        store.checkpoint(step, save, {}, keep=9)
    set_aside(tmp_path / "run" / "checkpoints" / "step-5")
    (tmp_path / "run" / "checkpoints" / ".step-8.partial").mkdir()
    (tmp_path / "run" / "checkpoints" / ".step-8.partial" / "model").write_bytes(b"half")
    (tmp_path / "run" / "rollouts" / ".train-000007.parquet.partial").write_bytes(b"half")
    (tmp_path / "run" / "rollouts" / "train-000006.parquet").write_bytes(b"samples")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"{}\n")
    return tmp_path / "run"


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def clean(folder: Path, keep=(), done=True) -> None:
    for one in list(removable(folder, keep, done=done)):
        remove(one)


ALWAYS = {"config.toml", "environment.json", "metrics.jsonl", "rollouts/train-000006.parquet"}


def checkpoint(step: int, *more: str) -> set[str]:
    names = ("model.safetensors", "state.json", *more)
    return {f"checkpoints/step-{step}/{name}" for name in names}


def test_what_is_left(run):
    before = measured(run)
    found = list(removable(run, {4}, done=True))
    clean(run, {4})
    assert files(run) == ALWAYS | checkpoint(6) | checkpoint(4)
    for step in (4, 6):
        state, sealed = open_sealed(run / "checkpoints" / f"step-{step}")
        assert (state[DROPPED], sealed) == (True, True)
    # what was told went; the two states say that the optimizer's went
    grown = before - sum(one.size for one in found)
    assert abs(measured(run) - grown) < 200
    assert not list(removable(run, {4}, done=True))


def test_a_run_that_is_not_done_can_be_resumed(run):
    clean(run, done=False)
    assert files(run) == ALWAYS | checkpoint(6, OPTIMIZER)
    assert open_sealed(run / "checkpoints" / "step-6")[0] == {"step": 6}


def test_without_knowing_what_is_needed_all_checkpoints_stay(run):
    clean(run, None, done=False)
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"step-2", "step-4", "step-6"}


def test_a_damaged_newest_one_is_no_reason_to_delete_the_whole_one_before_it(run):
    (run / "checkpoints" / "step-6" / "model.safetensors").write_bytes(b"flipped")
    clean(run, done=False)
    assert files(run) == ALWAYS | checkpoint(6, OPTIMIZER) | checkpoint(4, OPTIMIZER)


@pytest.mark.parametrize("name", ["step-4", "step-6"])
def test_where_no_checkpoint_is_whole_none_goes(run, name):
    for step in (2, 4, 6):
        (run / "checkpoints" / f"step-{step}" / "model.safetensors").write_bytes(b"flipped")
    clean(run)
    assert (run / "checkpoints" / name / OPTIMIZER).is_file()


def test_a_kill_at_any_moment_loses_nothing(run, monkeypatch, tmp_path):
    """At each of the operations that delete or rename: the newest checkpoint is whole, and the next
    clean ends where one that is not killed does."""
    kept, at, done = shutil.copytree(run, tmp_path / "kept", symlinks=True), 0, False
    clean(run)
    expected = files(run)
    while not done:
        at += 1
        shutil.rmtree(run)
        shutil.copytree(kept, run, symlinks=True)
        with monkeypatch.context() as patch:
            count = Count(at)
            for name in ("rename", "unlink", "rmdir", "remove"):
                patch.setattr(os, name, count(getattr(os, name)))
            try:
                clean(run)
                done = True
            except Killed:
                pass
        open_sealed(run / "checkpoints" / "step-6")
        assert (run / "checkpoints" / "step-6" / "model.safetensors").is_file()
        assert files(run) >= ALWAYS
        clean(run)
        assert files(run) == expected, at
    assert at > 10


class Count:
    """Kills at the n-th of some operations, before it is done."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, true):
        def operation(*given, **named):
            self.left -= 1
            if self.left == 0:
                raise Killed
            return true(*given, **named)

        return operation


def test_of_what_is_elsewhere_the_link_alone_goes(run, tmp_path):
    inside = run / "checkpoints"
    for name in ("step-2", "step-5.set-aside"):
        (inside / name).rename(tmp_path / name)
        (inside / name).symlink_to(tmp_path / name)
    (inside / ".step-3.gone").symlink_to(tmp_path / "nowhere")
    clean(run)
    assert sorted(os.listdir(inside)) == ["step-6"]
    for name in ("step-2", "step-5.set-aside"):
        assert (tmp_path / name / "model.safetensors").is_file()


def test_a_checkpoint_without_digests_says_too_that_it_lost_it(run):
    """Those of an earlier version had none."""
    folder = run / "checkpoints" / "step-6"
    (folder / "state.json").write_text('{"step": 6}')
    drop_optimizer(folder)
    drop_optimizer(folder)
    (folder / "model.safetensors").unlink()  # of which no tensor can be read
    assert open_sealed(folder) == ({"step": 6, DROPPED: True}, False)


def test_half_a_deleted_checkpoint_is_found(run):
    gone = run / "checkpoints" / ".step-2.gone"
    (run / "checkpoints" / "step-2").rename(gone)
    assert gone in [one.path for one in removable(run, None, done=False)]
    clean(run, None, done=False)
    assert not gone.exists()
    drop_folder(run / "checkpoints" / "step-4")
