"""Who sits where, and how each process knows it: without Ray."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import asdict
from itertools import pairwise, permutations
from pathlib import Path

import pytest

from tests.engines.ray import nodes
from tests.test_architecture import TREES, imports
from winnow.config.schema import from_dict
from winnow.engines.ray import driver
from winnow.engines.ray.child import Child
from winnow.engines.ray.placement import (
    _OF_A_MACHINE,
    Seat,
    behind,
    bundles,
    by_node,
    carried,
    door,
    environments,
    of_child,
    total,
)
from winnow.engines.ray.servers import Placed, starter
from winnow.errors import UserError
from winnow.storage.lock import LOCK, Holder, alone, forsaken

VLLM = {"sampler": "vllm", "servers": 3, "vllm_python": "python"}


def config(ray=None, **engine):
    return from_dict({"ray": ray or {}, "engine": engine})


class TestBundles:
    def test_defaults(self) -> None:
        one, two = {"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}
        assert bundles(config({"ranks": 2}, learner="fsdp"), False) == ([one, one], [])
        assert bundles(config({"ranks": 2}, learner="fsdp"), True) == ([two, two], [])
        assert bundles(config(**VLLM), True) == ([two], [two] * 3)
        own = {"learner": {"CPU": 4.0}, "server": {"GPU": 2.0, "big": 1.0}}
        learners, servers = bundles(config(own, **VLLM), True)
        assert total([*learners, *servers]) == {"CPU": 4.0, "GPU": 6.0, "big": 3.0}

    def test_a_learner_of_one_process(self) -> None:
        with pytest.raises(UserError, match=r"^ray.ranks: asks for 2 processes, and engine.learn"):
            bundles(config({"ranks": 2}), True)

    @pytest.mark.parametrize(
        ("own", "told"),
        [
            (
                {"learner": {"GPU": 2.0}},
                "ray.learner: gives a learner process 2 GPUs, and it uses one or none",
            ),
            ({"learner": {"CPU": 1.5}}, "ray.learner: has CPU = 1.5, and above 1 Ray counts"),
            ({"server": {"CPU": 0.0}}, "ray.server: asks for nothing; give it"),
        ],
    )
    def test_what_cannot_be_had(self, own, told) -> None:
        with pytest.raises(UserError) as caught:
            config(own)
        assert str(caught.value).startswith(told)


class TestRanks:
    def test_a_node_is_in_one_piece_however_its_bundles_are_numbered(self) -> None:
        for given in set(permutations("aabbc")):
            order = by_node(dict(enumerate(given)), range(5))
            nodes_in_order = [given[bundle] for bundle in order]
            changes = sum(a != b for a, b in pairwise(nodes_in_order))
            assert changes == 2
            assert sorted(order) == list(range(5))
            assert order[0] == 0

    def test_the_variables_are_those_of_torchrun(self) -> None:
        """Of `torchrun --nnodes 2` with two processes on the first and one on the second node."""
        first = [Seat("a", "10.0.0.1", (gpu,)) for gpu in ("3", "1")]
        seats = [*first, Seat("b", "10.0.0.2")]
        made = environments(seats, 4711)
        assert [one["RANK"] for one in made] == ["0", "1", "2"]
        assert [one["LOCAL_RANK"] for one in made] == ["0", "1", "0"]
        assert [one["LOCAL_WORLD_SIZE"] for one in made] == ["2", "2", "1"]
        assert {one["WORLD_SIZE"] for one in made} == {"3"}
        assert {(one["MASTER_ADDR"], one["MASTER_PORT"]) for one in made} == {("10.0.0.1", "4711")}
        # LOCAL_RANK counts among the GPUs that are visible: each finds the one that it was given.
        for seat, own in zip(seats[:2], made, strict=False):
            visible = own["CUDA_VISIBLE_DEVICES"].split(",")
            assert visible[int(own["LOCAL_RANK"])] == seat.gpus[0]
        assert "CUDA_VISIBLE_DEVICES" not in made[2]

    def test_one_process_is_by_itself(self) -> None:
        assert environments([Seat("a", "x")], 1) == [{}]

    def test_what_travels(self, monkeypatch) -> None:
        """The command's variables, but not its GPUs, nor what Ray told it."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        command = carried({"A": "1", "RAY_AUTH_TOKEN": "secret", "CUDA_VISIBLE_DEVICES": "0"})
        assert command == {"A": "1"}
        assert of_child(command, {"RANK": "1"}) == {
            **{name: os.environ[name] for name in _OF_A_MACHINE if name in os.environ},
            "CUDA_VISIBLE_DEVICES": "7",
            "A": "1",
            "RANK": "1",
        }


