"""Verifiers that misbehave: each makes an error of its own sample, and nothing else happens."""

from __future__ import annotations

import ctypes
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from tests.rewards.isolated import Make, making, scores
from winnow.errors import WinnowError
from winnow.rewards.child import Limits
from winnow.rewards.factory import Reward, make_reward
from winnow.rewards.source import Source, StartError, pickled
from winnow.rewards.worker_pool import IsolatedReward
from winnow.types import Prompt, Score

LIMIT = 0.8  # seconds: short, and yet enough for a busy machine to answer in
SLOW = r"(a+)+b"  # with "aaaa...", as good as an endless loop that never lets go of the interpreter


@pytest.fixture
def make() -> Iterator[Make]:
    with making(5.0) as build:
        yield build


def errors(reward: Reward, *completions: str) -> list[str | None]:
    return [score.error for score in scores(reward, *completions)]


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and only not buried yet does not."""
    try:
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return False


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Odd:
    def __repr__(self) -> str:
        return "two\nlines \udc80"


def misbehave(how: str) -> object:
    """All the ways in which a verifier can fail to give a number."""
    if how == "raise":
        raise ValueError("two\nlines\x1b[0m \udc80")
    if how == "raise long":
        raise ValueError("x" * 10**7)
    if how == "raise rude":
        raise Rude
    if how == "raise empty":
        raise KeyError
    if how == "recurse":
        return misbehave(how)
    if how == "sys.exit":
        sys.exit(2)
    if how == "input":
        return input()
    if how == "sleep":
        time.sleep(60)
    if how == "loop":
        import re

        re.search(SLOW, "a" * 60)
    if how == "os._exit":
        os._exit(3)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "close all":
        os.closerange(0, 256)
    if how == "None":
        return None
    if how == "str":
        return "1.0"
    if how == "huge str":
        return "x" * 10**7
    if how == "nan":
        return math.nan
    if how == "inf":
        return np.float64("inf")
    if how == "huge":
        return -1e101
    if how == "huge int":
        return 10**400
    if how == "unpicklable":
        return lambda: threading.Lock()
    if how == "odd":
        return Odd()
    if how == "array":
        return np.zeros(3)
    return float(how)


MISBEHAVIOUR = {
    "raise": r"ValueError: two lines\x1b[0m \udc80 (test_worker_pool.py:",
    "raise long": "ValueError: xxxx",
    "raise rude": "Rude: (its message cannot be shown)",
    "raise empty": "KeyError (test_worker_pool.py:",
    "recurse": "RecursionError: ",
    "sys.exit": "SystemExit: 2",
    "input": "EOFError: ",
    "sleep": "no score within 0.8 s",
    "loop": "no score within 0.8 s",
    "os._exit": "the verifier's process ended with exit code 3",
    "SIGKILL": "the verifier's process was killed by SIGKILL (out of memory?)",
    "segfault": "the verifier's process was killed by SIGSEGV",
    "interrupt": "the verifier's process was killed by SIGINT",
    "close all": "the verifier's process ",
    "None": "the verifier returned None, not a number",
    "str": "the verifier returned '1.0', not a number",
    "huge str": "the verifier returned 'xxxx",
    "nan": "the verifier returned nan, not a finite number",
    "inf": "the verifier returned inf, not a finite number",
    "huge": "the verifier returned -1e+101, too large a number",
    "huge int": "OverflowError: ",
    "unpicklable": "the verifier returned <function",
    "odd": r"the verifier returned two lines \udc80, not a number",
    "array": "ValueError: ",
}


@pytest.fixture(scope="module")
def misbehaving() -> Iterator[Reward]:
    # not by this module's name: each new worker would import pytest first
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    reward = make_reward(lambda prompt, how: misbehave(how), time_limit=LIMIT, workers=1)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    yield reward
    reward.close()


@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_misbehaviour_is_the_error_of_its_sample_alone(misbehaving: Reward, how: str) -> None:
    before, bad, after = scores(misbehaving, "1", how, "2")
    assert bad.value is None
    assert bad.error is not None
    assert bad.error.startswith(MISBEHAVIOUR[how])
    assert len(bad.error) < 600
    assert bad.error.isprintable()
    assert (before, after) == (Score(1.0), Score(2.0))  # the next sample is judged all the same


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[(True, 1.0), (False, 0.0), (3, 3.0), (-0.25, -0.25), (1e100, 1e100)],
        *[(np.float32(0.5), 0.5), (np.int64(2), 2.0), (np.bool_(True), 1.0)],
    ],
)
def test_numbers_of_all_kinds(make: Make, value: object, number: float) -> None:
    assert scores(make(lambda prompt, completion: value), "") == [Score(number)]


def test_what_a_verifier_prints_and_reads_is_not_the_protocol(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(prompt: Prompt, completion: str) -> int:
        print("printed", flush=True)
        os.write(1, b"\x00" * 8 + b"written")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        return len(sys.stdin.read()) + len(os.read(0, 100)) + 5

    reward = make(noisy)
    assert scores(reward, "", "") == [Score(5.0)] * 2
    reward.close()  # all that was printed has been shown then
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("printed") == err.count("written") == err.count("from a child") == 2


def test_the_error_names_the_innermost_line_of_the_users_code(make: Make) -> None:
    def helper(text: str) -> float:
        return float(text)

    def fails_in_a_library(prompt: Prompt, completion: str) -> float:
        helper("1")
        return helper(completion) + len(os.listdir("/no/such/folder"))

    own, library = errors(make(fails_in_a_library), "x", "1")
    assert str(own).endswith(f"(test_worker_pool.py:{line_of(helper) + 1})")
    assert str(library).startswith("FileNotFoundError: ")
    assert str(library).endswith(f"(test_worker_pool.py:{line_of(fails_in_a_library) + 2})")


def test_a_line_is_that_of_the_verifiers_own_file(make: Make) -> None:
    """Whatever else was sent along by value from other files."""
    elsewhere: dict[str, Any] = {}
    exec(
        compile("def theirs(text):\n    return float(text)", "/there/theirs.py", "exec"), elsewhere
    )
    theirs = elsewhere["theirs"]

    def ours(prompt: Prompt, completion: str) -> float:
        return sum(theirs(text) for text in [completion])

    def tells(prompt: Prompt, completion: str) -> float:
        try:
            return ours(prompt, completion)
        except ValueError as error:
            files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
            raise ValueError(" ".join(files)) from None

    (error,) = errors(make(ours), "x")
    assert str(error).endswith(f"(test_worker_pool.py:{line_of(ours) + 1})")
    (error,) = errors(make(tells), "x")
    assert str(error).startswith(f"ValueError: {__file__} {__file__}")
    assert "/there/theirs.py (" in str(error)


def line_of(function: Any) -> int:
    return int(function.__code__.co_firstlineno)


def test_functions_of_all_kinds(make: Make) -> None:
    offset = 2

    class Judge:
        def __init__(self, offset: int) -> None:
            self.offset = offset

        def __call__(self, prompt: Prompt, completion: str) -> float:
            return self.offset + len(str(prompt.answer))

    def closure(prompt: Prompt, completion: str) -> float:
        return offset + len(str(prompt.answer))

    for function in (closure, Judge(offset), Judge(offset).__call__):
        assert scores(make(function), "") == [Score(4.0)]
    assert make(closure).name.endswith("closure")


def test_what_a_prompt_holds_is_sent_along_and_what_cannot_be_is_an_error(make: Make) -> None:
    reward = make(lambda prompt, completion: prompt.data["n"] + len(completion))
    good = Prompt("good", "", data={"n": 3})
    bad = Prompt("bad", "", data={"n": threading.Lock()})
    scored = reward.score([(good, "x"), (bad, "x"), (good, "x" * 10**7)])
    assert [s.value for s in scored] == [4.0, None, 10**7 + 3.0]
    assert str(scored[1].error).startswith("the prompt cannot be sent: TypeError: ")


def test_order_is_kept_and_workers_work_at_once(make: Make) -> None:
    def slowly(prompt: Prompt, completion: str) -> float:
        time.sleep(random.random() / 50)
        return float(completion)

    reward = make(slowly, workers=3)
    wanted = [float(i) for i in range(40)]
    assert [s.value for s in scores(reward, *map(str, wanted))] == wanted

    def busy(prompt: Prompt, completion: str) -> int:
        time.sleep(0.2)
        return os.getpid()

    reward = make(busy, workers=3)
    assert len({s.value for s in scores(reward, *"abc")}) == 3
    assert reward.score([]) == []


def test_the_import_does_not_count_against_the_first_sample(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import time; time.sleep(0.6)\ndef score(prompt, completion): return 1"
    (tmp_path / "slow_rewards.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert scores(make("slow_rewards:score", time_limit=0.3, workers=2), *"ab") == [Score(1.0)] * 2
    reward = IsolatedReward(
        "slow", Source(target="slow_rewards:score"), limits=Limits(import_seconds=0.3)
    )
    with pytest.raises(StartError, match=r"not loaded within 0\.3 s"):
        reward.start()
    assert errors(reward, "a") == [
        "the verifier could not be started: it was not loaded within 0.3 s, reward.import_seconds"
    ]
    reward.close()


def test_a_worker_that_takes_no_more_input_is_late_too(make: Make) -> None:
    reward = make(lambda prompt, completion: os.getpid(), time_limit=LIMIT)
    pid = int(scores(reward, "")[0].value or 0)
    os.kill(pid, signal.SIGSTOP)
    assert errors(reward, "x" * 10**6, "") == ["no score within 0.8 s", None]
    assert not alive(pid)


def test_a_folder_that_is_gone_is_an_error_of_the_sample(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    source = Source(function=pickled(lambda prompt, completion: 1.0), folder=str(folder))
    reward = IsolatedReward("gone", source)
    assert str(errors(reward, "")[0]).startswith("the verifier could not be started: no process")
    folder.mkdir()
    assert scores(reward, "") == [Score(1.0)]
    reward.close()


def test_a_verifier_that_forks_answers_once(make: Make) -> None:
    def forks(prompt: Prompt, completion: str) -> float:
        if completion == "0":
            if os.fork() == 0:
                return 99.0  # the copy's, and it is the first
            time.sleep(0.2)
        return float(completion)

    assert [s.value for s in scores(make(forks), *"0123")] == [0.0, 1.0, 2.0, 3.0]


def test_a_death_is_told_from_a_hang_even_if_a_fork_lives_on(make: Make) -> None:
    def leaves_a_fork(prompt: Prompt, completion: str) -> float:
        if os.fork() == 0:
            time.sleep(60)
        os._exit(3)

    assert errors(make(leaves_a_fork, time_limit=LIMIT), "") == [
        "the verifier's process ended with exit code 3"
    ]


@pytest.mark.parametrize("end", ["hang", "close"])
def test_what_a_verifier_started_goes_with_it(make: Make, tmp_path: Path, end: str) -> None:
    def starts_another(prompt: Prompt, completion: str) -> float:
        other = subprocess.Popen(["sleep", "60"])
        (tmp_path / "pid").write_text(str(other.pid))
        if completion == "hang":
            other.wait()
        return 1.0

    reward = make(starts_another, time_limit=LIMIT)
    assert scores(reward, end)[0].value == (None if end == "hang" else 1.0)
    other = int((tmp_path / "pid").read_text())
    if end == "close":
        assert alive(other)
        reward.close()
    assert until(lambda: not alive(other))


def test_close_leaves_no_process_and_can_be_called_twice(make: Make) -> None:
    def pid_of(prompt: Prompt, completion: str) -> int:
        time.sleep(0.1)
        return os.getpid()

    files = len(os.listdir("/dev/fd"))
    reward = make(pid_of, workers=2)
    pids = {int(s.value or 0) for s in scores(reward, *"abcd")}
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    reward.close()
    reward.close()
    assert len(os.listdir("/dev/fd")) == files
    for pid in pids:
        with pytest.raises(ProcessLookupError):  # not even one that is dead and not buried
            os.kill(pid, 0)
    with pytest.raises(WinnowError, match="closed"):
        scores(reward, "a")


def test_a_forgotten_reward_leaves_no_process() -> None:
    reward = make_reward(lambda prompt, completion: os.getpid(), workers=1)
    pid = int(scores(reward, "")[0].value or 0)
    assert alive(pid)
    del reward
    assert not alive(pid)


def test_an_interruption_ends_the_wait_and_the_next_score_is_sound(
    make: Make, tmp_path: Path
) -> None:
    def sleeps(prompt: Prompt, completion: str) -> float:
        time.sleep(float(completion))
        (tmp_path / completion).touch()
        return float(completion)

    reward = make(sleeps, workers=2, time_limit=30.0)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        scores(reward, "20", "20", "20")
    assert not list(tmp_path.iterdir())  # nobody waited until a verifier was done
    assert [s.value for s in scores(reward, "0", "0.1")] == [0.0, 0.1]


def test_a_worker_loads_only_what_the_verifier_needs(make: Make) -> None:
    heavy = ("torch", "transformers", "numpy", "sympy")
    reward = make(lambda prompt, completion: sum(name in sys.modules for name in heavy))
    assert scores(reward, "") == [Score(0.0)]


def test_the_workers_own_folder_hides_no_standard_module(make: Make) -> None:
    # it holds a numbers.py, which Python would put first if it ran the worker as any other file
    assert scores(make(lambda prompt, completion: sys.flags.safe_path), "") == [Score(1.0)]


SCRIPT = """
import os, re, sys, time
from winnow.rewards.factory import make_reward
from winnow.types import Prompt

