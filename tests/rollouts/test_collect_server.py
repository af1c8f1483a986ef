"""`winnow sample` from a server: what it asks for, and what it records."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

import winnow
from tests import tiny
from tests.fake_server import FakeServer


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
