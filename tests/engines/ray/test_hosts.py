"""Runs over hosts that differ in address, name, processes and memory, and share the disk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.engines.fsdp import test_torchrun
from tests.engines.ray import nodes
from tests.engines.ray.hosts import Host, Hosts, hosts, possible
from tests.engines.ray.nodes import Cluster, Started, laid_out, rows, started, waits
from tests.engines.ray.test_cluster import LONG, RUN, same
from winnow.training.loaded import Run

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not possible(), reason="takes root, unshare, nsenter and ip"),
]
PYTHON = os.environ.get("WINNOW_VLLM_PYTHON", "")
REAL = (
    f"engine.vllm_python={PYTHON}",
    'engine.vllm_args=["--num-gpu-blocks-override", "64"]',
    "engine.timeout=300",
    "sampling.batch=16",
    "algorithm=reinforce",  # the model is untrained: hardly a sample is right
)
"""With vLLM itself: `make vllm`. Each server has a core, and a cache of 2048 tokens."""


@pytest.fixture
def switch() -> Iterator[Hosts]:
    with hosts() as made:
        yield made


@pytest.fixture
def head(switch) -> Host:
    """The host that the command is given on."""
    return switch.add()


@pytest.fixture
def cluster(head) -> Iterator[Cluster]:
    with nodes.cluster(head) as made:
        yield made


def met_at(run: Started) -> dict[int, tuple[str, int]]:
    """The address and port that a process of a run is met at, by its number."""
    found = {}
    for number in run.ranks().values():
        own = nodes.environ(number)
        found[number] = own["MASTER_ADDR"], int(own["MASTER_PORT"])
    for number in run.servers():
        words = nodes.command(number).split()
        place, port = words.index("--host") + 1, words.index("--port") + 1
        found[number] = words[place], int(words[port])
    return found


def wide(folder: Path) -> Path:
    """A model of characters whose heads vLLM computes on a CPU."""
    tiny.model(head_dim=32).save_pretrained(folder / "wide")
    tiny.tokenizer().save_pretrained(folder / "wide")
    return folder / "wide"


def checkpoints(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in folder.glob("run/checkpoints/step-*")]


@pytest.mark.parametrize(
    "served",
    [
        "a stand-in",
        pytest.param("vLLM", marks=pytest.mark.skipif(not PYTHON, reason="WINNOW_VLLM_PYTHON")),
    ],
)
def test_a_server_a_host_and_the_command_are_lost(
    switch, head, cluster, tmp_path, tiny_model, served
) -> None:
    """In turn: the run goes on; it is resumed with a host that comes instead; nothing is left."""
    real = served == "vLLM"
    laid_out(tmp_path, wide(tmp_path) if real else tiny_model, steps=LONG, servers=True)
    more = [word for one in REAL for word in ("--set", one)] if real else []
    log = tmp_path / "run/actors/learner-0.log"
    second = switch.add()
    for host in (head, second):
        cluster.add(host, learner=1, server=1)
    everywhere = [head, second]
    sent = ("--set", f"engine.transfer_dir={json.dumps(str(tmp_path / 'sent'))}")
    with started(tmp_path, *RUN, *sent, *more, "--ray", cluster.address, host=head) as run:
        run.waits("no steps", lambda: rows(tmp_path) >= 2)
        at = spread(run, everywhere)

        victim = run.servers()[0]
        os.kill(victim, signal.SIGKILL)
        run.waits("not back", lambda: " is back\n" in log.read_text())
        made = rows(tmp_path)
        run.waits("no further steps", lambda: rows(tmp_path) >= made + 3)
        assert "attempt" not in log.read_text()
        spread(run, everywhere)

        second.close()
        third = switch.add()
        cluster.add(third, learner=1, server=1)
        made = rows(tmp_path)
        run.waits("not resumed", lambda: rows(tmp_path) >= made + 3)
        everywhere = [head, third]
        at |= spread(run, everywhere)

        run.signal(signal.SIGKILL)
        said = run.finished()[1]
        waits("processes are left", lambda: not run.processes())
        for host in everywhere:
            assert not host.listened() & {port for _, port in at.values()}
    assert said.count("; attempt 2 of 3 resumes") == 1, said
    print(said)
    metrics = Run(tmp_path / "run").metrics
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    for row in metrics:
        groups = Run(tmp_path / "run").samples(row["step"], "train")
        versions = {sample.policy_version for group in groups for sample in group.samples}
        assert versions == {row["policy_version"] - row["updates"]}


def spread(run: Started, among: list[Host]) -> dict[int, tuple[str, int]]:
    """What `met_at` says, with a rank and a server on each host, that listen at its address."""
    at, ranks, servers = met_at(run), run.ranks(), run.servers()
    for these in (list(ranks.values()), servers):
        assert [sum(host.has(number) for number in these) for host in among] == [1, 1]
    for number in (ranks[0], *servers):
        address, port = at[number]
        (host,) = (one for one in among if one.has(number))
        assert address == host.address
        assert port in host.listened()
    assert at[ranks[1]] == at[ranks[0]]
    return at


def test_weights_have_to_be_where_all_see_them(switch, head, cluster, tmp_path, tiny_model) -> None:
    """The memory of one host, the default, is not what another has at that path."""
    laid_out(tmp_path, tiny_model, steps=1, servers=True)
    cluster.add(head, learner=2, server=1)
    cluster.add(switch.add(), server=1)
    with started(tmp_path, *RUN, "--ray", cluster.address, host=head) as run:
        code, said = run.finished()
    assert code == 2
    assert said.startswith("winnow: engine.transfer_dir: is missing, and servers are on other mach")


def test_the_host_of_rank_0_is_lost(switch, head, cluster, tmp_path, tiny_model) -> None:
    """Its lock is of another machine than the command's; what is resumed ends bit for bit alike."""
    laid_out(tmp_path, tiny_model, steps=40)
    cluster.add(head)
    others = [switch.add(), switch.add()]
    for host in others:
        cluster.add(host, learner=1)
    with started(tmp_path, *RUN, "--ray", cluster.address, host=head) as run:
        run.waits("no checkpoint", lambda: 4 in checkpoints(tmp_path))
        first = run.ranks()[0]
        (lost,) = (host for host in others if host.has(first))
        lost.close()
        cluster.add(switch.add(), learner=1)
        code, said = run.finished()
        waits("processes are left", lambda: not run.processes())
    assert code == 0, said
    assert "winnow: rank 0 is lost: its " in said, said  # Ray knows of the node, or not yet
    assert "; attempt 2 of 3 resumes" in said
    assert test_torchrun.finished(2, tmp_path, "train", "recipe.toml", "--out", "other")[0] == 0
    same(tmp_path / "run", tmp_path / "other", 40)
