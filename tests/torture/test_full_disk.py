"""Full disks: real ones of many sizes, and below them what every system has, a limit on files.

A disk is a tmpfs in namespaces of one's own, which needs no rights where a kernel allows them.
Whatever a disk is full with, the command ends with one line and exit code 74, nothing
half-written is left, and with more room the run ends as one that had it from the start.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.kills import FIRST, KillAt, check_same, config, full_disk
from tests.torture.table import Outcome, Row, Tally
from winnow.config.recipe import dumps
from winnow.errors import DiskError
from winnow.training.run import run

SETTINGS: dict[str, Any] = {
    "algorithm": "grpo",
    "steps": 4,
    "eval": {"size": 5, "every": 2},
    "checkpoint": {"every": 2, "keep": 2, "average": 0.25},
}
SHARES = (0.002, 0.01, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.5)
"""Sizes of disks, as shares of what a whole run takes."""


def halves(folder: Path) -> list[Path]:
    """What is left of files and folders that were not written whole."""
    return [path for path in folder.rglob("*") if path.name.endswith((".partial", ".gone"))]


def finished(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "winnow", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def on_disk(size: int, room: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command in whose folder `disk` only so many bytes fit; they are copied to `room` after."""
    disk = room.parent / "disk"
    disk.mkdir(exist_ok=True)
    command = " ".join(map(shlex.quote, [sys.executable, "-m", "winnow", *words]))
    script = (
        f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(disk))} || exit 99; "
        f"cd {shlex.quote(str(room.parent))}; {command}; code=$?; "
        f"cp -a {shlex.quote(str(disk))} {shlex.quote(str(room))}; exit $code"
    )
    return subprocess.run(
        ["unshare", "-Urm", "/bin/bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def disks(tmp_path: Path) -> None:
    """Skips where a kernel gives no disks of one's own."""
    if shutil.which("unshare") is None or on_disk(4096, tmp_path / "tried").returncode == 99:
        pytest.skip("needs user namespaces with a tmpfs")
    shutil.rmtree(tmp_path / "tried", ignore_errors=True)


def one_line(done: subprocess.CompletedProcess[str]) -> None:
    """The command said that the disk is full, in one line at the end."""
    assert done.returncode == 74, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("winnow: ")]
    assert len(said) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == said[0]
    assert "No space left on device" in said[0], said


def size_of(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def test_some_limits(tiny_model: Path, tmp_path: Path, tally: Tally) -> None:
    given = config(tiny_model, tmp_path, **SETTINGS)
    whole = run(given, out=tmp_path / "whole", observers=KillAt(), reward=FIRST).folder
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    for number, room in enumerate((100, 6000, largest // 2, largest - 1, largest)):
        broken = tmp_path / str(number)
        fits = room == largest
        with tally.trial(Row.FULL_DISK, Outcome.UNHARMED if fits else Outcome.TOLD):
            if fits:
                with full_disk(room):
                    run(given, out=broken, observers=KillAt(), reward=FIRST)
            else:
                with full_disk(room), pytest.raises(DiskError) as told:
                    run(given, out=broken, observers=KillAt(), reward=FIRST)
                assert "\n" not in str(told.value)
                assert told.value.exit_code == 74
                assert not halves(tmp_path)
                begun = broken.exists()
                begin: dict[str, Any] = (
                    {"resume": broken} if begun else {"config": given, "out": broken}
                )
                run(**begin, observers=KillAt(), reward=FIRST)
            check_same(whole, broken)


@pytest.mark.torture
@pytest.mark.usefixtures("disks")
def test_train(tiny_model: Path, tmp_path: Path, tally: Tally) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dumps(config(tiny_model, tmp_path, **SETTINGS)))
    whole = tmp_path / "whole"
    finished("train", str(recipe), "--out", str(whole))
    for number, share in enumerate(SHARES):
        size, room = int(share * size_of(whole)), tmp_path / f"room-{number}"
        done = on_disk(size, room, "train", str(recipe), "--out", "disk/run")
        fits = done.returncode == 0
        with tally.trial(Row.FULL_DISK, Outcome.UNHARMED if fits else Outcome.TOLD):
            assert fits == (share > 1), (share, done.stderr)
            if not fits:
                one_line(done)
                assert not halves(room), (share, halves(room))
                again = (str(recipe), "--out", str(room / "run"))
                begun = (room / "run").exists()
                finished("train", *(("--resume", str(room / "run")) if begun else again))
            check_same(whole, room / "run")


def made(folder: Path) -> list[dict[str, Any]]:
    """The samples of a folder in the order of their numbers, without what a batch rounds."""
    columns = ["group", "sample", "prompt", "token_ids", "text", "finish_reason", "reward"]
    rows = pq.read_table(folder / "samples", columns=columns).to_pylist()
    return sorted(rows, key=lambda row: (row["group"], row["sample"]))


@pytest.mark.torture
@pytest.mark.usefixtures("disks")
def test_sample_and_select(tiny_model: Path, tmp_path: Path, tally: Tally) -> None:
    recipe = tmp_path / "recipe.toml"
    more = {"samples_per_prompt": 64, "steps": 1}
    recipe.write_text(dumps(config(tiny_model, tmp_path, **more)))
    whole = tmp_path / "whole"
    finished("sample", str(recipe), "--out", str(whole))
    for number, share in enumerate((0.05, 0.2, 0.5, 0.9)):
        room = tmp_path / f"room-{number}"
        size = int(share * size_of(whole))
        with tally.trial(Row.FULL_DISK, Outcome.TOLD):
            one_line(on_disk(size, room, "sample", str(recipe), "--out", "disk/s"))
            assert not halves(room)
            again = (str(recipe), "--out", str(room / "s"))
            begun = (room / "s").exists()
            finished("sample", *(("--resume", str(room / "s")) if begun else again))
            assert made(room / "s") == made(whole)
    for number, kind in enumerate(("parquet", "jsonl")):
        room = tmp_path / f"selected-{number}"
        with tally.trial(Row.FULL_DISK, Outcome.TOLD):
            words = ("select", str(whole), "--rule", "everything", "--out", f"disk/x.{kind}")
            one_line(on_disk(8192, room, *words))
            assert not list(room.iterdir())
