"""The engine that the settings name is the one that is made."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.fake_server import FakeServer
from winnow.config.schema import from_dict
from winnow.config.schema.engine import EngineConfig
from winnow.engines.factory import ENGINES, SAMPLERS, sampler_for
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.server.client import Server
from winnow.engines.server.sampler import ServerSampler
from winnow.errors import UserError
from winnow.reporting.observer import Observers
from winnow.types import Prompt

PROMPTS = [Prompt("p", "1+2=", "3")]


@pytest.mark.parametrize(("setting", "kinds"), [("sampler", SAMPLERS), ("learner", ENGINES)])
def test_every_kind_can_be_made(setting, kinds) -> None:
    assert kinds.keys() == set(get_args(EngineConfig.model_fields[setting].annotation))


def test_the_model_in_this_process(tiny_model) -> None:
    settings = {"model": str(tiny_model), "device": "cpu"}
    config = from_dict({**settings, "sampling": {"max_tokens": 8}})
    made = sampler_for(config, PROMPTS, Observers())
    assert isinstance(made, LocalSampler)
    assert made.device == "cpu"
    with pytest.raises(UserError, match=r"^prompts: prompt 'p' has 4 tokens and leaves no room"):
        sampler_for(from_dict(settings), PROMPTS, Observers())


def test_a_server_and_how_to_ask_it(monkeypatch) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("MY_KEY", "a-key")
    how = {
        "api": "chat",
        "concurrency": 3,
        "requests_per_minute": 600.0,
        "timeout": 9.0,
        "retries": 2,
        "key_env": "MY_KEY",
    }
    with FakeServer() as server:
        at = {"sampler": "openai", "url": server.url}
        config = from_dict({"model": "m", "engine": {**at, "served_model": "other", **how}})
        made = sampler_for(config, PROMPTS, Observers())
        assert isinstance(made, ServerSampler)
        assert made.server == Server(server.url, "other", **how)
        assert server.paths == ["/v1/models"]  # it was looked for
        made = sampler_for(from_dict({"model": "m", "engine": at}), PROMPTS, Observers())
        assert isinstance(made, ServerSampler)
        assert made.server.model == "m"
    assert made.device == server.url
