"""A run one of whose folders was removed: what is left of it is used, and the folder made again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests.kills import KillAt, Killed, check_same, samples
from tests.training.faked import settings, trained
from tests.training.test_resuming import KillIn
from winnow.config.schema import from_dict
from winnow.errors import DiskError, UserError
from winnow.training.report import view_of
from winnow.training.run import run


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return settings(tmp_path, monkeypatch)


def killed(fake: dict[str, Any], out: Path) -> Path:
    """In step 4, with the checkpoint of step 2 and the samples of steps 1 to 4."""
    with pytest.raises(Killed):
        run(from_dict(fake), out=out, observers=KillIn("score", 4))
    return out


def test_without_its_checkpoints(fake: dict[str, Any], tmp_path: Path) -> None:
    whole, out = trained(fake, tmp_path / "whole"), killed(fake, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(UserError, match=r"exists already; .* or resume it: winnow train --resume"):
        run(from_dict(fake), out=out, observers=KillAt())
    assert view_of(out).kind == "run"
    listener = KillAt()
    run(resume=out, observers=listener)
    assert listener.notes[0] == (
        "no checkpoint is left: the run begins anew, from the samples that it has"
    )
    check_same(whole, out)


def test_without_the_disk_that_its_checkpoints_are_on(fake: dict[str, Any], tmp_path: Path) -> None:
    """It may come back, so nothing of the run is rewound."""
    out = killed(fake, tmp_path / "run")
    before = (out / "metrics.jsonl").read_bytes()
    (out / "checkpoints").rename(tmp_path / "away")
    (out / "checkpoints").symlink_to(tmp_path / "not mounted")
    with pytest.raises(UserError, match=r"^resume: .*checkpoints is no folder; restore it$"):
        run(resume=out, observers=KillAt())
    assert (out / "metrics.jsonl").read_bytes() == before


def test_without_its_samples(fake: dict[str, Any], tmp_path: Path) -> None:
    out = killed(fake, tmp_path / "run")
    shutil.rmtree(out / "rollouts")
    run(resume=out, observers=KillAt())
    assert {row["step"] for row in samples(out)} == {3, 4}


def test_samples_without_their_folder(fake: dict[str, Any], tmp_path: Path) -> None:
    given = {key: fake[key] for key in ("model", "prompts", "reward", "sampling")}
    folder = winnow.sample(n=4, out=tmp_path / "samples", quiet=True, **given).folder
    shutil.rmtree(folder / "samples")
    again = winnow.sample(resume=folder, quiet=True).sampled
    assert again.made == again.asked
    assert len(list((folder / "samples").iterdir())) == 1


def test_a_run_that_was_removed_is_not_begun_again(fake: dict[str, Any], tmp_path: Path) -> None:
    """Half of one would be left."""
    out = tmp_path / "run"

    class Removes(KillAt):
        def progress(self, stage: str, done: int, total: int) -> None:
            if stage == "score":
                shutil.rmtree(out, ignore_errors=True)

    with pytest.raises(DiskError, match=r"^cannot write .*: No such file or directory; "):
        run(from_dict(fake), out=out, observers=Removes())
    assert not out.exists()