with open("runs", "a") as runs:
    runs.write("x")

class Box:
    def __init__(self, pid):
        self.pid = pid

def score(prompt, completion):
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    os.rename("pid", "worker")
    if completion == "sleep":
        time.sleep(60)
    if completion == "loop":
        re.search("(a+)+b", "a" * 60)
    return Box(os.getpid()).pid

reward = make_reward(score, time_limit=50, workers=1)
"""


def run_script(folder: Path, ending: str, **kwargs: Any) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT + ending)
    return subprocess.Popen(
        [sys.executable, str(path)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_a_function_of_a_script_is_run_without_the_script(tmp_path: Path) -> None:
    ending = "print(int(reward.score([(Prompt('p', ''), '')])[0].value))"
    out, _ = run_script(tmp_path, ending).communicate(timeout=20)
    worker = int((tmp_path / "worker").read_text())
    assert int(out) == worker
    assert (tmp_path / "runs").read_text() == "x"
    assert until(lambda: not alive(worker))  # though nobody closed it


def test_a_fork_of_the_parent_may_end_without_taking_the_workers_along(tmp_path: Path) -> None:
    ending = """
item = (Prompt("p", ""), "")
first = reward.score([item])
if os.fork() == 0:
    sys.exit()
os.wait()
print(first == reward.score([item]))
"""
    out, _ = run_script(tmp_path, ending).communicate(timeout=20)
    assert out == "True\n"


@pytest.mark.parametrize("how", ["sleep", "loop", ""])
def test_no_worker_outlives_a_parent_that_is_killed(tmp_path: Path, how: str) -> None:
    ending = f"reward.score([(Prompt('p', ''), {how!r})]); time.sleep(60)"
    parent = run_script(tmp_path, ending)
    assert until((tmp_path / "worker").exists, 20)
    worker = int((tmp_path / "worker").read_text())
    time.sleep(0.1)
    assert alive(worker)
    parent.kill()
    parent.communicate()
    assert until(lambda: not alive(worker))
