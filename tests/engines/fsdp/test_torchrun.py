"""A run that torchrun starts: it ends as a whole, whatever ends it; any number resumes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import tiny
from winnow.training.loaded import Run

pytestmark = pytest.mark.fsdp
ROOT = Path(__file__).parents[3]
RECIPE = """
model = {model}
steps = {steps}
prompts_per_step = 8
samples_per_prompt = 4
algorithm = "raft"
report = false
engine.learner = "{learner}"
reward.name = "exact"
sampling.max_tokens = 4
optimizer.lr = 1e-5
checkpoint.every = 2
eval.size = 0
prompts.source = "problems.jsonl"
"""


@pytest.fixture
def recipe(tiny_model, tmp_path) -> Path:
    rows = "".join(json.dumps(row) + "\n" for row in tiny.problems())
    (tmp_path / "problems.jsonl").write_text(rows)
    written(tmp_path, tiny_model)
    return tmp_path / "recipe.toml"


def written(folder: Path, model: Path, steps: int = 4, learner: str = "fsdp") -> None:
    text = RECIPE.format(model=json.dumps(str(model)), steps=steps, learner=learner)
    (folder / "recipe.toml").write_text(text)


@contextmanager
def started(ranks: int, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`winnow WORDS` by so many processes, or by itself; all are gone afterwards."""
    command = [sys.executable, "-m", "winnow", *words]
    if ranks:
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [sys.executable, "-m", *torchrun, "-m", "winnow", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for number in below(process.pid):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.kill()
        process.communicate()


def finished(ranks: int, folder: Path, *words: str) -> tuple[int, str]:
    with started(ranks, folder, *words) as process:
        said, _ = process.communicate(timeout=300)
        return process.returncode, said


def below(number: int) -> list[int]:
    """A process's children, and theirs."""
    try:
        own = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, own) for found in (child, *below(child))]


def ranks_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """The processes of a run, by rank."""
    found = {}
    for number in below(process.pid):
        with suppress(OSError):
            for word in Path(f"/proc/{number}/environ").read_text().split("\0"):
                if word.startswith("RANK="):
                    found.setdefault(int(word[5:]), number)
    return found


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def waits(what: str, until) -> None:
    end = time.monotonic() + 120
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def test_a_run_of_two_is_that_of_one(recipe, tmp_path, tiny_model) -> None:
    code, said = finished(2, tmp_path, "train", "recipe.toml", "--out", "two")
    assert code == 0, said
    assert said.count("its weights are sharded over 2 processes") == 1
    assert finished(0, tmp_path, "train", "recipe.toml", "--out", "alone")[0] == 0
    written(tmp_path, tiny_model, learner="local")
    assert finished(0, tmp_path, "train", "recipe.toml", "--out", "local")[0] == 0
    rows = {name: Run(tmp_path / name).metrics for name in ("two", "alone", "local")}
    for name in ("two", "alone"):
        for mine, theirs in zip(rows[name], rows["local"], strict=True):
            assert mine["reward_mean"] == theirs["reward_mean"]
            assert mine["tokens_sampled"] == theirs["tokens_sampled"]
            assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_is_killed_ends_all(recipe, tmp_path, tiny_model, rank) -> None:
    written(tmp_path, tiny_model, steps=1000)
    with started(3, tmp_path, "train", "recipe.toml", "--out", "run") as process:
        waits("no checkpoint", lambda: list(tmp_path.glob("run/checkpoints/step-4")))
        found = ranks_of(process)
        os.kill(found[rank], signal.SIGKILL)
        waits("processes are left", lambda: not any(map(alive, found.values())))
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 1, said
    resumes(tmp_path, ranks=2)
    resumes(tmp_path, ranks=0)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_signal_ends_all(recipe, tmp_path, tiny_model, monkeypatch, how, threads) -> None:
    """With two, libraries start one as they are imported, which may be the one that is sent it."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    written(tmp_path, tiny_model, steps=1000)
    with started(2, tmp_path, "train", "recipe.toml", "--out", "run") as process:
        waits("no checkpoint", lambda: list(tmp_path.glob("run/checkpoints/step-4")))
        found = ranks_of(process)
        process.send_signal(how)
        waits("processes are left", lambda: not any(map(alive, found.values())))
        said, _ = process.communicate(timeout=60)
    assert said.count("winnow: stopped; resume: winnow train --resume run") == 1
    assert (process.returncode, said.count("Traceback")) == (1, 1), said  # torchrun's own
    resumes(tmp_path, ranks=2)


def test_nothing_is_left_where_torchrun_is_killed(recipe, tmp_path, tiny_model) -> None:
    written(tmp_path, tiny_model, steps=1000)
    with started(2, tmp_path, "train", "recipe.toml", "--out", "run") as process:
        waits("no checkpoint", lambda: list(tmp_path.glob("run/checkpoints/step-4")))
        found = ranks_of(process)
        process.kill()
        waits("processes are left", lambda: not any(map(alive, found.values())))


def resumes(folder: Path, ranks: int) -> None:
    """To two steps more than there is a checkpoint of."""
    last = max(int(path.name[5:]) for path in folder.glob("run/checkpoints/step-*"))
    text = (folder / "run/config.toml").read_text().splitlines()
    text = [f"steps = {last + 2}" if line.startswith("steps = ") else line for line in text]
    (folder / "run/config.toml").write_text("\n".join(text))
    code, said = finished(ranks, folder, "train", "--resume", "run", "--accept-changes")
    assert code == 0, said
    assert [row["step"] for row in Run(folder / "run").metrics] == list(range(1, last + 3))
    assert (folder / f"run/checkpoints/step-{last + 2}/optimizer/.metadata").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--set", "engine.learner=local"),
            "winnow: engine.learner: 2 processes were started, and 'local' trains in one; use "
            "'fsdp', or start winnow train by itself",
        ),
        (("--set", "model=nowhere/"), "winnow: model: 'nowhere/' is not a folder"),
        (
            ("--set", "algorithm=ppo", "--set", "critic.trunk=own"),
            "winnow: critic.trunk: a trunk of its own cannot be sharded",
        ),
    ],
)
def test_a_mistake_is_told_once(recipe, tmp_path, words, told) -> None:
    code, said = finished(2, tmp_path, "train", "recipe.toml", "--out", "run", *words)
    assert code == 1, said  # torchrun's own
    assert said.count(told) == 1, said
    assert "exitcode  : 2 " in said
    assert "<NO_OTHER_FAILURES>" in said  # the others end with 0
    assert said.count("Traceback") == 1, said  # torchrun's own
    assert not list(tmp_path.glob("run/checkpoints/*"))


def test_a_signal_is_heard_where_python_is_not_run() -> None:
    """The main thread is in C, and the thread that is sent the signal was there before."""
    script = """
        import ctypes, threading
        sleep = ctypes.CDLL(None).sleep
        threading.Thread(target=sleep, args=(60,), daemon=True).start()
        from winnow.engines.fsdp import crew
        def joined():
            print("here", flush=True)
            sleep(60)
        crew._joined = joined
        crew.follow(lambda *given: None)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=30) == 1
        finally:
            process.kill()
