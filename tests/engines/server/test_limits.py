"""What a server cannot do: fill the memory, lead elsewhere, show the key, write to the terminal."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from typing import Any

import pytest

from tests.engines.server.test_sampler import everything_said, request, sampled, sampler
from tests.fake_server import FakeServer, Reply, answer, fine, says, status
from winnow.engines.server.quoting import quoted
from winnow.errors import UserError

KEY = "sk-proj-Zq7Wv1Nx4Rb9Tc2Ky6"


def error_of(server: FakeServer, **how: Any) -> UserError:
    sampling = sampler(server, retries=0, **how)
    with pytest.raises(UserError) as caught:
        sampled(sampling, request(n=2, max_tokens=16))
    return caught.value


# how much


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("api", ["completions", "chat"])
def test_an_answer_is_as_long_as_its_tokens_need_at_most(extra: int, api: str) -> None:
    """1 MiB, and 1 KiB for each of 2 x 16 tokens; JSON may end in spaces."""
    most = 2**20 + 2 * 16 * 2**10

    def padded(server: FakeServer, body: dict[str, Any]) -> Reply:
        text = json.dumps(answer(body, ["a b", "c d"]).body)
        return Reply(text + " " * (most + extra - len(text)))

    with FakeServer(default=padded) as server:
        if extra:
            error = error_of(server, api=api)
            assert f"its answer is longer than {most} bytes" in str(error)
        else:
            (group,) = sampled(sampler(server, api=api), request(n=2, max_tokens=16))
            assert [sample.text for sample in group.samples] == ["a b", "c d"]


@pytest.mark.parametrize("number", [200, 400, 500])
def test_a_compressed_answer_is_not_unpacked(number: int) -> None:
    bomb = Reply(gzip.compress(b" " * 2**27), number, {"Content-Encoding": "gzip"})
    with FakeServer(default=says(bomb)) as server:
        tracemalloc.start()
        error = error_of(server)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert server.encodings == ["identity"]
    assert "its answer is compressed (gzip), which was not asked for" in str(error)
    assert peak < 2**25  # of 2**27


@pytest.mark.parametrize("number", [400, 500])
def test_a_long_error_is_not_read_whole(number: int) -> None:
    with FakeServer(default=status(number, "x" * 2**21)) as server:
        assert "its answer is longer than" in str(error_of(server))


def test_a_long_list_of_models_is_a_server_too() -> None:
    with FakeServer() as server:
        server.models = Reply("x" * 2**21)
        sampler(server).check()


# where to


@pytest.mark.parametrize("number", [301, 302, 307, 308])
def test_no_redirect_is_followed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with FakeServer() as other, FakeServer() as server:
        away = Reply("", number, {"Location": f"{other.url}/completions?key={KEY}"})
        server.default, server.models = says(away), away
        error = error_of(server, key_env="MY_KEY")
        with pytest.raises(UserError, match="redirects to"):
            sampler(server, key_env="MY_KEY").check()
    assert other.paths == []
    assert len(server.asked) == 1
    assert f"redirects to {other.url}/completions?key=(key) ({number})" in str(error)
    assert KEY not in everything_said(error)


# what it says


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"bad key {KEY}!", "bad key (key)!"),
        (f"bad key {KEY[:9]}", "bad key (key)"),
        (f"bad key ending in {KEY[-6:]}.", "bad key ending in (key)."),
        (f"bad key {KEY[3:12]}-{KEY[5:11]}", "bad key (key)-(key)"),
        (f"Incorrect API key provided: sk-pr{'*' * 30}2Ky6. See", "provided: (key) See"),
        (f"the key {KEY[:4]}...{KEY[-4:]} is", "the key (key) is"),
        (f"the key …{KEY[-3:]} is", "the key (key) is"),
        ("max_completion_tokens: wait...", "max_completion_tokens: wait..."),
        (f"{'x' * 299}{KEY}", "x" * 299 + "…"),
    ],
)
def test_no_part_of_the_key_is_quoted(said: str, shown: str) -> None:
    line = quoted(said, KEY)
    assert line.endswith(shown)
    assert len(line) <= 300
    assert not any(KEY[at : at + 6] in line for at in range(len(KEY) - 5))


def test_a_short_key_is_masked_as_a_whole() -> None:
    assert quoted("is abc12 a key? abc1 is not", "abc12") == "is (key) a key? abc1 is not"
    assert quoted("is abc12 a key?", None) == "is abc12 a key?"


def test_control_characters_of_a_server_are_escaped() -> None:
    words = "\x1b]0;title\x07\x1b[31mred\x1b[2K\r\nfine\x9b1m\u202eback"
    with FakeServer(default=status(400, words)) as server:
        error = error_of(server)
    assert str(error).isprintable()
    assert r"400 \x1b]0;title\x07\x1b[31mred\x1b[2K fine\x9b1m\u202eback" in str(error)


def test_what_a_redirect_says_is_escaped_too() -> None:
    away = Reply("", 307, {"Location": "http://a/\x1b[31m"})
    with FakeServer([says(away)], default=fine) as server:
        assert str(error_of(server)).isprintable()