class TestChild:
    def child(self, tmp_path: Path, code: str) -> Child:
        command = [sys.executable, "-c", code]
        return Child(command, dict(os.environ), tmp_path, tmp_path / "run", "learner-0")

    def test_its_output_is_told_and_kept_once_the_run_has_begun(self, tmp_path) -> None:
        code = "import os, sys; print('one', flush=True); sys.stdin.read(); os.mkdir('run')\n"
        code += "open('run/config.toml', 'w'); sys.stderr.write('two'); sys.exit(3)"
        child = self.child(tmp_path, code)
        said = b""
        while text := child.said():
            said += text
        assert said == b"one\ntwo"
        assert child.wait() == 3
        child.close()
        assert (tmp_path / "run/actors/learner-0.log").read_bytes() == said

    def test_no_folder_is_made_for_a_run_that_does_not_begin(self, tmp_path) -> None:
        child = self.child(tmp_path, "print('no')")
        assert (child.wait(), child.said()) == (0, b"no\n")
        child.close()
        assert not (tmp_path / "run").exists()

    def test_signals_and_the_end(self, tmp_path) -> None:
        child = self.child(tmp_path, "import time; print(1, flush=True); time.sleep(600)")
        assert child.said().startswith(b"1")
        child.signal(signal.SIGKILL)
        assert child.wait() == 128 + signal.SIGKILL
        child.close()
        child = self.child(tmp_path, "import time; print(1, flush=True); time.sleep(600)")
        child.close()
        assert child.wait() == 128 + signal.SIGTERM

    def test_it_hears_ctrl_c_where_its_parent_does_not(self, tmp_path) -> None:
        """As workers of Ray do not."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            child = self.child(tmp_path, "import time; print(1, flush=True); time.sleep(600)")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child.said()
        child.signal(signal.SIGINT)
        said = b""
        while text := child.said():
            said += text
        assert b"KeyboardInterrupt" in said
        assert child.wait() == 128 + signal.SIGINT
        child.close()

    def test_it_ends_with_its_parent_even_where_children_of_that_are_killed_too(
        self, tmp_path
    ) -> None:
        """As Ray does with those of a worker that it ends."""
        code = (
            "import os, time\nfrom pathlib import Path\n"
            "from winnow.engines.ray.child import Child\n"
            f"child = Child(['sleep', '600'], dict(os.environ), Path({str(tmp_path)!r}), "
            f"Path({str(tmp_path)!r}), 'x')\n"
            "print(child.number, child._process.pid, flush=True)\ntime.sleep(600)\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(nodes.ROOT)},
        )
        assert parent.stdout is not None
        child, supervisor = map(int, parent.stdout.readline().split())
        os.kill(supervisor, signal.SIGKILL)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        nodes.waits("it lives on", lambda: not nodes.alive(child))


def test_rank_0_asks_for_servers_by_what_it_is_told() -> None:
    assert behind({}) is None
    assert behind(door(("127.0.0.1", 5), b"\1\2")) == (("127.0.0.1", 5), b"\1\2")


@pytest.mark.parametrize(("host", "free"), [("far", True), ("elsewhere", False)])
def test_a_lock_that_was_left_on_another_machine(tmp_path, monkeypatch, host, free) -> None:
    """That of rank 0, killed there, is no hindrance to the next attempt; another's is."""
    monkeypatch.setattr(driver, "_LETS_GO", 0.2)
    monkeypatch.setattr(driver, "_GIVES_UP", 1.0)
    left = Holder("far", 1, "another boot", "", "", "today")
    (tmp_path / LOCK).write_text(json.dumps(asdict(left)))
    with pytest.raises(UserError, match="may be writing"), alone(tmp_path):
        pass
    if free:
        driver._free(tmp_path, host)
        assert not (tmp_path / LOCK).exists()
    else:
        with pytest.raises(UserError, match="may be writing"):
            driver._free(tmp_path, host)


