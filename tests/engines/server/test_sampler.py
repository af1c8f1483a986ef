"""Samples from a server: one that misbehaves to order, and `transformers serve`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tests.fake_server import (
    FakeServer,
    Reply,
    answer,
    choice,
    cut,
    fine,
    hang,
    one_choice,
    prompt_of,
    refuses,
    says,
    status,
    words,
)
from winnow.engines.base import Request, SamplingParams, WeightsRef
from winnow.engines.server.protocol import BadAnswer, Counts, read
from winnow.engines.server.sampler import Server, ServerSampler
from winnow.errors import UserError, WinnowError
from winnow.rollouts.generate import ask
from winnow.types import Group, Prompt

pytest.importorskip("openai", reason="sampling from a server needs openai: winnow-rl[server]")

SECRET = "sk-very-secret-0123456789"


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def sampler(server: FakeServer, clock: Clock | None = None, **settings: Any) -> ServerSampler:
    settings = {"url": server.url, "model": "m", "timeout": 20.0, "retries": 2, **settings}
    clock = clock or Clock()
    return ServerSampler(Server(**settings), clock=clock, sleep=clock.sleep)


def request(name: str = "p", n: int = 1, seed: int = 7, **params: Any) -> Request:
    return Request(Prompt(name, name), n, seed, SamplingParams(**params), step=3)


def sampled(sampling: ServerSampler, *requests: Request) -> list[Group]:
    """All groups, in the order of their requests."""
    found = dict(ask(sampling, requests))
    assert sorted(found) == list(range(len(requests)))
    return [found[place] for place in sorted(found)]


def until_the_error(sampling: ServerSampler, *requests: Request) -> tuple[list[Group], UserError]:
    groups: list[Group] = []
    try:
        groups.extend(group for _, group in ask(sampling, requests))
    except UserError as error:
        return groups, error
    raise AssertionError("no error")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not ours()


def ours() -> list[str]:
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name.startswith(("winnow", "asyncio"))]


# what is asked, and what becomes of the answer


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_groups_of_samples(api):
    with FakeServer() as server:
        sampling = sampler(server, api=api)
        groups = sampled(sampling, request("a", n=3), request("b", n=2))
    assert [len(group.samples) for group in groups] == [3, 2]
    assert [group.prompt.id for group in groups] == ["a", "b"]
    assert [d.text for d in groups[0].samples] == ["a 7 0", "a 7 1", "a 7 2"]
    for group in groups:
        assert group.prompt_ids == ()
        assert group.step == 3
        assert {(d.token_ids, d.logprobs, d.length, d.finish_reason) for d in group.samples} == {
            ((), (-0.5, -0.5, -0.5), 3, "eos")
        }
    assert sampling.notes() == []
    path = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}[api]
    assert server.paths == [path] * 2


def test_only_what_was_set_is_sent():
    with FakeServer() as server:
        sampled(sampler(server, logprobs=False), request("a", seed=2**40 + 5, max_tokens=9))
        sampled(
            sampler(server, api="chat"),
            request("a", n=2, temperature=0.5, top_p=0.9, top_k=4, stop=("\n", "#")),
        )
    plain, full = server.asked
    assert plain == {
        "model": "m",
        "prompt": "a",
        "temperature": 1.0,
        "max_tokens": 9,
        "top_p": 1.0,
        "seed": 5,
    }
    assert full == {
        "model": "m",
        "messages": [{"role": "user", "content": "a"}],
        "temperature": 0.5,
        "max_tokens": 256,
        "top_p": 0.9,
        "top_k": 4,
        "stop": ["\n", "#"],
        "n": 2,
        "seed": 7,
        "logprobs": True,
    }


def test_a_conversation_is_sent_to_the_chat_endpoint_alone():
    messages = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"})
    talk = Request(Prompt("a", "hi", messages=messages), 1, 0, SamplingParams())
    with FakeServer() as server:
        sampled(sampler(server, api="chat"), talk)
        with pytest.raises(UserError, match="api = 'chat'"):
            sampler(server).submit([request(), talk])
    assert [body["messages"] for body in server.asked] == [list(messages)]


def test_tool_calls_are_sent_in_the_protocols_own_form():
    """OpenAI's reference: the arguments of a call are JSON in a string; the rest goes as it is."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"city": "X"}}}
    asks = {"role": "assistant", "content": "", "tool_calls": [call]}
    told = {"role": "tool", "content": "12 C", "tool_call_id": "1"}
    talk = Request(
        Prompt("a", "12 C", messages=({"role": "user", "content": "Warm?"}, asks, told)),
        1,
        0,
        SamplingParams(),
    )
    with FakeServer() as server:
        sampled(sampler(server, api="chat"), talk)
    (body,) = server.asked
    assert body["messages"][2] == told
    sent = body["messages"][1]["tool_calls"][0]
    assert json.loads(sent["function"].pop("arguments")) == {"city": "X"}
    assert sent == {"id": "1", "type": "function", "function": {"name": "f"}}
    assert asks["tool_calls"][0]["function"]["arguments"] == {"city": "X"}, "it changed the prompt"


