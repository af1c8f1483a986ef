"""Files tell the version of their format; what a later version wrote is refused, not misread."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import winnow
from tests.build import group
from winnow.errors import UserError
from winnow.storage.format import FORMAT, check_folder
from winnow.storage.run_folder import RunStore
from winnow.storage.sample_folder import Journal
from winnow.storage.sample_table import read_samples
from winnow.storage.schema import write_groups


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "samples.parquet"
    write_groups(path, "sample", 0, [group([1, 0])])
    return path


def later(path: Path, version: str) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"winnow.format": version}), path)


def told(path: Path) -> bytes | None:
    return (pq.read_schema(path).metadata or {}).get(b"winnow.format")


def test_every_file_of_samples_tells_it(file, tmp_path) -> None:
    winnow.select(file, ["correct"], out=tmp_path / "kept.parquet")
    assert told(file) == told(tmp_path / "kept.parquet") == str(FORMAT).encode() == b"1"


def test_a_later_file_is_refused(file) -> None:
    later(file, str(FORMAT + 1))
    with pytest.raises(UserError, match=r"^samples: .*samples\.parquet has format 2, and this"):
        read_samples([file], ["text"], why="here")


@pytest.mark.parametrize("version", ["1", "0", "other", ""])
def test_an_earlier_file_and_one_of_somebody_else_are_read(file, version) -> None:
    later(file, version)
    assert read_samples([file], ["text"], why="here").rows == 2


@pytest.mark.parametrize("kind", ["run", "sample"])
def test_a_later_folder_is_not_resumed(tmp_path, kind) -> None:
    folder = tmp_path / "folder"
    if kind == "run":
        RunStore.create(folder, "", {"python": "3"})
    else:
        Journal.create(folder, {"config.toml": ""}, {"python": "3"}, group=group([1]))
    environment = json.loads((folder / "environment.json").read_text())
    assert environment == {"format": FORMAT, "python": "3"}
    resume = RunStore.open if kind == "run" else Journal.check
    resume(folder)
    (folder / "environment.json").write_text(json.dumps({**environment, "format": 2}))
    with pytest.raises(
        UserError, match=r"^resume: .*environment\.json has format 2.*; use the Winnow that"
    ):
        resume(folder)


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"format": "new"}'])
def test_a_folder_that_tells_nothing_passes(tmp_path, text) -> None:
    if text is not None:
        (tmp_path / "environment.json").write_text(text)
    check_folder("resume", tmp_path)
