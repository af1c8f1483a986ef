"""What cannot be read is neither missing nor damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.closed import closed
from tests.storage.test_damage import groups
from winnow.errors import UserError
from winnow.storage.digests import Damaged, check_files, check_model, read_signed
from winnow.storage.parquet import UNREADABLE, read_table
from winnow.storage.reading import CannotRead, has_file, has_folder, listed, reading
from winnow.storage.run_folder import RunStore, next_folder
from winnow.storage.sample_table import read_samples


@pytest.mark.parametrize(
    "number",
    [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ELOOP, errno.ENAMETOOLONG],
)
def test_what_keeps_a_file_from_being_read(number: int) -> None:
    with pytest.raises(CannotRead) as told, reading(Path("/x"), "samples"):
        raise OSError(number, "what a library says of it")
    assert str(told.value) == f"samples: cannot read /x: {os.strerror(number)}"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EISDIR, None])
def test_what_is_said_of_what_is_there(number: int | None) -> None:
    raised = OSError("bad bytes") if number is None else OSError(number, "bad bytes")
    with pytest.raises(OSError, match="bad bytes") as told, reading(Path("/x")):
        raise raised
    assert told.value is raised


def test_a_closed_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    (inside / "x.parquet").touch()
    for path, file, folder in ((inside, 0, 1), (inside / "x.parquet", 1, 0), (inside / "y", 0, 0)):
        assert (has_file(path), has_folder(path)) == (bool(file), bool(folder))
    assert has_file(inside / "x.parquet" / "y") is False
    assert listed(inside, "*.parquet") == [inside / "x.parquet"]
    assert listed(tmp_path / "c", "*") == listed(inside / "x.parquet", "*") == []
    with closed(inside.parent):
        for look in (has_file, has_folder, lambda path: listed(path, "*")):
            with pytest.raises(CannotRead, match=r"^cannot read .*b: Permission denied$"):
                look(inside)
        with pytest.raises(CannotRead, match=r"^out: cannot read .*a: Permission denied$"):
            next_folder("run", inside.parent)


def test_a_digest_of_a_closed_file(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"sha256": {}}')
    with closed(tmp_path / "state.json"):
        for read in (
            lambda: read_signed(tmp_path / "state.json"),
            lambda: check_files(tmp_path, {"state.json": ""}),
            lambda: check_model(tmp_path, "model", ()),
        ):
            with pytest.raises(CannotRead, match=r"state\.json: Permission denied$"):
                read()
    with pytest.raises(Damaged, match=r"state\.json: not what was written"):
        check_files(tmp_path, {"state.json": ""})


def test_a_disk_that_fails_damages_no_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known when a page is read: the file has been opened by then."""
    store = RunStore.create(tmp_path / "run", "", {})
    store.write_samples("train", 1, groups())
    path = store.folder / "rollouts/train-000001.parquet"

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "of pyarrow")

    monkeypatch.setattr(pq.ParquetFile, "read", fails)
    says = r"cannot read .*train-000001\.parquet: Input/output error$"
    for read in (
        lambda: store.groups("train", 1),
        lambda: store.kept("train", 0),
        lambda: store.groups_sampled("train", 1),
        lambda: read_samples([path], ["text"], why="this test"),
    ):
        with pytest.raises(CannotRead, match=says):
            read()


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").symlink_to(tmp_path / "x.parquet")
    says = r"^samples: cannot read .*x\.parquet: Too many levels of symbolic links$"
    for path in (tmp_path, tmp_path / "x.parquet"):
        with pytest.raises(UserError, match=says):
            read_samples([path], ["text"], why="this test")
    (tmp_path / "z.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(UNREADABLE):
        read_table(tmp_path / "z.parquet")