def test_no_requests_no_groups():
    with FakeServer() as server:
        assert sampled(sampler(server)) == []


@pytest.mark.parametrize(
    ("changes", "stop", "reason"),
    [
        ({"finish_reason": "stop"}, (), "eos"),
        ({"finish_reason": "stop"}, ("#",), "stop"),
        ({"finish_reason": "stop", "stop_reason": None}, ("#",), "eos"),
        ({"finish_reason": "stop", "stop_reason": 2}, ("#",), "eos"),
        ({"finish_reason": "stop", "stop_reason": "#"}, ("#",), "stop"),
        ({"finish_reason": "length"}, ("#",), "length"),
        ({"finish_reason": "content_filter"}, (), "length"),
        ({"finish_reason": "tool_calls"}, (), "eos"),
        ({"finish_reason": ["odd"]}, (), "eos"),
        ({"finish_reason": None}, (), "eos"),
        ({"finish_reason": None, "text": "a b c d"}, (), "length"),  # at the limit
    ],
)
def test_why_a_sample_ended(changes, stop, reason):
    text = changes.get("text", "a b")
    said = {"choices": [choice({}, text, **changes)]}
    said["usage"] = {"completion_tokens": len(text.split())}
    _, (sample,) = read(said, SamplingParams(max_tokens=4, stop=stop), asked=1, counts=Counts())
    assert sample.finish_reason == reason


def test_a_stop_string_that_the_server_left_in_is_cut():
    said = {"choices": [choice({}, "1 = 2; 3 # 4", finish_reason="length")]}
    params = SamplingParams(stop=("#", ";"))
    _, (sample,) = read(said, params, asked=1, counts=Counts())
    assert (sample.text, sample.finish_reason) == ("1 = 2", "stop")


@pytest.mark.parametrize(
    ("tokens", "n", "lengths", "guesses"),
    [
        (5, 1, [5], 0),
        (10, 1, [10], 0),
        (7, 3, [3, 2, 2], 0),
        (30, 3, [10, 10, 10], 0),
        (11, 1, [3], 1),  # more than max_tokens
        (31, 3, [3, 3, 3], 3),
        (2, 3, [3, 3, 3], 3),
        (0, 1, [3], 1),
        (-4, 1, [3], 1),
        (10**9, 2, [3, 3], 2),
        (4.0, 1, [3], 1),
        (True, 1, [3], 1),
        ("4", 1, [3], 1),
        (None, 1, [3], 1),
        ([4], 1, [3], 1),
    ],
)
def test_the_tokens_that_a_server_counts_are_believed_where_they_can_be(
    tokens, n, lengths, guesses
):
    counts = Counts()
    said = {
        "choices": [choice({}, "12 chars long")] * n,
        "usage": {"completion_tokens": tokens},
    }  # 13 characters: 1 + 13 // 4 = 4 tokens
    params = SamplingParams(max_tokens=10)
    given, samples = read(said, params, asked=n, counts=counts)
    guessed = [4 if guesses else length for length in lengths]
    assert (given, [sample.length for sample in samples], counts.bad_usage) == (n, guessed, guesses)


def test_lengths_without_a_count():
    params = SamplingParams(max_tokens=10)
    texts = ["", "abcd" * 100, "abcdabcd"]
    said: dict[str, Any] = {"choices": [choice({}, text) for text in texts], "usage": "none"}
    said["choices"].append(choice({}, "ab", finish_reason="length"))
    counts = Counts()
    _, samples = read(said, params, asked=4, counts=counts)
    assert [sample.length for sample in samples] == [1, 10, 3, 10]
    assert counts.bad_usage == 2
    assert counts.notes() == [
        "the length of 2 samples is a guess: the server's count of tokens was missing or cannot be "
        "true"
    ]


@pytest.mark.parametrize(
    ("listed", "kept"),
    [
        ([-0.5, -1], (-0.5, -1.0)),
        ([1e-7, -1], (0.0, -1.0)),
        ([], ()),
        ([None, -1], None),
        ([0.5, -1], None),
        ([float("nan"), -1], None),
        ([float("-inf"), -1], None),
        ([-(10**400), -1], None),
        (["x", -1], None),
        ([False, -1], None),
        ([-1] * 5, None),  # more than max_tokens
    ],
)
@pytest.mark.parametrize("shape", ["completions", "chat"])
def test_what_is_no_logprob_is_dropped(listed, kept, shape):
    counts = Counts()
    held = {"token_logprobs": listed, "tokens": None}
    if shape == "chat":
        held = {"content": [{"token": "x", "logprob": value} for value in listed]}
    said = {"choices": [choice({}, "a b", logprobs=held)], "usage": {"completion_tokens": 2}}
    _, (sample,) = read(said, SamplingParams(max_tokens=4), asked=1, counts=counts)
    assert sample.logprobs == (kept or ())
    assert sample.length == 2
    assert counts.bad_logprobs == (kept is None)
    assert len(counts.notes()) == (kept is None)


