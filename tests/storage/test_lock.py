"""One process at a time in a folder: of this machine by the kernel, of others by what they left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from winnow.errors import UserError, WinnowError
from winnow.storage import lock as lock_module
from winnow.storage.begin import begin_folder
from winnow.storage.lock import LOCK, FolderLock, Holder, alone

HOLDS = """
import os, sys, time
from pathlib import Path
from winnow.storage.lock import FolderLock
lock = FolderLock()
lock.take(Path(sys.argv[1]))
if "fork" not in sys.argv or os.fork() == 0:  # once the copy runs
    print("held", flush=True)
time.sleep(60)
"""


def holding(folder: Path, *how: str) -> subprocess.Popen[str]:
    """A process that has locked a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder), *how],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


def ended(process: subprocess.Popen[str]) -> None:
    """End it, and what it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def leave(folder: Path, **other: object) -> None:
    """The file that a process leaves which was killed."""
    (folder / LOCK).write_text(json.dumps(asdict(replace(Holder.this(), **other))))


def test_another_process_is_named(tmp_path: Path) -> None:
    process = holding(tmp_path)
    try:
        said = rf"^resume: another winnow is writing to {tmp_path} \(process {process.pid} on "
        with pytest.raises(UserError, match=said + r".* it last wrote at 20\S+ [\d:]+ .*; wait"):
            FolderLock().take(tmp_path)
    finally:
        ended(process)
    assert (tmp_path / LOCK).is_file()
    with alone(tmp_path):  # a kill leaves no lock, only a file
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_outlives_its_process_holds_nothing(tmp_path: Path) -> None:
    process = holding(tmp_path, "fork")
    try:
        process.kill()
        process.wait()
        with alone(tmp_path):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_two_of_one_process(tmp_path: Path) -> None:
    with alone(tmp_path):
        with pytest.raises(UserError, match=f"process {os.getpid()} on"):
            FolderLock().take(tmp_path)
        child = os.fork()  # the end of a copy's block does not end the lock
        if not child:
            with FolderLock() as lock:
                lock._folder, lock._owner = tmp_path, os.getppid()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(UserError, match="another winnow"):
            FolderLock().take(tmp_path)
    with alone(tmp_path):
        pass


GONE = {
    "killed": {"pid": 2**22 + 1},
    "its number is another's": {"pid": os.getpid(), "ticks": "1"},
    "before the machine was restarted": {"boot": "earlier"},
    "in a container, on this kernel": {"host": "c0ffee", "space": "pid:[1]"},
}
"""What a lock file may say of a process that has ended, where the lock itself is free."""
ELSEWHERE = {"host": "other", "boot": "theirs", "pid": 77}


@pytest.mark.parametrize("name", GONE)
def test_what_a_killed_process_left_stands_in_nobodys_way(tmp_path: Path, name: str) -> None:
    leave(tmp_path, **GONE[name])
    with alone(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', "\0\0"])
def test_nor_does_half_of_it(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with alone(tmp_path):
        pass


def test_another_machine_is_refused_until_the_file_is_removed(tmp_path: Path) -> None:
    """It may be alive: not every shared disk passes its lock on."""
    leave(tmp_path, **ELSEWHERE)
    os.utime(tmp_path / LOCK, (0, 0))
    os.utime(tmp_path, (10**9, 10**9))
    day = time.strftime("%Y-%m-%d", time.localtime(10**9))
    for _ in range(2):
        said = r"winnow may be writing to .*process 77 on other since .*; "
        said += rf"it last wrote at {day} .* remove {tmp_path}/\.lock$"
        with pytest.raises(UserError, match=said):
            FolderLock().take(tmp_path)
    (tmp_path / LOCK).unlink()
    with alone(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file says decides alone."""

    def none(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(lock_module.fcntl, "flock", none)
    for name in ("killed", "its number is another's", "before the machine was restarted"):
        leave(tmp_path, **GONE[name])
        with alone(tmp_path):
            pass
    for other in ({}, ELSEWHERE, GONE["in a container, on this kernel"]):
        leave(tmp_path, **other)
        with pytest.raises(UserError, match=r"another winnow .*or if it has ended remove "):
            FolderLock().take(tmp_path)


class TestBegin:
    def test_a_folder_is_locked_before_it_has_its_name(self, tmp_path: Path) -> None:
        with FolderLock() as lock:
            begin_folder(tmp_path / "run", ["in"], {}, {"config.toml": "x"}, lock)
            with pytest.raises(UserError, match="another winnow"):
                FolderLock().take(tmp_path / "run")
        names = ["config.toml", "environment.json", "in"]
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
        assert [p.name for p in tmp_path.iterdir()] == ["run"]

    @pytest.mark.parametrize("at", ["environment.json", "config.toml", "rename"])
    def test_a_kill_leaves_no_half_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
    ) -> None:
        """In a process of its own, since a kill runs no `finally`."""
        child = os.fork()
        if not child:
            real = Path.rename

            def rename(path: Path, to: Path) -> object:
                if Path(to).name == ("run" if at == "rename" else at):
                    os._exit(0)
                return real(path, to)

            monkeypatch.setattr(Path, "rename", rename)
            begin_folder(tmp_path / "run", ["in"], {}, {"config.toml": "x"})
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert [p.name for p in tmp_path.iterdir()] == [".run.partial"]
        begin_folder(tmp_path / "run", [], {}, {"other": "y"})
        assert [p.name for p in tmp_path.iterdir()] == ["run"]
        assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["environment.json", "other"]

    def test_of_two_at_once_one_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / ".run.partial").mkdir()
        process = holding(tmp_path / ".run.partial")
        try:
            with pytest.raises(UserError, match=r"^out: another winnow .*\.run\.partial "):
                begin_folder(tmp_path / "run", [], {}, {})
        finally:
            ended(process)
        begin_folder(tmp_path / "run", [], {}, {})

    def test_what_cannot_be_written_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(WinnowError, match="No space left on device"):
            begin_folder(tmp_path / "run", ["in"], {}, {"config.toml": "x"})
        assert list(tmp_path.iterdir()) == []
