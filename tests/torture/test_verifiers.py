"""Hostile verifiers: each harms its own sample at most, and leaves nothing behind.

Each misbehaves as its module is imported, at its first sample, and in the middle of a batch. A few
here; all of them in `make torture`.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.torture.table import Outcome, Row, Tally
from tests.torture.watch import ends
from winnow.errors import UserError
from winnow.rewards.factory import make_reward
from winnow.types import Prompt, Score

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="all is kept on Linux only")

MARKER = "WINNOW_TORTURE"
DONE = 0.25
"""What a verifier returns that has done its harm and goes on."""


@dataclass(frozen=True)
class Behaviour:
    """What a verifier does.

    Attributes:
        code: Its body.
        scores: Whether it returns `DONE` after that: else its sample has an error.
        imports: Whether it can be done while the module is imported.
    """

    code: str
    scores: bool = False
    imports: bool = True


def returns(expression: str) -> Behaviour:
    """A value that is no finite number."""
    return Behaviour(f"return {expression}", imports=False)


BEHAVIOURS = {
    # ends and hangs
    "hang in C": Behaviour("re.search(r'(a+)+b', 'a' * 60)"),
    "loop": Behaviour("while True: pass"),
    "sleep": Behaviour("time.sleep(600)"),
    "sys.exit": Behaviour("sys.exit(0)"),
    "os._exit": Behaviour("os._exit(0)"),
    "SIGKILL": Behaviour("os.kill(os.getpid(), signal.SIGKILL)"),
    "SIGSEGV": Behaviour("ctypes.string_at(0)"),
    "abort": Behaviour("os.abort()"),
    "SIGSTOP": Behaviour("os.kill(os.getpid(), signal.SIGSTOP)"),
    "kill the parent": Behaviour("os.kill(os.getppid(), signal.SIGKILL); time.sleep(600)"),
    "stop the parent": Behaviour("os.kill(os.getppid(), signal.SIGSTOP); time.sleep(600)"),
    "deaf to signals": Behaviour(
        "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 3, 10, 12, 13, 14, 15, 17)]\n"
        "while True: time.sleep(600)"
    ),
    # exceptions
    "BaseException": Behaviour("class Odd(BaseException): pass\nraise Odd('x')"),
    "GeneratorExit": Behaviour("raise GeneratorExit"),
    "str raises": Behaviour(
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd"
    ),
    "str exits": Behaviour(
        "class Odd(Exception):\n    def __str__(self): raise SystemExit(0)\nraise Odd"
    ),
    "recursion": Behaviour("def f(): return f()\nf()"),
    "MemoryError": Behaviour("raise MemoryError"),
    "StopIteration": Behaviour("next(iter(()))"),
    # values
    "None": returns("None"),
    "text": returns("'1.0'"),
    "nan": returns("float('nan')"),
    "inf": returns("-float('inf')"),
    "list": returns("[1.0]"),
    "huge int": returns("10**5000"),
    "complex": returns("1 + 0j"),
    "bad float": returns("type('X', (), {'__float__': lambda self: 1 / 0})()"),
    "bad item": returns("type('X', (), {'item': lambda self: sys.exit(0)})()"),
    "bad repr": returns("type('X', (), {'__repr__': lambda self: 1 / 0})()"),
    "bad int": returns("type('X', (int,), {'__float__': lambda self: 'x'})(1)"),
    # writes
    "print 100 MB": Behaviour("for _ in range(100): print('x' * 10**6)\nreturn 0.25", scores=True),
    "forge": Behaviour(
        "import struct\n"
        "for fd in range(3, 256):\n"
        "    try: os.write(fd, struct.pack('>Q', 25) + bytes(16) + b'v' + struct.pack('>d', 1))\n"
        "    except OSError: pass\n"
        "raise ValueError"
    ),
    "fill the pipe": Behaviour(
        "for fd in range(100, 256):\n"
        "    try: os.write(fd, b'x' * 10**6)\n"
        "    except OSError: pass\n"
        "time.sleep(600)"
    ),
    "close all": Behaviour("os.closerange(0, 256)"),
    # what others rely on
    "patch": Behaviour(
        "import json, pickle, struct\n"
        "json.dumps = pickle.dumps = pickle.loads = struct.pack = lambda *a, **k: 1.0\n"
        "raise ValueError"
    ),
    "daemon": Behaviour(
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        while True: time.sleep(600)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "return 0.25",
        scores=True,
    ),
    "threads": Behaviour(
        "for _ in range(9): threading.Thread(target=time.sleep, args=(600,)).start()\nreturn 0.25",
        scores=True,
    ),
    "memory": Behaviour("held = b'x' * 2**30\ntime.sleep(600)"),
    "folder": Behaviour(
        "os.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')\nreturn 0.25", scores=True
    ),
    "handlers": Behaviour(
        "[signal.signal(s, lambda *a: None) for s in (2, 15, 17)]\nos.umask(0o777)\nreturn 0.25",
        scores=True,
    ),
    "environment": Behaviour("os.environ.clear()\nsys.path.clear()\nreturn 0.25", scores=True),
    "limits": Behaviour(
        "import resource\n"
        "for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):\n"
        "    resource.setrlimit(limit, (0, 0))\n"
        "return 0.25",
        scores=True,
    ),
}
SUITE = ("loop", "SIGKILL", "BaseException", "nan", "daemon", "forge")
MOMENTS = ("import", "first", "middle")
TRIALS = [
    pytest.param(how, moment, marks=[] if how in SUITE and moment == "middle" else torture)
    for torture in [pytest.mark.torture]
    for how, behaviour in BEHAVIOURS.items()
    for moment in MOMENTS
    if behaviour.imports or moment != "import"
]


def module(behaviour: Behaviour, at_import: bool) -> str:
    body = "".join(f"    {line}\n" for line in behaviour.code.splitlines())
    return (
        "import ctypes, os, re, signal, sys, threading, time\n"
        f"def misbehave():\n{body}"
        "def score(prompt, completion):\n"
        "    return misbehave() if completion == 'bad' else float(completion)\n"
        + ("misbehave()\n" if at_import else "")
    )


def left(marker: str) -> list[str]:
    """Processes that were started with the marker in their environment and still run."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and marker.encode() in (folder / "environ").read_bytes():
                found.append(f"{folder.name} {(folder / 'cmdline').read_bytes()!r}")
        except OSError:  # it has ended, or is another's
            continue
    return found