def listed(*tokens, **more):
    """Log-probs as a chat lists them: each token a text, or a text with its bytes."""
    pairs = [token if isinstance(token, tuple) else (token, None) for token in tokens]
    return {"content": [{"token": t, "bytes": b, "logprob": -1} for t, b in pairs], **more}


@pytest.mark.parametrize(
    ("text", "held", "ends"),
    [
        ("a bc", {"token_logprobs": [-1, -1], "tokens": ["a", " bc"]}, (1, 4)),
        ("a bc", listed("a", " bc"), (1, 4)),
        ("a bc", listed("a", " bc", "<end>"), (1, 4, 4)),
        ("a#b", listed("a#", "b"), (1, 1)),  # cut before the stop string
        # of the three bytes of a character the third completes it
        ("é你", listed("é", ("\ufffd", [0xE4, 0xBD]), ("\ufffd", [0xA0])), (1, 1, 2)),
        ("é你", listed("é", "\ufffd", "\ufffd"), ()),
        ("a bc", listed("a", "bc"), ()),
        ("a bc", listed("a", (" bc", [300])), ()),
        ("a bc", {"token_logprobs": [-1, -1]}, ()),
        ("a bc", {"token_logprobs": [-1, -1], "tokens": ["a bc"]}, ()),
        ("a bc", {"token_logprobs": [-1], "tokens": [3]}, ()),
    ],
)
def test_where_the_tokens_of_a_server_end(text, held, ends):
    params = SamplingParams(max_tokens=4, stop=("#",))
    said = {"choices": [choice({}, text, logprobs=held)]}
    _, (sample,) = read(said, params, asked=1, counts=Counts())
    assert sample.token_ends == ends
    assert len(sample.logprobs) == sample.length


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        {},
        {"choices": None},
        {"choices": [], "usage": {"completion_tokens": 0}},
        {"choices": ["a"]},
        {"choices": [{"text": None}]},
        {"choices": [{"text": 3}]},
        {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]},
        {"error": "overloaded"},
    ],
)
def test_an_answer_without_a_text(said):
    with pytest.raises(BadAnswer):
        read(said, SamplingParams(), asked=1, counts=Counts())


def test_a_chat_answer_without_a_message_is_none():
    """A server that answers in the other protocol has not applied the chat template."""
    text = {"text": "a", "message": None}
    both = {"choices": [text, {"text": "b", "message": {"content": "c"}}]}
    for api, expected, bad in (("chat", ["c"], 1), ("completions", ["a", "c"], 0)):
        counts = Counts()
        _, samples = read(both, SamplingParams(), asked=2, counts=counts, api=api)
        assert [sample.text for sample in samples] == expected
        assert counts.bad_choices == bad
    with pytest.raises(BadAnswer):
        read({"choices": [text]}, SamplingParams(), asked=1, counts=Counts(), api="chat")
    with FakeServer(default=lambda *_: answer({"prompt": "a"}, ["x"])) as server:
        _, error = until_the_error(sampler(server, api="chat", retries=0), request("a"))
    assert "its answer holds no text" in str(error)


@pytest.mark.parametrize(
    ("text", "asked", "missing"), [("a b", True, 1), ("a b", False, 0), ("", True, 0)]
)
def test_logprobs_are_missed_where_they_were_asked_for_and_there_are_tokens(text, asked, missing):
    counts = Counts()
    held = {"choices": [{"text": text, "logprobs": None}]}
    read(held, SamplingParams(), asked=1, counts=counts, logprobs=asked)
    assert (counts.no_logprobs, counts.bad_logprobs) == (missing, 0)


def test_the_first_other_name_is_told():
    names = [says(answer({}, ["x"], model=name)) for name in ("m", "m@main", "m@dev", "y")]
    with FakeServer(names) as server:
        sampling = sampler(server, concurrency=1, logprobs=False)
        sampled(sampling, *[request(name) for name in "abcd"])
    (note,) = sampling.notes()
    assert note.startswith("the server answers as 'm@dev', and was asked for 'm' ")


