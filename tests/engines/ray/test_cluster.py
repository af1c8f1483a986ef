"""A run on two nodes of Ray: what is lost is replaced, what is over leaves nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.fsdp import test_torchrun
from tests.engines.ray import nodes
from tests.engines.ray.nodes import Cluster, actor_of, laid_out, listened, rows, started, waits
from winnow.training.loaded import Run

pytestmark = pytest.mark.ray
LONG = 1000
RUN = ("train", "recipe.toml", "--out", "run")


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    """Two nodes, each with room for one learner and one server."""
    with nodes.cluster() as made:
        made.add(learner=1, server=1)
        made.add(learner=1, server=1)
        yield made


def test_a_run_is_that_of_torchrun(two, tmp_path, tiny_model) -> None:
    """Bit for bit: the processes are the same, with the same variables."""
    laid_out(tmp_path, tiny_model)
    with started(tmp_path, *RUN, "--ray", two.address) as run:
        run.waits("no ranks", lambda: len(run.ranks()) == 2)
        found = {rank: nodes.environ(number) for rank, number in run.ranks().items()}
        of_actors = [nodes.parent(actor_of(number)) for number in run.ranks().values()]
        code, said = run.finished()
    assert code == 0, said
    assert len(set(of_actors)) == 2  # raylets
    assert [found[rank]["LOCAL_RANK"] for rank in (0, 1)] == ["0", "0"]
    assert said.count("its weights are sharded over 2 processes") == 1
    assert test_torchrun.finished(2, tmp_path, "train", "recipe.toml", "--out", "other")[0] == 0
    last = "checkpoints/step-4/model.safetensors"
    assert (tmp_path / "run" / last).read_bytes() == (tmp_path / "other" / last).read_bytes()
    logs = sorted(path.name for path in (tmp_path / "run" / "actors").iterdir())
    assert logs == ["learner-0.log", "learner-1.log"]
    assert "its weights are sharded" in (tmp_path / "run/actors/learner-0.log").read_text()


@pytest.mark.parametrize("whom", ["server", "actor"])
def test_a_server_that_is_killed_is_replaced(two, tmp_path, tiny_model, whom) -> None:
    """A server alone by the pool, through its actor; one whose actor is gone by Ray."""
    laid_out(tmp_path, tiny_model, steps=LONG, servers=True)
    log = tmp_path / "run" / "actors" / "learner-0.log"
    with started(tmp_path, *RUN, "--ray", two.address) as run:
        run.waits("no steps", lambda: rows(tmp_path) >= 2)
        servers = run.servers()
        assert len(servers) == 2
        os.kill(servers[0] if whom == "server" else actor_of(servers[0]), signal.SIGKILL)
        run.waits("it lives on", lambda: not test_torchrun.alive(servers[0]))
        run.waits("not back", lambda: " is back\n" in log.read_text())
        assert len(run.servers()) == 2
        made = rows(tmp_path)
        run.waits("no further steps", lambda: rows(tmp_path) >= made + 3)
        run.process.send_signal(signal.SIGINT)
        code, said = run.finished()
        waits("processes are left", lambda: not run.processes())
    assert code == 130, said
    assert said.count("failed, and others take its requests") == 1
    assert "attempt" not in said
    metrics = Run(tmp_path / "run").metrics
    assert sum(row["servers_failed"] for row in metrics) == 1
    assert sum(row["servers_back"] for row in metrics) == 1
    for row in metrics:
        groups = Run(tmp_path / "run").samples(row["step"], "train")
        versions = {sample.policy_version for group in groups for sample in group.samples}
        assert versions == {row["policy_version"] - row["updates"]}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all(two, tmp_path, tiny_model, how) -> None:
    laid_out(tmp_path, tiny_model, steps=LONG, servers=True)
    with started(tmp_path, *RUN, "--ray", two.address) as run:
        run.waits("no checkpoint", lambda: list(tmp_path.glob("run/checkpoints/step-4")))
        ports = run.ports()
        run.process.send_signal(how)
        code, said = run.finished()
        waits("processes are left", lambda: not run.processes())
    assert code == 128 + how, said
    assert said.count("winnow: stopped; resume: winnow train --resume run") == 1
    assert "Traceback" not in said
    assert len(ports) == 3
    assert not any(map(listened, ports))


@pytest.mark.parametrize("where", ["two", "local"])
def test_nothing_is_left_where_the_command_is_killed(two, tmp_path, tiny_model, where) -> None:
    """Neither what Ray has started for it nor, where there was no cluster, Ray."""
    laid_out(tmp_path, tiny_model, steps=LONG, servers=True)
    address = two.address if where == "two" else "local"
    with started(tmp_path, *RUN, "--ray", address, RAY_TMPDIR=two.folder) as run:
        run.waits("no checkpoint", lambda: list(tmp_path.glob("run/checkpoints/step-4")))
        ports = run.ports()
        run.process.kill()
        waits("processes are left", lambda: not run.processes())
    assert len(ports) == 3
    assert not any(map(listened, ports))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--set", "model=nowhere/"), "winnow: model: 'nowhere/' is not a folder"),
        (("--set", "engine.learner=local"), "winnow: ray.ranks: asks for 2 processes, and"),
        (
            ("--set", "ray.ranks=3", "--set", "ray.wait=2"),
            "a run needs 3 learner and the cluster has 2 learner",
        ),
    ],
)
def test_a_mistake_is_told_once(two, tmp_path, tiny_model, words, told) -> None:
    laid_out(tmp_path, tiny_model)
    with started(tmp_path, *RUN, *words, "--ray", two.address) as run:
        code, said = run.finished()
    assert code == 2, said
    assert said.count(told) == 1, said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "no cluster at '127.0.0.1:1': Connection refused; start one"),
        ("ray://127.0.0.1:1", "'ray://127.0.0.1:1' is no address; use HOST:PORT, auto or local"),
    ],
)
def test_no_cluster(tmp_path, tiny_model, address, told) -> None:
    laid_out(tmp_path, tiny_model)
    with started(tmp_path, *RUN, "--ray", address) as run:
        code, said = run.finished()
    assert (code, said.count("\n")) == (2, 1), said
    assert said.startswith(f"winnow: --ray: {told}")


def test_a_node_that_is_lost_ends_the_attempt_and_the_next_resumes(tmp_path, tiny_model) -> None:
    """To what an unbroken run ends with, bit for bit, on the node that came instead."""
    laid_out(tmp_path, tiny_model, steps=40)
    with nodes.cluster() as made:
        made.add(learner=1)
        second = made.add(learner=1)
        with started(tmp_path, *RUN, "--ray", made.address) as run:
            run.waits("no checkpoint", lambda: list(tmp_path.glob("run/checkpoints/step-4")))
            second.remove()
            made.add(learner=1)
            code, said = run.finished()
    assert code == 0, said
    assert "; attempt 2 of 3 resumes" in said
    assert test_torchrun.finished(2, tmp_path, "train", "recipe.toml", "--out", "other")[0] == 0
    same(tmp_path / "run", tmp_path / "other", 40)


def same(one: Path, two: Path, steps: int) -> None:
    """Whether two runs have the same weights and samples."""
    last = f"checkpoints/step-{steps}/model.safetensors"
    assert (one / last).read_bytes() == (two / last).read_bytes()
    ours, theirs = Run(one), Run(two)
    for step in range(1, steps + 1):
        assert list(ours.samples(step, "train")) == list(theirs.samples(step, "train"))
