"""`winnow sample` from servers that do what they should not: right samples, or one line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.fake_server import FakeServer, prompt_of
from tests.torture.servers import FATAL, HANGS, HARMLESS, KEY, NOTED, PASSING, steady
from tests.torture.table import Outcome, Row, Tally
from tests.torture.watch import modest
from winnow.cli import main
from winnow.engines.server.sampler import ServerSampler

pytest.importorskip("openai", reason="sampling from a server needs openai: winnow-rl[server]")

MOST_BYTES = 64 * 2**20
SAME = ("prompt_id", "text", "reward")
Samples = list[dict[str, Any]]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Command:
    """`winnow sample` with these words: its exit code and all that it said, fit to show."""
    import openai  # noqa: F401  (its import is not the run's memory)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setitem(ServerSampler.__init__.__kwdefaults__, "backoff", 0.001)
    rows = [json.dumps({"prompt": f"p{n}", "answer": str(n)}) for n in range(4)]
    Path("prompts.jsonl").write_text("\n".join(rows))

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["winnow", "sample", *words])
        with modest(MOST_BYTES, 90), pytest.raises(SystemExit) as end:
            main.main()
        said = capsys.readouterr()
        shown = said.out + said.err
        assert "Traceback" not in shown
        assert not any(KEY[at : at + 6] in shown for at in range(len(KEY) - 5)), shown
        assert shown.replace("\n", "").isprintable(), shown
        code = end.value.code
        assert isinstance(code, int)
        if code:
            assert said.err.splitlines()[-1].startswith("winnow: engine.url: "), said.err
            assert len(said.err.splitlines()[-1]) < 1000
            assert "winnow: " not in "\n".join(said.err.splitlines()[:-1])
        return code, shown

    return run


def first(server: FakeServer, api: str, out: str, timeout: float = 20.0) -> list[str]:
    """The words of a command that asks for three prompts' samples, one request after the other."""
    settings = {
        "engine.sampler": "openai",
        "engine.url": server.url,
        "engine.served_model": "m",
        "engine.api": api,
        "engine.key_env": "MY_KEY",
        "engine.concurrency": 1,
        "engine.retries": 2,
        "engine.timeout": timeout,
        "prompts.source": "prompts.jsonl",
        "eval.size": 1,
        "prompts.chat": str(api == "chat").lower(),
        "reward": "exact",
        "samples_per_prompt": 2,
        "sampling.max_tokens": 16,
        "sampling.stop": "[]",
    }
    pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [*pairs, "--out", out]


def samples(folder: str) -> Samples:
    found = pq.read_table(f"{folder}/samples").to_pylist()
    return sorted(found, key=lambda row: (row["prompt_id"], row["sample"]))


def kept(rows: Samples) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in SAME) for row in rows]


def good(command: Command, api: str) -> Samples:
    with FakeServer(default=steady) as server:
        code, said = command(*first(server, api, "good"))
    assert code == 0, said
    return samples("good")


APIS = pytest.mark.parametrize("api", ["completions", "chat"])


def check_harmless(name: str, api: str, command: Command, tally: Tally) -> None:
    with FakeServer(default=HARMLESS[name]) as server, tally.trial(Row.SERVERS, Outcome.UNHARMED):
        code, said = command(*first(server, api, "out"))
        assert code == 0, said
        assert samples("out") == good(command, api)


def check_noted(name: str, api: str, command: Command, tally: Tally) -> None:
    behaviour, note = NOTED[name]
    with FakeServer(default=behaviour) as server, tally.trial(Row.SERVERS, Outcome.TOLD):
        code, said = command(*first(server, api, "out"))
        assert code == 0, said
        assert len(re.findall(note, " ".join(said.split()))) == 1, said
        assert kept(samples("out")) == kept(good(command, api))


def check_for_a_while(name: str, api: str, command: Command, tally: Tally) -> None:
    bad = PASSING[name][0]
    timeout = 1.0 if name in HANGS else 20.0
    script = [steady, bad, bad]
    with FakeServer(script, steady) as server, tally.trial(Row.SERVERS, Outcome.UNHARMED):
        code, said = command(*first(server, api, "out", timeout))
        assert code == 0, said
        assert server.script == []
        assert re.search("[1-9] requests? retried", said), said
        assert samples("out") == good(command, api)


def check_for_ever(name: str, api: str, command: Command, tally: Tally) -> None:
    """What was sampled is kept, and the rest comes once the server is well."""
    bad, told = {**PASSING, **FATAL}[name]
    timeout = 1.0 if name in HANGS else 20.0
    with FakeServer([steady], bad) as server, tally.trial(Row.SERVERS, Outcome.TOLD):
        code, said = command(*first(server, api, "out", timeout))
        assert code == 2, said
        assert re.search(told, said.splitlines()[-1]), said
        assert "what was sampled is kept: 2 samples" in said
        server.default, before = steady, len(server.asked)
        code, said = command("--resume", "out")
        assert code == 0, said
        asked = [prompt_of(body) for body in server.asked]
        assert asked[0] not in asked[before:], asked
        assert samples("out") == good(command, api)


@pytest.mark.torture
@APIS
@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_no_harm(name, api, command, tally):
    check_harmless(name, api, command, tally)


@pytest.mark.torture
@APIS
@pytest.mark.parametrize("name", NOTED)
def test_what_a_note_tells(name, api, command, tally):
    check_noted(name, api, command, tally)


@pytest.mark.torture
@APIS
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_leaves_no_trace(name, api, command, tally):
    check_for_a_while(name, api, command, tally)


@pytest.mark.torture
@APIS
@pytest.mark.parametrize("name", [*PASSING, *FATAL])
def test_what_stays_is_one_line_and_the_run_resumes(name, api, command, tally):
    check_for_ever(name, api, command, tally)


# in the suite


@pytest.mark.parametrize("name", ["UTF-16", "usage lying"])
def test_some_that_do_no_harm(name, command, tally):
    check_harmless(name, "chat", command, tally)


@pytest.mark.parametrize("name", ["log-probs NaN", "log-probs null", "another model"])
def test_some_that_a_note_tells(name, command, tally):
    check_noted(name, "completions", command, tally)


@pytest.mark.parametrize("name", ["429, Retry-After in no year", "a reset"])
def test_some_that_pass(name, command, tally):
    check_for_a_while(name, "completions", command, tally)


@pytest.mark.parametrize("name", ["5 GB", "404"])
def test_some_that_stay(name, command, tally):
    check_for_ever(name, "chat", command, tally)