def test_an_empty_text_is_an_answer():
    for said in (
        {"text": ""},
        {"message": {"content": ""}},
        {"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "stop"},
        {"message": {"content": None}, "finish_reason": "length"},
    ):
        _, (sample,) = read({"choices": [said]}, SamplingParams(), asked=1, counts=Counts())
        assert sample.text == ""
        assert sample.length >= 1


def test_half_a_surrogate_pair_does_not_get_into_a_file():
    said = json.loads('{"choices": [{"text": "a\\ud800b"}]}')
    _, (sample,) = read(said, SamplingParams(), asked=1, counts=Counts())
    assert sample.text.encode() == b"a?b"


# servers that give other than asked


def test_a_server_that_ignores_n_is_asked_for_one_at_a_time():
    with FakeServer(default=one_choice) as server:
        sampling = sampler(server, concurrency=1)
        first, second = sampled(sampling, request("a", n=4), request("b", n=3))
    assert len(server.asked) == 7  # one that brought too few, and not one needlessly
    assert [body.get("n", 1) for body in server.asked] == [4] + [1] * 6
    assert len({d.text for d in first.samples}) == 4  # no seed twice, or it gives the same again
    assert len({d.text for d in second.samples}) == 3
    assert sampling.counts.short_answers == 1
    assert sampling.counts.most_choices == 1
    assert len(sampling.notes()) == 1


def test_samples_come_in_the_order_of_their_seeds():
    """Which answer is there first must not matter."""
    gate = threading.Event()

    def later_ones_first(server, body):
        if body["seed"] == 107:
            gate.wait(5)
        elif body["seed"] == 110:
            gate.set()
        return answer(body, words(body, 1))

    with FakeServer([one_choice], default=later_ones_first) as server:
        (group,) = sampled(sampler(server), request("a", n=5, seed=103))
    seeds = [int(sample.text.split()[1]) for sample in group.samples]
    assert seeds == sorted(seeds)
    assert len(set(seeds)) == 5


def test_a_server_with_a_limit_on_n():
    def at_most_three(server, body):
        return answer(body, words(body, min(3, body.get("n", 1))))

    with FakeServer(default=at_most_three) as server:
        sampling = sampler(server, concurrency=1)
        groups = sampled(sampling, request("a", n=8), request("b", n=7))
    assert [len(group.samples) for group in groups] == [8, 7]
    asked = [body.get("n", 1) for body in server.asked]
    assert asked[:2] == [8, 3]  # the second request knows what the first has learnt
    assert sorted(asked[2:]) == [1, 2, 3, 3]
    assert len({d.text for group in groups for d in group.samples}) == 15


def test_more_choices_than_asked():
    def generous(server, body):
        return answer(body, words(body, 5))

    with FakeServer(default=generous) as server:
        sampling = sampler(server)
        (group,) = sampled(sampling, request("a", n=2))
    assert [d.text for d in group.samples] == ["a 7 0", "a 7 1"]
    assert sampling.counts.long_answers == 1
    assert len(sampling.notes()) == 1


def test_choices_without_a_text_are_asked_for_again():
    def half(server, body):
        good, bad = choice(body, "good"), choice(body, "bad", text=None)
        return Reply({"choices": [good, bad, good]})

    with FakeServer([half]) as server:
        sampling = sampler(server)
        (group,) = sampled(sampling, request("a", n=3))
    assert [d.text for d in group.samples] == ["good", "good", "a 10 0"]
    assert sampling.counts.bad_choices == 1
    assert sampling.counts.short_answers == 0  # it gives as many as asked
    assert "1 answer had no text and had to be asked for again" in sampling.notes()


@pytest.mark.parametrize("number", [400, 422])
@pytest.mark.parametrize("name", ["logprobs", "n", "seed"])
def test_what_a_server_refuses_it_is_not_sent_again(name, number):
    with FakeServer(default=refuses(name, number)) as server:
        sampling = sampler(server, concurrency=1)
        groups = sampled(sampling, *(request(p, n=2) for p in "abc"))
    assert [len(group.samples) for group in groups] == [2, 2, 2]
    assert [name in body for body in server.asked] == [True] + [False] * (len(server.asked) - 1)
    assert sampling.counts.refused == {name}
    assert len(server.asked) == (7 if name == "n" else 4)
    assert [name in note for note in sampling.notes()] == [True]
    assert sampling.counts.retries == 0


def test_a_refusal_that_names_nothing():
    """Log-probs are what can be done without most easily."""

    def gruff(server, body):
        return Reply("Bad Request", 400) if "logprobs" in body else fine(server, body)

    with FakeServer(default=gruff) as server:
        sampling = sampler(server)
        sampled(sampling, request(n=2))
    assert sampling.counts.refused == {"logprobs"}
    assert server.asked[-1]["n"] == 2


def test_the_newer_name_of_max_tokens():
    def new(server, body):
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return Reply({"error": {"message": message}}, 400)
        return fine(server, body)

    with FakeServer(default=new) as server:
        sampling = sampler(server, api="chat")
        sampled(sampling, request(max_tokens=9))
    assert server.asked[-1]["max_completion_tokens"] == 9
    assert sampling.notes() == []


def test_a_refused_request_is_the_users_to_mend():
    with FakeServer(
        default=status(400, "prompt is too long:\n\n 9999 tokens " + "x" * 999)
    ) as server:
        sampling = sampler(server)
        _, error = until_the_error(sampling, request("a", n=2))
    assert error.exit_code == 2
    assert "400 prompt is too long: 9999 tokens xxx" in str(error)
    assert server.url in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400
    assert sampling.counts.refused == set()  # what did not help is not given up
    assert f"it was asked with prompt {request('a').prompt.id!r}" in error.__notes__


def test_what_is_not_there():
    with FakeServer(default=status(404, "The model `m` does not exist")) as server:
        _, error = until_the_error(sampler(server), request())
    assert len(server.asked) == 1
    assert "404 The model `m` does not exist; fix engine.url" in str(error)


def test_a_server_that_takes_the_likeliest_token():
    with FakeServer(default=says(answer({}, ["same", "same"]))) as server:
        sampling = sampler(server, logprobs=False)
        sampled(sampling, request("a", n=2), request("b", n=2))
        assert ["likeliest" in note for note in sampling.notes()] == [True]
        server.default = says(answer({}, ["one", "other"]))
        sampled(sampling, request("c", n=2))
        assert sampling.notes() == []


# failures that pass, and those that do not


@pytest.mark.parametrize(
    ("failure", "counted"),
    [
        (status(500), "with HTTP 500"),
        (status(503), "with HTTP 503"),
        (status(408), "with HTTP 408"),
        (status(409), "with HTTP 409"),
        (status(429), "with HTTP 429"),
        (cut, "without a connection"),
        (says(Reply('{"choices": [{"te')), "whose answer could not be read"),
        (says(Reply("[" * 100_000)), "whose answer could not be read"),
        (says(Reply({"choices": []})), "whose answer could not be read"),
    ],
)
def test_what_passes_is_tried_again(failure, counted):
    clock = Clock()
    with FakeServer([failure, failure]) as server:
        sampling = sampler(server, clock)
        (group,) = sampled(sampling, request(n=2))
    assert len(group.samples) == 2
    assert len(server.asked) == 3
    assert sampling.counts.retries == 2
    assert sampling.notes() == [f"2 requests retried ({counted})"]
    first, second = clock.slept  # 0.5 and 1.0 seconds, less up to half
    assert 0.25 <= first <= 0.5 <= second <= 1.0


def test_an_answer_that_does_not_come_in_time():
    with FakeServer([hang]) as server:
        sampling = sampler(server, timeout=0.15)
        sampled(sampling, request())
    assert len(server.asked) == 2
    assert sampling.counts.causes == {"without an answer in time": 1}


def test_retries_are_one_count_by_what_came_before_them():
    """Of a request that is given up, the last failure is no retry."""
    failures = [status(429), status(500), status(429)]
    with FakeServer(failures) as server:
        sampling = sampler(server, concurrency=1)
        with pytest.raises(UserError, match="failed 3 times in a row"):
            sampled(sampling, request())
        assert sampling.counts.retries == 2
        assert sampling.notes() == ["2 requests retried (1 with HTTP 429, 1 with HTTP 500)"]


def test_the_same_seed_is_not_tried_again_where_the_answer_was_bad():
    with FakeServer([status(500), says(Reply({"choices": []}))]) as server:
        sampled(sampler(server), request(seed=7))
    first, second, third = (body["seed"] for body in server.asked)
    assert first == second == 7
    assert third != 7


def test_a_server_that_says_when_to_come_back():
    """And nobody else comes before that either."""
    clock = Clock()
    with FakeServer([status(429, retry_after="12")]) as server:
        sampled(sampler(server, clock, concurrency=1), request("a"), request("b"))
    (waited,) = clock.slept
    assert 12 <= waited <= 13


def test_all_wait_where_one_was_told_to():
    clock = Clock()
    times: list[float] = []

    def meanwhile(server, body):
        with server.lock:  # until the other one has been told
            server.lock.wait_for(lambda: clock.slept, timeout=5)
        return fine(server, body)

    def note_time(server, body):
        times.append(clock.now)
        return fine(server, body)

    told = status(429, retry_after="12")
    with FakeServer([meanwhile, told], default=note_time) as server:
        sampled(sampler(server, clock, concurrency=2), *(request(p) for p in "abcd"))
    assert len(times) == 3
    assert min(times) >= 12


def test_a_date_to_come_back_at():
    clock = Clock()
    at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    with FakeServer([status(503, Retry_After=at)]) as server:
        sampled(sampler(server, clock), request())
    assert 50 < clock.slept[0] < 62


def test_waiting_for_tomorrow_is_no_use():
    with FakeServer([status(429, "quota used up", retry_after="86400")]) as server:
        _, error = until_the_error(sampler(server), request())
    assert "86400 seconds: 429 quota used up" in str(error)
    assert len(server.asked) == 1


def test_a_server_that_does_not_recover():
    with FakeServer(default=status(500, "out of memory")) as server:
        groups, error = until_the_error(sampler(server), request(n=4))
    assert len(server.asked) == 3  # retries = 2
    assert groups == []
    assert error.exit_code == 2
    assert str(error) == (
        f"engine.url: {server.url}: failed 3 times in a row, the last time with: 500 out of memory"
    )


def test_what_was_drawn_before_the_error_comes_first():
    """A whole group, then the part of another that was there; then the error."""

    with FakeServer([one_choice] * 4, default=status(500, "broken")) as server:
        sampling = sampler(server, concurrency=1)
        groups, error = until_the_error(sampling, request("a", n=2), request("b", n=16))
    assert [(group.prompt.id, len(group.samples)) for group in groups] == [("a", 2), ("b", 2)]
    assert "broken" in str(error)
    assert error.__notes__ == ["what was sampled is kept: 4 samples"]
    assert error.__cause__ is None


def test_one_failure_ends_the_others_and_keeps_what_they_have():
    def behave(server, body):
        if prompt_of(body) == "bad":
            server.wait_for(4)  # until "slow" has its first sample and waits for the second
            return status(400, "no such prompt")(server, body)
        return one_choice(server, body) if body.get("n", 1) > 1 else hang(server, body)

    with FakeServer(default=behave) as server:
        sampling = sampler(server, logprobs=False)
        groups, error = until_the_error(sampling, request("slow", n=3), request("bad"))
    assert [(group.prompt.id, len(group.samples)) for group in groups] == [("slow", 1)]
    assert "no such prompt" in str(error)


def test_an_error_in_the_works_is_not_hidden(monkeypatch):
    monkeypatch.setattr("winnow.engines.server.client.read", lambda *a, **k: 1 / 0)
    with FakeServer() as server, pytest.raises(ZeroDivisionError):
        sampled(sampler(server), request())


# is there a server?


def nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_nobody_there():
    clock = Clock()
    sampling = ServerSampler(Server(nobody(), "m", retries=1), clock=clock, sleep=clock.sleep)
    with pytest.raises(UserError, match=r"no connection: .*; start the server") as caught:
        sampling.check()
    assert "\n" not in str(caught.value)
    assert len(clock.slept) == 2
    _, error = until_the_error(sampling, request())
    assert "failed 2 times in a row, the last time with: no connection" in str(error)


@pytest.mark.parametrize("number", [200, 404, 405, 429, 500])
def test_a_server_that_lists_no_models_is_a_server(number):
    with FakeServer() as server:
        server.models = Reply("?", number)
        sampler(server).check()
    assert server.paths == ["/v1/models"]


def test_a_server_that_still_loads():
    with FakeServer() as server:
        server.models = Reply({"error": {"message": "Loading model"}}, 503)
        with pytest.raises(UserError, match="503 Loading model; start the server"):
            sampler(server).check()
    assert len(server.paths) == 3


def test_check_from_within_a_running_loop():
    """As in a notebook."""

    async def cell() -> int:
        sampling.check()
        return len(sampled(sampling, request()))

    with FakeServer() as server:
        sampling = sampler(server)
        assert asyncio.run(cell()) == 1


# the key


def everything_said(error: BaseException) -> str:
    chain: BaseException | None = error
    text = "".join(traceback.format_exception(error))
    while chain is not None:
        text += repr(chain) + str(vars(chain))
        chain = chain.__cause__ or chain.__context__
    return text


@pytest.mark.parametrize("number", [401, 403, 400, 404, 429, 500])
def test_the_key_is_sent_and_never_shown(number, monkeypatch, caplog, capfd):
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")  # as `$(cat file)` may leave it
    caplog.set_level("DEBUG")
    with FakeServer([fine], default=status(number, f"what is {SECRET}?")) as server:
        sampling = sampler(server, key_env="MY_KEY")
        sampled(sampling, request("a"))
        _, error = until_the_error(sampling, request("a"))
        server.models = Reply({"error": SECRET}, number)
        if number in (401, 403):
            with pytest.raises(UserError, match="set the environment variable MY_KEY to a key"):
                sampling.check()
    assert set(server.keys) == {f"Bearer {SECRET}"}
    shown = everything_said(error) + repr(sampling) + str(vars(sampling)) + repr(sampling.server)
    shown += "".join(sampling.notes()) + caplog.text + "".join(capfd.readouterr())
    assert "secret" not in shown
    if number in (401, 403):
        assert "set the environment variable MY_KEY to a key" in str(error)
        assert len(server.asked) == 2
    else:
        assert "what is (key)?" in str(error)


def test_no_key_where_one_is_wanted():
    with FakeServer(default=status(401)) as server:
        _, error = until_the_error(sampler(server), request())
        assert "engine.key_env" in str(error)


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_variable_that_is_not_set_is_refused_at_the_start(value, monkeypatch):
    """Without its name: that may be a key, of letters alone."""
    monkeypatch.delenv("ABCSECRETXYZ", raising=False)
    if value is not None:
        monkeypatch.setenv("ABCSECRETXYZ", value)
    with FakeServer() as server:
        sampling = sampler(server, key_env="ABCSECRETXYZ")
        with pytest.raises(UserError) as caught:
            sampling.check()
        for error in (caught.value, until_the_error(sampling, request())[1]):
            assert str(error).startswith("engine.key_env: the environment variable that it names")
            assert "SECRET" not in everything_said(error)
        assert server.paths == []


def test_a_key_for_another_server_is_not_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_ADMIN_KEY", SECRET)
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    with FakeServer() as server:
        sampled(sampler(server), request())
    assert server.keys == ["Bearer EMPTY"]


@pytest.mark.parametrize("key", ["sk-secret\nX-Header: 1", "sk-secret…", "sk secret"])
def test_what_is_no_key(key, monkeypatch):
    monkeypatch.setenv("MY_KEY", key)
    with FakeServer() as server:
        _, error = until_the_error(sampler(server, key_env="MY_KEY"), request())
    assert server.asked == []
    assert "MY_KEY" in str(error)
    assert "secret" not in everything_said(error)


# how much at a time


def test_no_more_under_way_than_allowed():
    """And as many: each answer waits until three have been asked for."""

    def together(server, body):
        with server.lock:
            server.lock.wait_for(lambda: server.most_under_way >= 3, timeout=5)
        return one_choice(server, body)

    with FakeServer(default=together) as server:
        groups = sampled(sampler(server, concurrency=3), *(request(p, n=4) for p in "abcdefgh"))
    assert server.most_under_way == 3
    assert sum(len(group.samples) for group in groups) == 32


def test_requests_per_minute():
    clock = Clock()
    times: list[float] = []

    def note_time(server, body):
        times.append(clock.now)
        return fine(server, body)

    with FakeServer([status(500)], default=note_time) as server:
        sampling = sampler(server, clock, requests_per_minute=30, concurrency=1)
        sampled(sampling, request("a"), request("b"))
        sampled(sampling, request("c"))  # the next call is no fresh start
    assert times == [2.0, 4.0, 6.0]


def test_requests_per_minute_are_shared_by_all_workers():
    clock = Clock()
    with FakeServer() as server:
        sampled(sampler(server, clock, requests_per_minute=60), *(request(p) for p in "abcdef"))
    assert clock.slept == [1.0] * 5  # asked for side by side, in Clock's time one after the other


def test_groups_come_as_they_finish():
    gate = threading.Event()

    def first_is_slow(server, body):
        if prompt_of(body) == "slow":
            gate.wait(5)
        return fine(server, body)

    order = []
    with FakeServer(default=first_is_slow) as server:
        for place, _ in ask(sampler(server), [request("slow"), request("a"), request("b")]):
            order.append(place)
            if len(order) == 2:
                gate.set()
    assert sorted(order[:2]) == [1, 2]
    assert order[2] == 0


def test_the_server_is_busy_while_samples_are_scored_but_not_without_end():
    with FakeServer() as server:
        sampling = sampler(server, concurrency=2)
        with closing(ask(sampling, [request(str(i)) for i in range(50)])) as groups:
            next(groups)
            assert server.wait_for(5)  # one was fetched, and four may lie ready
            time.sleep(0.1)
            assert len(server.asked) == 5
            next(groups)
            assert server.wait_for(6)


# leaving early


def test_an_iterator_that_nobody_wants_any_more():
    with FakeServer([fine], default=hang) as server:
        sampling = sampler(server, concurrency=4)
        groups = ask(sampling, [request(str(i), n=2) for i in range(9)])
        next(groups)
        assert server.wait_for(5)
        assert ours()
        started = time.monotonic()
        groups.close()
        assert time.monotonic() - started < 20  # the server would take 30 seconds
        assert not ours()
        assert len(server.asked) < 9
    with FakeServer() as server:
        ask(sampling, [request()])  # not even begun


def test_ctrl_c():
    with FakeServer(default=hang) as server:
        sampling = sampler(server)

        def press() -> None:
            server.wait_for(1)
            os.kill(os.getpid(), signal.SIGINT)

        pressing = threading.Thread(target=press)
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            sampled(sampling, request())
        pressing.join()
    assert not ours()


# settings


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"url": "localhost:8000"}, "url"),
        ({"url": "http://"}, "url"),
        ({"url": "http://[::1"}, "url"),
        ({"url": "ftp://host/v1"}, "url"),
        ({"api": "responses"}, "api"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1001}, "concurrency"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"timeout": 0}, "timeout"),
        ({"retries": -1}, "retries"),
    ],
)
def test_settings_that_cannot_be(settings, field):
    with pytest.raises(UserError, match=rf"^engine\.{field}: "):
        Server(**{"url": "http://localhost/v1", "model": "m", **settings})