@pytest.fixture
def marker(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = uuid.uuid4().hex
    monkeypatch.setenv(MARKER, name)
    yield name
    for process in left(name):
        os.kill(int(process.split()[0]), 9)


@pytest.mark.parametrize(("how", "moment"), TRIALS)
def test_a_hostile_verifier(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    marker: str,
    tally: Tally,
    how: str,
    moment: str,
) -> None:
    behaviour = BEHAVIOURS[how]
    name = f"hostile_{marker}"
    (tmp_path / f"{name}.py").write_text(module(behaviour, moment == "import"))
    monkeypatch.chdir(tmp_path)
    outcome = Outcome.UNHARMED if behaviour.scores else Outcome.TOLD
    with tally.trial(Row.VERIFIERS, outcome):
        if moment == "import" and not behaviour.scores:
            with pytest.raises(UserError) as caught:
                ends(lambda: make(name))
            assert "\n" not in str(caught.value)
            assert "cannot load" in str(caught.value)
        else:
            before = {"import": ["1", "2"], "first": ["bad"], "middle": ["1", "2", "bad"]}[moment]
            check(name, [*before, "3", "4", "5"], behaviour)
        assert not left(marker)


def make(name: str):  # type: ignore[no-untyped-def]
    return make_reward(
        f"{name}:score", workers=1, time_limit=3.0, import_seconds=4.0, memory_gib=0.5
    )


def check(name: str, completions: list[str], behaviour: Behaviour) -> None:
    """The bad sample's score is its verifier's or an error; the others' are right."""
    reward = ends(lambda: make(name))
    try:
        items = [(Prompt("p", "", "1"), completion) for completion in completions]
        scores = ends(lambda: reward.score(items))
    finally:
        ends(reward.close)
    for completion, score in zip(completions, scores, strict=True):
        if completion != "bad":
            assert score == Score(float(completion))
        elif behaviour.scores:
            assert score == Score(DONE)
        else:
            assert score.value is None
            assert score.error is not None
            assert score.error.isprintable()
