"""What a run says of itself in its folder, and what is made of that when it is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from winnow.reporting.events import RunEnd, RunStart, StageProgress, StepEnd
from winnow.reporting.progress_file import PROGRESS, ProgressFile, progress_of
from winnow.storage.lock import alone


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return [0.0]


def made(folder: Path, clock: list[float]) -> ProgressFile:
    told = ProgressFile(lambda: clock[0])
    told.on_start(RunStart(folder, "train", first_step=3, last_step=9))
    return told


def test_it_says_the_stage_once_a_second(tmp_path: Path, clock: list[float]) -> None:
    with alone(tmp_path):
        told = made(tmp_path, clock)
        assert progress_of(tmp_path) == {
            "status": "running",
            "step": 2,
            "steps": 9,
            "says": "step 2/9: starting (0:00)",
            "error": "",
        }
        told.on_progress(StageProgress("sample", 1, 4))
        assert "starting" in progress_of(tmp_path)["says"]
        clock[0] = 1.5
        told.on_progress(StageProgress("sample", 2, 4))
        assert "step 3/9: sampling 2/4" in progress_of(tmp_path)["says"]
        told.on_step(StepEnd(3, {"seconds": {}}))
        assert progress_of(tmp_path)["step"] == 3
        told.on_end(RunEnd(tmp_path, "failed", error="no memory"))
    found = progress_of(tmp_path)
    assert (found["status"], found["says"], found["error"]) == ("failed", "", "no memory")
    assert [path.name for path in tmp_path.iterdir()] == [PROGRESS]


def test_a_run_that_is_gone_was_cut_short(tmp_path: Path, clock: list[float]) -> None:
    made(tmp_path, clock)  # nobody holds the lock
    assert progress_of(tmp_path)["status"] == "cut short"


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path, clock: list[float]) -> None:
    made(tmp_path / "later", clock)
    assert not (tmp_path / "later").exists()
    assert progress_of(tmp_path / "later") == {}


@pytest.mark.parametrize("text", ["", "[]", '{"status": "run'])
def test_half_a_file_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / PROGRESS).write_text(text)
    assert progress_of(tmp_path) == {}
    assert json.dumps(progress_of(tmp_path)) == "{}"
