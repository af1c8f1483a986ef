"""What a resumed run says of where it goes on, and of what it does not make again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.kills import KillAt, Killed
from tests.training.faked import settings
from winnow.config.schema import from_dict
from winnow.training.run import run


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return settings(tmp_path, monkeypatch)


class KillIn(KillAt):
    """Dies when a stage begins for the n-th time."""

    def __init__(self, stage: str, time: int) -> None:
        super().__init__()
        self.stage, self.left = stage, time

    def progress(self, stage: str, done: int, total: int) -> None:
        if stage == self.stage and done == 0:
            self.left -= 1
            if not self.left:
                raise Killed


def said(fake: dict[str, Any], out: Path, stage: str, time: int) -> str:
    with pytest.raises(Killed):
        run(from_dict(fake), out=out, observers=KillIn(stage, time))
    listener = KillAt()
    run(resume=out, observers=listener)
    (note,) = [note for note in listener.notes if note.startswith("resuming")]
    return note


def test_samples_that_were_not_scored_yet(fake: dict[str, Any], tmp_path: Path) -> None:
    """The score stage of step 3 is the third; 6 prompts x 8 samples of it are on the disk."""
    note = said(fake, tmp_path / "run", "score", 3)
    assert note == (
        "resuming from step-2; 48 samples of step 3 are reused, 0 of them with their scores"
    )


def test_samples_that_were_scored(fake: dict[str, Any], tmp_path: Path) -> None:
    """The first mini-batch of the second of step 4's two updates: steps 3 and 4 were scored."""
    note = said(fake, tmp_path / "run", "update", 4)
    assert note == "resuming from step-2; 96 samples of steps 3 to 4 are reused"


def test_from_the_start(fake: dict[str, Any], tmp_path: Path) -> None:
    note = said(fake, tmp_path / "run", "sample", 2)
    assert note == (
        "resuming from the start; samples of the evaluation after step 0 are reused"
    ) or note.startswith("resuming from the start")


def test_nothing_but_a_checkpoint(fake: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(from_dict(fake), out=tmp_path / "run", observers=KillIn("score", 3))
    (tmp_path / "run/rollouts/train-000003.parquet").unlink()
    listener = KillAt()
    run(resume=tmp_path / "run", observers=listener)
    assert "resuming from step-2" in listener.notes


def test_errors_are_scored_again(fake: dict[str, Any], tmp_path: Path) -> None:
    """Samples after a step with an error may be set aside, so they are not promised."""
    with pytest.raises(Killed):
        run(from_dict(fake), out=tmp_path / "run", observers=KillIn("update", 4))
    path = tmp_path / "run/rollouts/train-000003.parquet"
    table = pq.read_table(path)
    rewards = [None, *table["reward"].to_pylist()[1:]]
    errors = ["boom", *table["error"].to_pylist()[1:]]
    for name, values in (("reward", rewards), ("error", errors)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table[name].type))
    pq.write_table(table, path, write_page_checksum=True)
    listener = KillAt()
    run(resume=tmp_path / "run", observers=listener)
    (note,) = [note for note in listener.notes if note.startswith("resuming")]
    assert note == (
        "resuming from step-2; 48 samples of step 3 are reused, 47 of them with their scores"
    )