def test_a_password_in_the_address_is_not_shown():
    for url in (f"http://me:{SECRET}@host/v1", f"me:{SECRET}@host", f"http://host/v1?key={SECRET}"):
        with pytest.raises(UserError, match=r"engine\.key_env") as caught:
            Server(url, "m")
        assert SECRET not in everything_said(caught.value)


def test_the_key_itself_for_its_name_is_not_shown():
    with pytest.raises(UserError, match="not the key itself") as caught:
        Server("http://host/v1", "m", key_env=SECRET)
    assert SECRET not in everything_said(caught.value)


def test_it_takes_no_weights():
    sampling = ServerSampler(Server("http://localhost/v1", "m"))
    with pytest.raises(WinnowError, match="takes no others"):
        sampling.load(WeightsRef(0, "present"))
    assert not sampling.capabilities.true_logprobs
    assert not sampling.capabilities.loads_weights


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with FakeServer() as server:
        for ask in (lambda: sampled(sampler(server), request()), lambda: sampler(server).check()):
            with pytest.raises(
                UserError, match=r"^engine\.sampler: .*pip install '\.\[server\]' in your clone"
            ):
                ask()


# a server that nobody here wrote

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def real_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template, told to sample: `transformers serve` is greedy else."""
    folder = tmp_path_factory.mktemp("served") / "model"
    net = tiny.LlamaForCausalLM.from_pretrained(tiny_model)
    net.generation_config.do_sample = True
    net.generation_config.top_k = 0
    net.save_pretrained(folder)
    words = tiny.tokenizer()
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_server(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package, reason=f"`transformers serve` needs {package}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.txt"
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(real_model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/health", process, log)
            yield Server(f"http://127.0.0.1:{port}/v1", str(real_model), timeout=30, retries=2)
        finally:
            process.kill()
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def samples_of(server: Server, api: Any, *requests: Request) -> tuple[list[Group], ServerSampler]:
    sampling = ServerSampler(replace(server, api=api))
    sampling.check()
    return sampled(sampling, *requests), sampling


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_samples_of_a_real_server(api, real_server):
    prompts = [request(p, n=32, seed=i, max_tokens=6) for i, p in enumerate(("1+2=", "3+3="))]
    groups, sampling = samples_of(real_server, api, *prompts)
    for group in groups:
        assert len(group.samples) == 32
        assert len({sample.text for sample in group.samples}) > 1
        for sample in group.samples:
            assert set(sample.text) <= set(tiny.CHARACTERS)
            assert 1 <= sample.length <= 6
            # a token a character, and the end's if it ended by itself before the limit
            ended = sample.finish_reason == "eos"
            assert sample.length == len(sample.text) + ended or sample.length == 6
    # it ignores n and log-probs, and says nothing of it
    assert sampling.counts.most_choices == 1
    assert sampling.counts.refused == set()
    assert sampling.counts.bad_usage == sampling.counts.bad_logprobs == 0


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_real_server_says_what_the_model_says(api, real_server, real_model):
    """Near temperature 0 it must be the likeliest answer, by the model's own forward pass."""
    net = tiny.LlamaForCausalLM.from_pretrained(real_model).eval()
    tokenizer = tiny.tokenizer()
    prompts = ("1+2=", "4+4=", "0+3=")
    groups, _ = samples_of(
        real_server, api, *(request(p, temperature=1e-3, max_tokens=5) for p in prompts)
    )
    for prompt, group in zip(prompts, groups, strict=True):
        ids = tokenizer.encode(prompt)
        answer: list[int] = []
        with torch.no_grad():
            while len(answer) < 5 and (not answer or answer[-1] != 0):
                logits = net(input_ids=torch.tensor([ids + answer])).logits[0, -1]
                answer.append(int(logits.argmax()))
        (sample,) = group.samples
        assert sample.text == tokenizer.decode(answer, skip_special_tokens=True)
        assert sample.length == len(answer)


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_a_real_server_and_the_limit(api, real_server):
    (group,), sampling = samples_of(real_server, api, request("1+2=", n=8, max_tokens=1))
    assert {(sample.length, sample.finish_reason) for sample in group.samples} == {(1, "length")}
    assert sampling.counts.bad_usage == 0


