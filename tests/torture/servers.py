"""Servers that misbehave, by what a user is to see of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from tests.fake_server import (
    Behaviour,
    FakeServer,
    Reply,
    answer,
    cut,
    hang,
    prompt_of,
    says,
    status,
)

KEY = "sk-proj-Zq7Wv1Nx4Rb9Tc2Ky6"
BLOCK = 2**20  # what a client may move a seed by without another sample
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ANSI = "\x1b]0;title\x07\x1b[2J"


def texts(body: dict[str, Any]) -> list[str]:
    """Texts that the seed decides, whichever way the samples are cut into requests."""
    seed = body.get("seed", 0)
    return [f"{prompt_of(body)} {(seed + place) % BLOCK}" for place in range(body.get("n", 1))]


def steady(server: FakeServer, body: dict[str, Any]) -> Reply:
    """A good server."""
    return answer(body, texts(body))


def whole(body: dict[str, Any]) -> dict[str, Any]:
    held = answer(body, texts(body)).body
    assert isinstance(held, dict)
    return held


def raw(*pieces: bytes) -> Behaviour:
    return says(Reply(raw=pieces))


def spoken(**changes: Any) -> Behaviour:
    """A good answer with other fields."""
    return lambda server, body: Reply({**whole(body), **changes})


def choices(**changes: Any) -> Behaviour:
    """A good answer with other fields in each choice."""

    def behave(server: FakeServer, body: dict[str, Any]) -> Reply:
        held = whole(body)
        return Reply({**held, "choices": [{**one, **changes} for one in held["choices"]]})

    return behave


def text_is(value: object) -> Behaviour:
    return choices(text=value, message={"role": "assistant", "content": value})


def logprobs_are(*values: object) -> Behaviour:
    listed = [{"token": "x", "logprob": value} for value in values]
    return choices(logprobs={"token_logprobs": list(values), "content": listed})


def encoded(how: str) -> Behaviour:
    return lambda server, body: Reply(json.dumps(whole(body)).encode(how))


def headed(before: bytes, **changes: str) -> Behaviour:
    """A good answer with these bytes before its head and these headers in it."""

    def behave(server: FakeServer, body: dict[str, Any]) -> Reply:
        said = json.dumps(whole(body)).encode()
        head = {
            "Content-Length": str(len(said)),
            **{k.replace("_", "-"): v for k, v in changes.items()},
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return Reply(raw=[before, OK, lines.encode(), b"\r\n", said])

    return behave


def wrong_length(by: int) -> Behaviour:
    def behave(server: FakeServer, body: dict[str, Any]) -> Reply:
        said = json.dumps(whole(body)).encode()
        return Reply(raw=[OK, b"Content-Length: %d\r\n\r\n" % (len(said) + by), said])

    return behave


def endless(begin: bytes, piece: bytes, pause: float = 0.0) -> Behaviour:
    """5 GB, or for ever: none of it is held."""

    def behave(server: FakeServer, body: dict[str, Any]) -> Reply:
        def pieces() -> Iterator[bytes]:
            yield begin
            for _ in range(5 * 2**30 // len(piece)):
                if server.released.wait(pause) if pause else server.released.is_set():
                    return
                yield piece

        return Reply(raw=pieces())

    return behave


def after_the_head(server: FakeServer, body: dict[str, Any]) -> Reply:
    def pieces() -> Iterator[bytes]:
        yield OK + b"Content-Length: 9\r\n\r\n"
        server.released.wait(30)

    return Reply(raw=pieces())


def later(after: str) -> Behaviour:
    return status(429, "slow down", Retry_After=after)


def more(server: FakeServer, body: dict[str, Any]) -> Reply:
    held = whole(body)
    return Reply(
        {**held, "choices": held["choices"] + [{"text": "x", "message": {"content": "x"}}]}
    )


def to_itself(server: FakeServer, body: dict[str, Any]) -> Reply:
    return Reply("", 307, {"Location": f"{server.url}/completions"})


def date(**ago: float) -> str:
    return format_datetime(datetime.now(UTC) - timedelta(**ago), usegmt=True)


UNTRUE = "log-probs of 6 samples cannot be true"
ABSENT = "no log-probs for 6 samples: .* no ratio or KL"
NOT_JSON, NO_CHOICES, NO_TEXT = "is not JSON", "holds no choices", "holds no text"
LOST = "no connection: "
HANGS = {"no answer", "a head alone", "a slow drip", "an endless head", "100 for ever"}
"""These are given a second."""

HARMLESS: dict[str, Behaviour] = {
    "a byte order mark": encoded("utf-8-sig"),
    "UTF-16": encoded("utf-16"),
    "100 before 200": headed(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 before 200": headed(b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"),
    "a hundred headers": headed(b"", **{f"X_{n}": "y" * 50 for n in range(100)}),
    "repeated indices": choices(index=7),
    "an unknown finish_reason": choices(finish_reason="because"),
    "a finish_reason that is a list": choices(finish_reason=[1]),
    "usage missing": spoken(usage=None),
    "usage lying": spoken(usage={"completion_tokens": 10**300}),
    "usage negative": spoken(usage={"completion_tokens": -1}),
    "usage that is a list": spoken(usage=[1]),
    "the model's own name": spoken(model="m"),
    "the model's revision": spoken(model="m@main"),
    **{f"model {v!r}": spoken(model=v) for v in (None, "", 3, ["x"])},
    "unknown fields": spoken(id=[], object=3, created="x", junk={"a": [None]}),
    "fields of a wrong type that are not read": choices(tool_calls=3, refusal=4),
}
"""The run is that of a good server."""
NOTED: dict[str, tuple[Behaviour, str]] = {
    "log-probs NaN": (logprobs_are(float("nan"), -1), UNTRUE),
    "log-probs inf": (logprobs_are(float("inf")), UNTRUE),
    "log-probs -inf": (logprobs_are(float("-inf")), UNTRUE),
    "log-probs positive": (logprobs_are(-1, 0.5), UNTRUE),
    "log-probs giant": (logprobs_are(-(10**400)), UNTRUE),
    "log-probs that are texts": (logprobs_are("-1"), UNTRUE),
    "more log-probs than tokens": (logprobs_are(*[-1] * 99), UNTRUE),
    **{
        f"log-probs that are {v!r}": (choices(logprobs=v), UNTRUE)
        for v in (3, "x", [-0.5], {"token_logprobs": 3, "content": "x"})
    },
    "log-probs null": (choices(logprobs=None), ABSENT),
    "log-probs an empty table": (choices(logprobs={}), ABSENT),
    "log-probs of no token": (logprobs_are(), ABSENT),
    "another model": (spoken(model="x"), "answers as 'x', and was asked for 'm' "),
    "a dated model": (spoken(model="m-2024-08-06"), "answers as 'm-2024-08-06', and"),
    "a model with the key": (spoken(model=f"{KEY}{ANSI}"), "answers as '.key.'?.*, and"),
    "more choices than n": (more, "more answers than asked for"),
}
"""The texts are those of a good server, and a note tells the rest."""
PASSING: dict[str, tuple[Behaviour, str]] = {
    **{
        f"{n}": (status(n, f"no {ANSI}{KEY}"), f"{n} no ")
        for n in (408, 409, 429, 500, 502, 503, 599)
    },
    "429, Retry-After 0": (later("0"), "slow down"),
    "429, Retry-After negative": (later("-5"), "slow down"),
    "429, Retry-After a date": (later(date(minutes=9)), "slow down"),
    "429, Retry-After garbage": (later("soon; or not"), "slow down"),
    "429, Retry-After NaN": (later("nan"), "slow down"),
    "429, Retry-After of no size": (later("9" * 5000), "slow down"),
    "429, Retry-After in no year": (later(f"Fri, 27 Nov {'9' * 30} 05:00:00 GMT"), "slow down"),
    "429, Retry-After in no zone": (later(f"Fri, 27 Nov 2020 05:00:00 +{'9' * 30}"), "slow down"),
    "no answer": (hang, "no answer within 1 seconds"),
    "a head alone": (after_the_head, "no answer within 1 seconds"),
    "a slow drip": (endless(CHUNKED, b"1\r\n \r\n", 0.05), "no answer within 1 seconds"),
    "an endless head": (endless(OK, b"X-Y: z\r\n", 0.05), "no answer within 1 seconds"),
    "100 for ever": (endless(b"", b"HTTP/1.1 100 C\r\n\r\n", 0.05), "no answer within 1 seconds"),
    "a giant head": (endless(OK + b"X: ", b"x" * 2**16), LOST),
    "a cut in the body": (cut, LOST),
    "a reset": (says(Reply(raw=[OK], reset=True)), LOST),
    "closed without an answer": (raw(), LOST),
    "TLS": (raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99)), LOST),
    "HTTP/0.9": (raw(b"<html>hello</html>"), LOST),
    "a length too long": (wrong_length(50), LOST),
    "a length too short": (wrong_length(-50), NOT_JSON),
    "a negative length": (raw(OK, b"Content-Length: -5\r\n\r\nx"), LOST),
    "two lengths": (raw(OK, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), LOST),
    "a wrong chunk": (raw(CHUNKED, b"zz\r\nabc\r\n"), LOST),
    "5 GB": (endless(CHUNKED, b"10000\r\n" + b" " * 2**16 + b"\r\n"), "is longer than"),
    "5 GB without chunks": (endless(OK + b"\r\n", b" " * 2**16), "is longer than"),
    "a gzip bomb": (
        says(Reply(gzip.compress(bytes(2**27)), 200, {"Content-Encoding": "gzip"})),
        "is compressed",
    ),
    "a status that is no number": (raw(b"HTTP/1.1 OK OK\r\n\r\n"), LOST),
    "204": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), NOT_JSON),
    "text": (says(Reply("hello")), NOT_JSON),
    "HTML": (says(Reply("<!doctype html><p>Sign in", headers={"X": "y"})), NOT_JSON),
    "nothing": (says(Reply("")), NOT_JSON),
    "null": (says(Reply("null")), NO_CHOICES),
    "a list": (says(Reply("[]")), NO_CHOICES),
    "deep brackets": (says(Reply("[" * 10**5)), NOT_JSON),
    "deep, whole": (says(Reply("[" * 10**5 + "]" * 10**5)), NOT_JSON),
    "a number of 5,000 digits": (says(Reply("9" * 5000)), NOT_JSON),
    "duplicate keys": (says(Reply('{"choices": [{"text": "x"}], "choices": []}')), NO_CHOICES),
    "UTF-8 that is none": (says(Reply(b'{"choices": "\xff\xfe\xfd')), NOT_JSON),
    "no choices": (spoken(choices=[]), NO_CHOICES),
    "choices null": (spoken(choices=None), NO_CHOICES),
    "choices in a table": (spoken(choices={"0": "x"}), NO_CHOICES),
    "choices that are none": (spoken(choices=[None, 3]), NO_TEXT),
    **{f"text {v!r}": (text_is(v), NO_TEXT) for v in (None, 3, True, [], {}, ["x"])},
    "an error of deep brackets": (says(Reply("[" * 10**5, 500)), "500 "),
    "an error, 900 deep": (says(Reply("[" * 900 + "]" * 900, 500)), "500 "),
    "an error, errors 5,000 deep": (
        says(Reply('{"error": ' * 5000 + "1" + "}" * 5000, 500)),
        "500 ",
    ),
    "an error in no coding": (
        says(Reply("no", 500, {"Content-Type": "text/plain; charset=zlib"})),
        "500 no",
    ),
    "an error in half a surrogate": (status(500, "a \ud83d b"), "500 a .ud83d b"),
}
"""Tried again; at last, one line says this of it."""
FATAL: dict[str, tuple[Behaviour, str]] = {
    **{f"{n}": (status(n, f"no {ANSI}{KEY}"), f"{n} no ") for n in (400, 404, 405, 413, 418, 422)},
    **{f"{n}": (status(n, f"no {ANSI}{KEY}"), f"refuses the key \\({n}\\)") for n in (401, 403)},
    "429, Retry-After tomorrow": (later("86400"), "in 86400 seconds"),
    "429, Retry-After huge": (later("1e300"), "in 1e.300 seconds"),
    "429, Retry-After a far date": (later(date(days=-9999)), "seconds: 429 slow down"),
    "a redirect elsewhere": (
        says(Reply("", 302, {"Location": f"http://127.0.0.1:1/{KEY}"})),
        "redirects to http://127.0.0.1:1/.key. .302.",
    ),
    "a redirect to itself": (to_itself, "redirects to http"),
    "a redirect to a file": (
        says(Reply("", 301, {"Location": "file:///etc/passwd"})),
        "redirects to file:///etc/passwd",
    ),
    "304": (raw(b"HTTP/1.1 304 Not Modified\r\n\r\n"), "redirects to nowhere"),
    "an error of half an answer": (says(Reply('{"error"', 400)), "400 "),
    "an error that is a list": (says(Reply([["x"]], 400)), "400 "),
    "a long error": (status(400, "x" * 50_000), "400 x"),
}
"""Not tried again: one line says this of it."""
