"""`winnow eval`: what it records of a model that a server holds."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

import winnow
from tests import tiny
from tests.fake_server import FakeServer


def test_samples_of_a_server_name_the_servers_model(tmp_path) -> None:
    pytest.importorskip("openai")
    with FakeServer() as server:
        result = winnow.evaluate(
            model="mine",
            engine={"sampler": "openai", "url": server.url, "served_model": "theirs"},
            prompts=tiny.problems()[:3],
            reward="exact",
            out=tmp_path / "run",
            quiet=True,
        )
        assert {body["model"] for body in server.asked} == {"theirs"}
    assert result.samples == 3
    assert set(pq.read_table(tmp_path / "run/rollouts")["model"].to_pylist()) == {"theirs"}