def test_a_real_server_and_a_stop_string(real_server):
    """It leaves the stop string in the text."""
    stop = tuple("0123456789")
    (group,), _ = samples_of(
        real_server, "completions", request("1+2=", n=8, max_tokens=6, temperature=0.5, stop=stop)
    )
    assert "stop" in {sample.finish_reason for sample in group.samples}
    assert not any(set(sample.text) & set(stop) for sample in group.samples)


def test_a_real_server_that_refuses(real_server):
    sampling = ServerSampler(real_server)
    groups, error = until_the_error(sampling, request("1+2=", n=2, top_k=3))
    assert groups == []
    assert "422 Unexpected fields in the request: {'top_k'}" in str(error)
    assert sampling.counts.retries == 0


def test_options_and_tools_of_a_chat_template_are_sent() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    turns = ({"role": "user", "content": "hi"},)
    params = SamplingParams(max_tokens=4)
    with FakeServer() as server:
        made = sampler(server, api="chat", template_options={"enable_thinking": False})
        asked = [Prompt("a", "hi", messages=turns, data={"tools": [tool]}), Prompt("b", "hi")]
        sampled(made, *[Request(prompt, 1, 0, params) for prompt in asked])
    bodies = sorted(server.asked, key=lambda body: "tools" not in body)
    assert [body.get("tools") for body in bodies] == [[tool], None]
    assert {str(body["chat_template_kwargs"]) for body in bodies} == {"{'enable_thinking': False}"}
