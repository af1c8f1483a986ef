"""`winnow sample` from a server: what it asks for, and what it records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import winnow
from tests import tiny
from tests.fake_server import FakeServer, status
from winnow.errors import UserError, notes


def test_the_servers_name_of_the_model_is_asked_for_and_recorded(tmp_path, monkeypatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.chdir(tmp_path)
    with FakeServer() as server:
        made = winnow.sample(
            model="mine",
            engine={"sampler": "openai", "url": server.url, "served_model": "theirs"},
            prompts=tiny.problems()[:3],
            reward="exact",
            n=4,
            out="a",
            quiet=True,
        )
        assert made.sampled.made == sum(body.get("n", 1) for body in server.asked) == 12
        assert {body["model"] for body in server.asked} == {"theirs"}
        environment = json.loads((tmp_path / "a" / "environment.json").read_text())
        assert environment["device"] == server.url
    assert set(pq.read_table("a/samples")["model"].to_pylist()) == {"theirs"}


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_conversations_for_another_endpoint_leave_nothing(command, tmp_path, monkeypatch) -> None:
    """Before a server is asked: nobody listens there."""
    monkeypatch.chdir(tmp_path)
    talk = [{"role": "user", "content": "1 + 1 ="}]
    with pytest.raises(UserError, match=r"^engine\.api: .*; set engine\.api = 'chat'$") as caught:
        getattr(winnow, command)(
            engine={"sampler": "openai", "url": "http://127.0.0.1:9/v1"},
            prompts=[{"prompt": talk, "answer": "2"}],
            reward="exact",
            out="runs/a",
            quiet=True,
        )
    assert notes(caught.value) == []
    assert list(Path("runs").iterdir()) == []


def test_a_folder_without_a_sample_takes_other_settings(tmp_path, monkeypatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.chdir(tmp_path)
    with FakeServer() as server:
        server.default, fine = status(404, "no such model"), server.default
        how = {"engine": {"sampler": "openai", "url": server.url, "served_model": "theirs"}}
        with pytest.raises(UserError, match=r"fix engine\.url") as caught:
            winnow.sample(**how, prompts=tiny.problems()[:3], reward="exact", out="a", quiet=True)
        assert notes(caught.value) == ["resume: winnow sample --resume a"]
        server.default = fine
        edit("theirs", "ours")
        assert winnow.sample(resume="a", quiet=True).sampled.made == 24
        edit("ours", "theirs")
        with pytest.raises(UserError, match=r"begun with other settings .*served_model"):
            winnow.sample(resume="a", quiet=True)


def edit(old: str, new: str) -> None:
    path = Path("a/config.toml")
    text, times = re.subn(
        f'^served_model = "{old}"$', f'served_model = "{new}"', path.read_text(), flags=re.M
    )
    assert times == 1
    path.write_text(text)