def test_a_lock_that_is_held_is_not_removed(tmp_path) -> None:
    with alone(tmp_path):
        assert not forsaken(tmp_path, platform.node())
        assert (tmp_path / LOCK).exists()


def test_why_an_actor_has_ended() -> None:
    """As Ray 2.60 words it; where there is Ray, test_kills.py and test_hosts.py see it worded."""

    class OutOfMemoryError(Exception):
        """By this name Ray's is known."""

    class ActorUnavailableError(Exception):
        """Likewise."""

    died = "The actor died unexpectedly before finishing this task. "
    assert driver._gone(Exception(died)) == "its actor is gone"
    died += "The actor died because its node has died. Node Id: 5a"
    assert driver._gone(Exception(died)) == "its node is gone"
    assert driver._gone(ActorUnavailableError("keepalive")) == "its actor does not answer"
    assert "memory" in driver._gone(OutOfMemoryError("2 worker(s) were killed"))


class Slow(Placed):
    """Servers that Ray has not started yet."""

    def __init__(self) -> None:
        super().__init__(())
        self.asked = 0

    def start(self, number, plan, model) -> None:
        if number == 1:
            raise RuntimeError("Ray has given up its actor")

    def url(self, number):
        self.asked += 1
        return None if self.asked < 3 else "http://10.0.0.2:8000"

    def ended(self, number):
        return 137

    def close(self, number) -> None:
        raise OSError("gone")


def test_a_server_elsewhere_is_as_one_here() -> None:
    """Through the door between two processes, here two threads."""
    from types import SimpleNamespace
    from typing import Any

    from winnow.engines.vllm.delivery import Missed

    placed = Slow()
    start = starter(*placed.opened())
    plan: Any = None
    delivery: Any = SimpleNamespace(timeout=60.0, model=Path("m"))
    made = start(plan, 0, delivery, lambda: True)
    assert (made.url, made.ended, placed.asked) == ("http://10.0.0.2:8000", 137, 3)
    made.close()
    with pytest.raises(Missed, match="given up its actor"):
        start(plan, 1, delivery, lambda: True)
    placed.asked = -1000
    with pytest.raises(Missed, match="not wanted any more"):
        start(plan, 0, delivery, lambda: False)
    with pytest.raises(Missed, match=r"not there after 0\.3 seconds"):
        start(plan, 0, SimpleNamespace(timeout=0.3, model=Path("m")), lambda: True)


def test_no_module_imports_ray() -> None:
    """Functions do, which are called with --ray alone."""
    at_once = {name: imports(tree, inside_functions=False) for name, tree in TREES.items()}
    assert not [name for name, found in at_once.items() if "ray" in found]
    assert "ray" in imports(TREES["winnow.engines.ray.cluster"])


def test_training_needs_no_ray(tiny_model, tmp_path) -> None:
    """With learner and sampler of its own, where importing Ray fails."""
    nodes.laid_out(tmp_path, tiny_model, steps=1)
    code = "import sys; sys.modules['ray'] = None; from winnow.cli.main import main; main()"
    words = ["train", "recipe.toml", "--out", "run"]
    for more, exit_code in (([], 0), (["--resume", "run", "--ray", "local"], 2)):
        given = [sys.executable, "-c", code, *((more and ["train", *more]) or words)]
        environment = {**os.environ, "PYTHONPATH": str(nodes.ROOT)}
        done = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == exit_code, done.stderr
    assert done.stderr.startswith("winnow: --ray: Ray is not installed; pip install '.[ray]'")
