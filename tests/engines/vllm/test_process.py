"""Servers that Winnow starts: they are there when they should be, and gone when it is."""

from __future__ import annotations

import gc
import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import winnow
from tests.engines.vllm import given
from tests.engines.vllm.given import soon
from tests.training.test_fake_engine import SETTINGS, files
from winnow.config.schema import from_dict
from winnow.engines import factory
from winnow.engines.vllm import sampler as sampler_module
from winnow.engines.vllm.process import (
    Environment,
    Plan,
    Process,
    _command,
    _variables,
    environment_of,
)
from winnow.engines.vllm.setup import vllm_sampler
from winnow.errors import UserError
from winnow.training.loaded import Run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def python(tmp_path: Path) -> str:
    """Stands for the Python of an environment with vLLM; what it serves is the fake."""
    path = tmp_path / "python"
    path.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "if sys.argv[1] == '-c':\n"
        "    print('/nowhere'); print('numpy vllm')\n"
        "else:\n"
        f"    os.execv({sys.executable!r}, ['python', {str(ROOT / 'tests/fake_vllm.py')!r}, "
        "*sys.argv])\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def plan(python: str, **more) -> Plan:
    where = Environment(python, Path("/nowhere"), cpu=True)
    how = {"slots": 4, "memory": 0.9, "cache_gib": 1.0, "context": 0, "devices": []}
    return Plan(**{"where": where, "dtype": "float32", "arguments": [], **how, **more})


def runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class TestOneServer:
    def test_closing_ends_it(self, python, tmp_path) -> None:
        (tmp_path / "v" / "logits.json").parent.mkdir()
        (tmp_path / "v" / "logits.json").write_text("[0]")
        process = Process(plan(python, folder=tmp_path / "logs"), 0, tmp_path / "v")
        assert process.ended is None
        process.close()
        assert not runs(process.group)
        assert (tmp_path / "v").is_dir()

    def test_one_that_fails_says_why(self, python, tmp_path) -> None:
        process = Process(plan(python, folder=tmp_path / "logs"), 0, tmp_path / "missing")
        assert soon(lambda: process.ended is not None)
        assert "No such file" in process.last_words()
        assert not runs(process.group)
        process.close()

    def test_why_is_not_what_an_earlier_one_said(self, python, tmp_path) -> None:
        log = tmp_path / "logs" / "server-0.log"
        log.parent.mkdir()
        log.write_text("ValueError: of yesterday\n")
        process = Process(plan(python, folder=log.parent), 0, tmp_path / "missing")
        assert soon(lambda: process.ended is not None)
        assert "No such file" in process.last_words()
        process.close()
        again = Process(plan(python, folder=log.parent), 0, tmp_path / "missing")
        assert "yesterday" not in again.last_words()
        again.close()
        assert log.read_text().startswith("ValueError: of yesterday")

    def test_it_is_none_of_the_processes_of_torchrun(self, python, tmp_path, monkeypatch) -> None:
        """Else torch waits in the server for the others, at the port of those that learn."""
        launcher = ["RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_PORT"]
        launcher += ["WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"]
        for name in [*launcher, "TORCHELASTIC_USE_AGENT_STORE", "TORCH_HOME"]:
            monkeypatch.setenv(name, "1")
        process = Process(plan(python, folder=tmp_path / "logs"), 0, tmp_path / "missing")
        told = Path(f"/proc/{process._supervisor.pid}/environ").read_text().split("\0")
        process.close()
        names = {word.partition("=")[0] for word in told}
        assert "TORCH_HOME" in names
        assert not names & {*launcher, "TORCHELASTIC_USE_AGENT_STORE"}

    @pytest.mark.parametrize("whom", ["winnow", "supervisor"])
    def test_kill_dash_nine_leaves_none(self, whom, python, tmp_path) -> None:
        """Of Winnow itself, when the weights on their way go too; or of what watches over it."""
        sent = tmp_path / "sent"
        (sent / "v").mkdir(parents=True)
        (sent / "v" / "logits.json").write_text("[0]")
        code = (
            "import time\n"
            "from pathlib import Path\n"
            "from winnow.engines.vllm.process import Environment, Plan, Process\n"
            f"where = Environment({python!r}, Path('/nowhere'), True)\n"
            "plan = Plan(where, 'float32', 4, 0.9, 1.0, 0, (), ())\n"
            f"process = Process(plan, 0, Path({str(sent / 'v')!r}))\n"
            "print(process.group, process._supervisor.pid, flush=True)\n"
            "while process.ended is None: time.sleep(0.05)\n"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert parent.stdout is not None
        group, supervisor = map(int, parent.stdout.readline().split())
        assert runs(group)
        os.kill({"winnow": parent.pid, "supervisor": supervisor}[whom], signal.SIGKILL)
        parent.wait(20)
        parent.stdout.close()
        assert soon(lambda: not runs(group))
        assert whom == "supervisor" or soon(lambda: not sent.exists())

    def test_a_python_without_vllm(self) -> None:
        with pytest.raises(UserError, match=r"^engine.vllm_python: .* has no vLLM; install it"):
            environment_of(sys.executable)
        with pytest.raises(UserError, match=r"^engine.vllm_python: cannot run /no/python: No such"):
            environment_of("/no/python")


class TestCommand:
    def test_on_a_gpu(self) -> None:
        made = plan("py", rank=12, memory=0.4, devices=["0", "2,3"], context=99, arguments=["--x"])
        made = Plan(**{**vars(made), "where": Environment("py", Path("/env"), cpu=False)})
        command = " ".join(_command(made, Path("/m"), 8123))
        assert "--gpu-memory-utilization 0.4" in command
        assert "--max-lora-rank 16" in command
        assert "--max-model-len 99" in command
        assert command.endswith("--enable-scale-out --disable-uvicorn-access-log --enable-lora --x")
        assert _variables(made, 1)["CUDA_VISIBLE_DEVICES"] == "2,3"
        assert "CUDA_VISIBLE_DEVICES" not in _variables(made, 2)

    def test_on_a_cpu(self) -> None:
        said = _variables(plan("py", devices=["0-2,5"], cache_gib=1.5), 0)
        assert (said["VLLM_CPU_OMP_THREADS_BIND"], said["OMP_NUM_THREADS"]) == ("0-2,5", "4")
        assert said["VLLM_CPU_KVCACHE_SPACE"] == "2"
        assert "LD_PRELOAD" not in said  # there is no such file
        command = _command(plan("py"), Path("/m"), 8123)
        assert "--no-enable-chunked-prefill" in command


class TestRuns:
    """The same recipe, with servers that die on the way."""

    @pytest.fixture
    def settings(self, python, tmp_path, monkeypatch):
        kind = factory.Kind(given.Engine, lambda *_: None)
        monkeypatch.setitem(factory.ENGINES, "local", kind)
        monkeypatch.setattr(sampler_module, "reader_of", given.reader())
        engine = {"sampler": "vllm", "servers": 2, "vllm_python": python}
        engine |= {"transfer_dir": str(tmp_path / "sent"), "timeout": 20.0}
        sampling = {"max_tokens": 1}
        return {**SETTINGS, **files(tmp_path), "engine": engine, "sampling": sampling}

    def test_training(self, settings, tmp_path) -> None:
        settings["engine"]["vllm_args"] = ["--die-after", "150"]
        result = winnow.train(**settings, out=tmp_path / "run", quiet=True)
        assert result.after > 0.9
        steps = result.run.metrics
        assert len(steps) == 8
        versions = [
            {s.policy_version for g in result.run.samples(row["step"], "train") for s in g.samples}
            for row in steps
        ]
        assert versions == [{row["policy_version"] - row["updates"]} for row in steps]
        told = ("servers_failed", "servers_back", "requests_resent")
        failed, back, resent = (sum(row[name] for row in steps) for name in told)
        assert 0 < back <= failed <= resent
        gc.collect()  # the fake engine is in a circle of references
        assert not list((tmp_path / "sent").iterdir())

    def test_one_that_is_killed_while_it_starts_is_started_anew(self, settings, tmp_path) -> None:
        settings["engine"] |= {"servers": 1, "vllm_args": ["--killed-once", str(tmp_path / "was")]}
        settings |= {"steps": 2}
        result = winnow.train(**settings, out=tmp_path / "run", quiet=True)
        assert (tmp_path / "was").exists()
        assert len(result.run.metrics) == 2
        failed = sum(row["servers_failed"] for row in result.run.metrics)
        back = sum(row["servers_back"] for row in result.run.metrics)
        assert (failed, back) == (1, 0)  # it had not taken part before

    def test_one_whose_command_fails_is_given_up_at_once(self, settings, tmp_path) -> None:
        settings["engine"] |= {"servers": 1, "vllm_args": ["--die-after", "nonsense"]}
        with pytest.raises(winnow.WinnowError, match=r"server 0: it ended with exit code 1: Value"):
            winnow.train(**settings, out=tmp_path / "run", quiet=True)

    def test_commands_use_the_same_pool(self, settings, tmp_path) -> None:
        found = winnow.sample(**settings, out=tmp_path / "pool", quiet=True)
        assert found.sampled.made == 8 * 8
        assert sorted(path.name for path in (tmp_path / "pool" / "servers").iterdir()) == [
            "server-0.log",
            "server-1.log",
        ]

    def test_evaluation_samples_from_the_pool(self, settings, tmp_path) -> None:
        found = winnow.evaluate(**settings, out=tmp_path / "eval", quiet=True)
        assert (found.prompts, found.samples) == (4, 32)
        groups = list(Run(tmp_path / "eval").samples(0, "eval"))
        drawn = [sample for group in groups for sample in group.samples]
        assert [s.logprobs for s in drawn] == [pytest.approx((math.log(0.1),))] * 32
        assert {s.policy_version for s in drawn} == {0}
        logs = [path.name for path in sorted((tmp_path / "eval" / "servers").iterdir())]
        assert logs == ["server-0.log", "server-1.log"]

    def test_no_server_left_stops_a_run_that_is_saved(self, settings, tmp_path) -> None:
        settings["engine"]["servers"] = 1
        settings["engine"]["vllm_args"] = ["--die-after", "150"]
        settings |= {"eval": {"size": 0}, "steps": 200}
        with pytest.raises(winnow.WinnowError, match="no server is left to sample"):
            winnow.train(**settings, out=tmp_path / "run", quiet=True)
        assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, r"^engine.transfer: 'lora' sends adapters alone, and there are none; set lora.rank"),
        ({"lora": {"rank": 1024}}, r"^lora.rank: vLLM takes adapters of rank 512 at most"),
    ],
)
def test_adapters_that_cannot_travel_are_refused(python, more, told) -> None:
    own = {"sampler": "vllm", "servers": 1, "vllm_python": python, "transfer": "lora"}
    with pytest.raises(UserError, match=told):
        vllm_sampler(from_dict({"engine": own, **more}), None, None, print)
