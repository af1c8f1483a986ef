"""What a verifier may not do: leave processes, use all memory, flood the terminal, forge scores."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rewards.isolated import Make, making, scores
from winnow.errors import UserError
from winnow.rewards import supervisor, worker
from winnow.rewards.factory import Reward, make_reward
from winnow.types import Prompt, Score

linux = pytest.mark.skipif(sys.platform != "linux", reason="kept on Linux only")


@pytest.fixture
def make() -> Iterator[Make]:
    with making(20.0) as build:
        yield build


def error_of(reward: Reward, completion: str) -> str:
    """The error of a sample, after which the next one is scored all the same."""
    bad, after = scores(reward, completion, "1")
    assert bad.value is None
    assert after == Score(1.0)
    return str(bad.error)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended, buried or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- processes


@linux
@pytest.mark.parametrize("end", ["hang", "exit", "kill", "close"])
def test_a_daemon_of_a_verifier_goes_with_it(make: Make, tmp_path: Path, end: str) -> None:
    def daemonizes(prompt: Prompt, completion: str) -> float:
        if completion == "1":
            return 1.0
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                (tmp_path / "written").write_text(str(os.getpid()))
                os.rename(tmp_path / "written", tmp_path / "pid")
                time.sleep(60)
            os._exit(0)
        os.wait()
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        if completion == "hang":
            time.sleep(60)
        if completion == "exit":
            os._exit(3)
        if completion == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return 2.0

    reward = make(daemonizes, time_limit=2.0 if end == "hang" else 20.0)
    if end == "close":
        assert scores(reward, end) == [Score(2.0)]
        daemon = int((tmp_path / "pid").read_text())
        assert alive(daemon)
        reward.close()
    else:
        told = {"hang": "no score within", "exit": "ended with exit code 3", "kill": "SIGKILL"}
        assert told[end] in error_of(reward, end)
        daemon = int((tmp_path / "pid").read_text())
    assert not alive(daemon)  # it is gone when the score is there, and buried


def test_elsewhere_than_on_linux_the_group_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "worker.py"
    program.write_text(
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "time.sleep(60)"
    )
    ours, theirs = socket.socketpair()
    code = (
        "import runpy, sys; sys.platform = 'darwin';"
        f"runpy.run_path({supervisor.__file__!r}, run_name='__main__')"
    )
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(theirs.fileno()), "0", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        with process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            ours.shutdown(socket.SHUT_WR)
            report = json.loads(ours.recv(10_000))
    assert report == {"code": -signal.SIGKILL, "memory": False, "printed": ""}
    until = time.monotonic() + 10
    while runs(child):  # one that was killed ends when it is next scheduled
        assert time.monotonic() < until
        time.sleep(0.01)


@linux
def test_descendants_are_found_with_and_without_the_kernels_list(monkeypatch: Any) -> None:
    shell = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60 & wait"], start_new_session=True)
    try:
        found: list[set[int]] = []
        for listed in (True, False):
            monkeypatch.setattr(supervisor, "_LISTS_CHILDREN", listed)
            while len(below := supervisor._below(shell.pid)) < 2:
                assert shell.poll() is None
            found.append(set(below))
            assert shell.pid in supervisor._below(os.getpid())
    finally:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    assert found[0] == found[1]
    assert len(found[0]) == 2


@linux
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_worker_goes_though_its_supervisor_was_stopped_or_killed(
    make: Make, tmp_path: Path, how: str
) -> None:
    number = {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[how]

    def harms(prompt: Prompt, completion: str) -> float:
        if completion == "1":
            return 1.0
        (tmp_path / "pid").write_text(str(os.getpid()))
        if how == "stop":  # what a killed supervisor would leave behind
            daemon = os.fork()
            if daemon == 0:
                os.setsid()
                time.sleep(60)
            (tmp_path / "daemon").write_text(str(daemon))
        os.kill(os.getppid(), number)
        time.sleep(60)
        return 0.0

    told = {"stop": "no score within 2 s", "kill": "was killed by SIGKILL"}
    assert told[how] in error_of(make(harms, time_limit=2.0), how)
    if how == "stop":
        assert not alive(int((tmp_path / "daemon").read_text()))
    pid = (tmp_path / "pid").read_text()
    # what was killed has no memory left, and so no environment; it may be unburied
    environment = Path(f"/proc/{pid}/environ")
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        assert not environment.read_bytes()


@linux
def test_a_verifiers_module_harms_only_itself_as_it_is_imported(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harmful_at_import.py").write_text(
        "import os, resource, sys\n"
        "os.environ.clear()\n"
        "sys.path.clear()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
        "def score(prompt, completion):\n"
        "    return float(completion) if completion else 'none'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    good, bad = scores(make("harmful_at_import:score"), "1", "")
    assert good == Score(1.0)
    assert str(bad.error).startswith("the verifier returned")


# ---- memory


@linux
@pytest.mark.parametrize("where", ["here", "in a child"])
def test_too_much_memory_is_the_error_of_its_sample(make: Make, where: str) -> None:
    hog = "import time; held = b'x' * 2**28; time.sleep(60)"

    def greedy(prompt: Prompt, completion: str) -> float:
        if completion == "here":
            exec(hog, {})
        if completion == "in a child":
            subprocess.run([sys.executable, "-c", hog], check=True)
        return 1.0

    assert error_of(make(greedy, memory_gib=0.125), where) == (
        "the verifier's processes used more memory than allowed (0.125 GiB, reward.memory_gib)"
    )


@linux
def test_what_is_shared_or_only_reserved_is_no_memory_in_use(make: Make) -> None:
    def forks(prompt: Prompt, completion: str) -> float:
        import mmap

        reserved = mmap.mmap(-1, 2**33)
        held = b"x" * (48 * 2**20)
        copies = [os.fork() for _ in range(4)]  # each shows 48 MiB, which are the same
        if 0 in copies:
            time.sleep(60)
        time.sleep(0.5)
        for copy in copies:
            os.kill(copy, signal.SIGKILL)
            os.waitpid(copy, 0)
        return float(len(held) + len(reserved) > 0)

    assert scores(make(forks, memory_gib=0.125), "") == [Score(1.0)]


@linux
def test_too_much_memory_at_the_import_names_the_setting() -> None:
    class Big:
        def __reduce__(self) -> Any:
            return exec, ("import time; held = b'x' * 2**28; time.sleep(60)",)

        def __call__(self, prompt: Prompt, completion: str) -> float:
            return 1.0

    with pytest.raises(UserError, match=r"0\.125 GiB, reward\.memory_gib\) while it was loaded"):
        make_reward(Big(), memory_gib=0.125)


@linux
def test_the_kernel_takes_a_worker_first_where_memory_is_short(make: Make) -> None:
    def badness(prompt: Prompt, completion: str) -> float:
        return float(Path("/proc/self/oom_score_adj").read_text())

    assert scores(make(badness), "") == [Score(1000.0)]  # the most there is, see proc(5)


@pytest.mark.parametrize("key", ["memory_gib", "import_seconds"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), True])
def test_limits_that_cannot_be(key: str, value: float) -> None:
    with pytest.raises(UserError, match=f"reward.{key}: must be a number of "):
        make_reward(lambda prompt, completion: 1.0, **{key: value})  # type: ignore[arg-type]


def test_a_limit_that_would_not_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"reward\.memory_gib: only Linux keeps it"):
        make_reward(lambda prompt, completion: 1.0, memory_gib=1.0)


# ---- output


def test_what_is_printed_is_cut_and_escaped(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    def loud(prompt: Prompt, completion: str) -> float:
        print("begin \x1b[31m red \r over", flush=True)
        for _ in range(1000):
            print("y" * 999)
        return 1.0

    reward = make(loud)
    assert scores(reward, "") == [Score(1.0)]
    reward.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert r"begin \x1b[31m red \r over" in err
    assert not set(err) & {"\x1b", "\r"}
    assert 50_000 < err.count("y") <= 2**16  # of a million
    assert err.endswith("\n(the verifier prints more, which is not shown)\n")


@pytest.mark.parametrize("end", ["hang", "exit"])
def test_the_end_of_what_it_printed_is_in_its_error(make: Make, end: str) -> None:
    def dies(prompt: Prompt, completion: str) -> float:
        if completion == "1":
            return 1.0
        print("start\n" + "z" * 10_000)
        print("loading\nthe table \x1b[31m", file=sys.stderr, flush=True)
        if completion == "exit":
            os._exit(7)
        time.sleep(60)
        return 0.0

    error = error_of(make(dies, time_limit=2.0 if end == "hang" else 20.0), end)
    assert error.startswith(
        {"hang": "no score within 2 s;", "exit": "the verifier's process ended"}[end]
    )
    assert error.endswith(r"zzz loading the table \x1b[31m")
    assert "start" not in error
    assert len(error) < 300


# ---- forgeries


def framed(rest: bytes) -> bytes:
    return worker.LENGTH.pack(len(rest)) + rest


FORGERIES = {
    "json": framed(b'{"value": 1.0, "error": null}'),
    "no mark": framed(worker.SCORED + worker.VALUE.pack(1.0)),
    "a mark": framed(bytes(worker.MARK_SIZE) + worker.SCORED + worker.VALUE.pack(1.0)),
    "empty": framed(b""),
    "endless": b"\xff" * 64,
}


@pytest.mark.parametrize("how", FORGERIES)
def test_what_is_written_to_file_descriptors_is_no_score(make: Make, how: str) -> None:
    forged = FORGERIES[how]

    def forges(prompt: Prompt, completion: str) -> float:
        if completion == "1":
            return 1.0
        for pipe in range(256):
            try:
                os.write(pipe, forged)
            except OSError:
                continue
        raise ValueError("wrong")

    assert error_of(make(forges), how).startswith("what came back is not the worker's reply")


def test_what_comes_between_two_samples_harms_neither(make: Make, tmp_path: Path) -> None:
    forged = FORGERIES["a mark"]

    def forges_later(prompt: Prompt, completion: str) -> float:
        if completion == "late" and os.fork() == 0:
            time.sleep(0.2)
            for pipe in range(3, 256):
                try:
                    os.write(pipe, forged)
                except OSError:
                    continue
            (tmp_path / "written").touch()
            os._exit(0)
        return 1.0 if completion else 0.0

    reward = make(forges_later)
    assert scores(reward, "late") == [Score(1.0)]
    while not (tmp_path / "written").exists():
        time.sleep(0.01)
    assert scores(reward, "", "1") == [Score(0.0), Score(1.0)]


def test_patched_modules_and_builtins_change_no_score(make: Make) -> None:
    def patches(prompt: Prompt, completion: str) -> float:
        if completion == "1":
            return 1.0
        right = framed(b'{"value": 1.0, "error": null}')
        json.dumps = lambda *args, **kwargs: '{"value": 1.0, "error": null}'
        pickle.loads = lambda data: (prompt, "1")
        os._exit = lambda code: None  # type: ignore[assignment]
        os.getpid = lambda: 1
        os.write = lambda *args: len(right)
        builtins.float = lambda *args: 1.0  # type: ignore[assignment, misc]
        builtins.isinstance = lambda *args: True  # type: ignore[assignment]
        builtins.getattr = lambda *args: lambda: 1.0  # type: ignore[assignment]
        if completion == "raise":
            raise ValueError("wrong")
        return 0.25

    reward = make(patches)
    first, second = scores(reward, "raise", "raise")
    assert str(first.error).startswith("ValueError: wrong")
    assert second.value is None
    assert scores(make(patches), "quarter") == [Score(0.25)]
