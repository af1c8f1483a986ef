"""Full disks: real ones of many sizes, and below them what every system has, a limit on files.

A disk is a tmpfs in namespaces of one's own, which needs no rights where a kernel allows them.
Whatever a disk is full with, the command ends with one line and exit code 74, nothing
half-written is left, and with more room the run ends as one that had it from the start.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.kills import FIRST, KillAt, check_same, config, full_disk
from tests.torture.table import Outcome, Row, Tally
from tests.training.faked import settings as fake_settings
from winnow.config.recipe import dumps
from winnow.config.schema import Config, from_dict
from winnow.errors import DiskError, notes
from winnow.training.run import run

SETTINGS: dict[str, Any] = {
    "report": False,  # which a run can do without
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
    assert re.search(r"No space left on device|a checkpoint takes .* of .* free", said[0]), said


def size_of(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


def check_limits(
    given: Config, tmp_path: Path, tally: Tally, share: Callable[[int], Sequence[int]], reward: Any
) -> None:
    """Runs whose files may have only so many bytes: some of the size of the largest."""
    whole = run(given, out=tmp_path / "whole", observers=KillAt(), reward=reward).folder
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    for number, room in enumerate(share(largest)):
        broken = tmp_path / str(number)
        fits = room == largest
        with tally.trial(Row.FULL_DISK, Outcome.UNHARMED if fits else Outcome.TOLD):
            if fits:
                with full_disk(room):
                    run(given, out=broken, observers=KillAt(), reward=reward)
            else:
                with full_disk(room), pytest.raises(DiskError) as told:
                    run(given, out=broken, observers=KillAt(), reward=reward)
                assert "\n" not in str(told.value)
                assert told.value.exit_code == 74
                assert not halves(tmp_path)
                begun = broken.exists()
                again = f"then run winnow train --resume {broken}"
                assert notes(told.value) == ([again] if begun else [])
                begin: dict[str, Any] = (
                    {"resume": broken} if begun else {"config": given, "out": broken}
                )
                run(**begin, observers=KillAt(), reward=reward)
            check_same(whole, broken)


def test_some_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    given = from_dict({**fake_settings(tmp_path, monkeypatch), "report": False})
    check_limits(given, tmp_path, tally, lambda n: (100, 3000, n // 2, n - 1, n), None)


def test_a_limit_of_weights(tiny_model: Path, tmp_path: Path, tally: Tally) -> None:
    given = config(tiny_model, tmp_path, **{**SETTINGS, "steps": 2})
    check_limits(given, tmp_path, tally, lambda n: (n - 1,), FIRST)


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


ROUNDED = ("logprobs", "entropies")
"""Of samples that were batched with others: a resumed command samples what is left."""


def check_samples(one: Path, other: Path) -> None:
    """Two folders hold the same samples in the same order, but for what a batch rounds."""
    rows, others = (pq.read_table(folder / "samples").to_pylist() for folder in (one, other))
    assert len(rows) == len(others)
    for row, same in zip(rows, others, strict=True):
        for name in ROUNDED:
            assert row.pop(name) == pytest.approx(same.pop(name), abs=1e-5)
        assert row == same


@pytest.mark.torture
@pytest.mark.usefixtures("disks")
def test_sample(tiny_model: Path, tmp_path: Path, tally: Tally) -> None:
    recipe = tmp_path / "recipe.toml"
    more = {"samples_per_prompt": 64, "steps": 1}
    recipe.write_text(dumps(config(tiny_model, tmp_path, **more)))
    whole = tmp_path / "whole"
    finished("sample", str(recipe), "--out", str(whole))
    shares = (0.05, 0.2, 0.5, 0.9, 2, 4, 6, 8, 40)  # the journal takes more than the samples
    for number, share in enumerate(shares):
        room = tmp_path / f"room-{number}"
        size = int(share * size_of(whole))
        done = on_disk(size, room, "sample", str(recipe), "--out", "disk/s")
        fits = done.returncode == 0
        with tally.trial(Row.FULL_DISK, Outcome.UNHARMED if fits else Outcome.TOLD):
            assert fits or share < shares[-1]
            if not fits:
                one_line(done)
                assert not halves(room)
                again = (str(recipe), "--out", str(room / "s"))
                begun = (room / "s").exists()
                finished("sample", *(("--resume", str(room / "s")) if begun else again))
            check_samples(whole, room / "s")


@pytest.mark.torture
@pytest.mark.usefixtures("disks")
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_select(tiny_model: Path, tmp_path: Path, tally: Tally, kind: str) -> None:
    """It leaves no file, or all of it."""
    recipe = tmp_path / "recipe.toml"
    more = {"samples_per_prompt": 64, "steps": 1}
    recipe.write_text(dumps(config(tiny_model, tmp_path, **more)))
    finished("sample", str(recipe), "--out", str(tmp_path / "samples"))
    words = ("select", str(tmp_path / "samples"), "--rule", "everything", "--out")
    whole = tmp_path / f"x.{kind}"
    finished(*words, str(whole))
    for number, share in enumerate((0.1, 0.5, 0.95, 1.5)):
        room = tmp_path / f"room-{number}"
        size = max(4096, int(share * whole.stat().st_size) // 4096 * 4096)
        done = on_disk(size, room, *words, f"disk/x.{kind}")
        fits = share > 1
        with tally.trial(Row.FULL_DISK, Outcome.UNHARMED if fits else Outcome.TOLD):
            if fits:
                assert done.returncode == 0, done.stderr
                assert (room / whole.name).read_bytes() == whole.read_bytes()
            else:
                one_line(done)
                assert not list(room.iterdir()), share
