"""Runs on Ray whose parts are killed at any moment: each is resumed to what an unbroken one is."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.ray import nodes
from tests.engines.ray.nodes import Cluster, Started, actor_of, laid_out, rows, started, waits
from tests.engines.ray.test_cluster import RUN, same
from winnow.training.loaded import Run

pytestmark = pytest.mark.ray
STEPS = 30


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    with nodes.cluster() as made:
        made.add(learner=1)
        made.add(learner=1)
        yield made


@pytest.fixture(scope="module")
def unbroken(two, tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    laid_out(folder, tiny_model, STEPS)
    with started(folder, *RUN, "--ray", two.address) as run:
        code, said = run.finished()
    assert code == 0, said
    return folder


def victim(run: Started, whom: str) -> int:
    if whom == "command":
        return run.process.pid
    what, rank = whom.split()
    number = run.ranks()[int(rank)]
    return number if what == "rank" else actor_of(number)


@pytest.mark.parametrize("moment", range(2))
@pytest.mark.parametrize("whom", ["command", "rank 0", "rank 1", "actor 0", "actor 1"])
def test_killed(two, unbroken, tmp_path, tiny_model, whom, moment) -> None:
    """What is a part of a run is begun again by the command; the command, by who has given it."""
    laid_out(tmp_path, tiny_model, STEPS)
    luck = random.Random(f"{whom} {moment}")
    after, then = luck.randrange(STEPS // 2), luck.uniform(0, 0.5)
    with started(tmp_path, *RUN, "--ray", two.address) as run:
        run.waits("no ranks", lambda: len(run.ranks()) == 2)
        run.waits("no step", lambda: rows(tmp_path) >= after)
        time.sleep(then)
        os.kill(victim(run, whom), signal.SIGKILL)
        code, said = run.finished()
        waits("processes are left", lambda: not run.processes())
    if whom == "command":
        assert code == -signal.SIGKILL
        begun = (tmp_path / "run" / "config.toml").is_file()
        words = ("train", "--resume", "run") if begun else RUN
        with started(tmp_path, *words, "--ray", two.address) as run:
            code, said = run.finished()
    else:
        assert "; attempt 2 of 3 " in said
    assert code == 0, said
    assert "Traceback" not in said
    same(tmp_path / "run", unbroken / "run", STEPS)


def test_all_of_ray_is_killed(unbroken, tmp_path, tiny_model) -> None:
    """Every process of it, and the command's at the same time: nothing is left, and it resumes."""
    laid_out(tmp_path, tiny_model, STEPS)
    with nodes.cluster() as made:
        for _ in range(2):
            made.add(learner=1)
        with started(tmp_path, *RUN, "--ray", made.address) as run:
            run.waits("no step", lambda: rows(tmp_path) >= 3)
            ours = set(run.processes())
            of_ray = {n for node in made.nodes for n in nodes.below(node.process.pid)}
            for number in of_ray - ours:  # what the run has started is for itself to end
                os.kill(number, signal.SIGKILL)
            run.process.kill()
            run.finished()
            waits("processes are left", lambda: not run.processes())
    with started(tmp_path, "train", "--resume", "run", "--ray", "local") as run:
        code, said = run.finished()
    assert code == 0, said
    same(tmp_path / "run", unbroken / "run", STEPS)


def test_attempts_are_counted(two, tmp_path, tiny_model) -> None:
    laid_out(tmp_path, tiny_model, 1000)
    with started(tmp_path, *RUN, "--set", "ray.attempts=1", "--ray", two.address) as run:
        run.waits("no step", lambda: rows(tmp_path) >= 3)
        os.kill(run.ranks()[1], signal.SIGKILL)
        code, said = run.finished()
    assert code == 1
    told = (
        "winnow: rank 1 was ended by SIGKILL in attempt 1 of 1; resume: winnow train --resume run"
    )
    assert said.count(told) == 1, said
    assert Run(tmp_path / "run").metrics


def test_ray_ends_actors_where_memory_is_short(tmp_path, tiny_model) -> None:
    """An attempt is lost by that, and told in a line. Any memory is too much for this node."""
    laid_out(tmp_path, tiny_model, 1000)
    short = {"RAY_memory_monitor_refresh_ms": "250", "RAY_memory_usage_threshold": "0.001"}
    with nodes.cluster() as made:
        made.add(learner=2, **short)
        with started(tmp_path, *RUN, "--set", "ray.attempts=2", "--ray", made.address) as run:
            code, said = run.finished()
            waits("processes are left", lambda: not run.processes())
    assert code == 1, said
    assert said.count("as the memory of its node is nearly full") == 2, said
    assert "Traceback" not in said
