"""An HTTP client that reads no more of an answer than it can hold, and follows no redirect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

from winnow.engines.server.protocol import BadAnswer

PLAIN = {"Accept-Encoding": "identity"}
"""The headers of a request: a small compressed answer may be a large one."""

most_bytes: ContextVar[int] = ContextVar("most_bytes")
"""Bytes that the answer to the next request of this task may have."""

_BASE = 2**20  # an error, or all of an answer but its tokens
_A_TOKEN = 1024  # JSON of a token with its log-prob is about 300 bytes at most


def answer_bytes(tokens: int) -> int:
    """Bytes that an answer of so many tokens may have."""
    return _BASE + _A_TOKEN * tokens


def bounded_client() -> Any:
    """The openai package's own HTTP client, proxies of the environment included, with limits.

    A redirect would take the prompts, and with some clients the key, to a host that nobody named.
    """
    from openai import DefaultAsyncHttpxClient

    return DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [_bind]})


async def _bind(response: Any) -> None:
    """Bound what will be read of a response whose head has come.

    Raises:
        BadAnswer: it is compressed.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise BadAnswer(f"its answer is compressed ({coding[:20]}), which was not asked for")
    response.encoding = (
        "utf-8"  # the protocol's; Python has codecs, such as zlib, that are no text's
    )
    response.stream = _bounded(response.stream, most_bytes.get())


def _bounded(stream: Any, most: int) -> Any:
    """The stream, which raises `BadAnswer` beyond so many bytes."""

    class Bounded(type(stream)):  # type: ignore[misc]
        """Of the same class, for clients that ask: httpx has two packages and names."""

        def __init__(self) -> None:
            """Nothing of its own."""

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = most
            async for data in stream:
                left -= len(data)
                if left < 0:
                    problem = f"its answer is longer than {most} bytes, more than its tokens need"
                    raise BadAnswer(problem)
                yield data

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()
