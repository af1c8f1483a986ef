"""A small server with OpenAI's protocol that misbehaves to order and remembers what it was asked.

    with FakeServer([status(500), hang, fine]) as server: ...

Each request gets the next behaviour of the script; once that is used up, `default`.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Reply:
    """What goes over the wire.

    Attributes:
        cut: Whether the connection ends in the middle of the body.
        raw: In place of a head and a body, before the connection ends.
        reset: Whether it ends with a reset.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    raw: Iterable[bytes] | None = None
    reset: bool = False


Behaviour = Callable[["FakeServer", dict[str, Any]], Reply]


class FakeServer(ThreadingHTTPServer):
    """Listens on a free port of this machine. Only POST requests are scripted and counted."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Sequence[Behaviour] = (), default: Behaviour | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = list(script)
        self.default = default or fine
        self.models: Reply = Reply({"object": "list", "data": []})
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.encodings: list[str | None] = []
        self.under_way = 0
        self.most_under_way = 0
        self.mistakes: list[BaseException | None] = []
        self.lock = threading.Condition()
        self.released = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()
        assert not self.mistakes, self.mistakes

    def wait_for(self, number: int) -> bool:
        """Wait until so many requests have come."""
        with self.lock:
            return self.lock.wait_for(lambda: len(self.asked) >= number, timeout=5)

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that hangs up is no news; anything else is a mistake in a behaviour."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.mistakes.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for head and body: two would wait for each other
    server: FakeServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self._send(self.server.models)

    def do_POST(self) -> None:
        server = self.server
        raw = self.rfile.read(length := int(self.headers["Content-Length"]))
        if len(raw) < length:
            raise ConnectionError("the client has hung up")
        body = json.loads(raw)
        with server.lock:
            server.asked.append(body)
            server.paths.append(self.path)
            server.keys.append(self.headers.get("Authorization"))
            server.encodings.append(self.headers.get("Accept-Encoding"))
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            behaviour = server.script.pop(0) if server.script else server.default
            server.lock.notify_all()
        try:
            reply = behaviour(server, body)
        finally:
            with server.lock:  # before the answer goes out, or the next request may overtake it
                server.under_way -= 1
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        if reply.raw is not None:
            self._send_raw(reply.raw, reset=reply.reset)
            return
        raw = reply.body
        if not isinstance(raw, bytes):
            raw = (raw if isinstance(raw, str) else json.dumps(raw)).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if reply.cut else raw)
        self.close_connection = self.close_connection or reply.cut

    def _send_raw(self, pieces: Iterable[bytes], *, reset: bool) -> None:
        self.close_connection = True
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
        if reset:  # closed with nothing to linger for
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *args: Any) -> None:
        """Not to the terminal."""


def choice(body: dict[str, Any], text: str, /, **changes: Any) -> dict[str, Any]:
    """A choice in the protocol of the request, with log-probs if they were asked for."""
    tokens = text.split()
    said: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if "messages" in body:
        said["message"] = {"role": "assistant", "content": text}
        if body.get("logprobs"):
            listed = [{"token": t, "logprob": -0.5, "top_logprobs": []} for t in tokens]
            said["logprobs"] = {"content": listed}
    else:
        said["text"] = text
        if body.get("logprobs") is not None:
            said["logprobs"] = {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens)}
    return {**said, **changes}


def answer(body: dict[str, Any], texts: Sequence[str], **changes: Any) -> Reply:
    """Choices of these texts, a token a word."""
    tokens = sum(len(text.split()) for text in texts)
    whole = {
        "object": "text_completion",
        "choices": [choice(body, text) for text in texts],
        "usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens},
    }
    return Reply({**whole, **changes})


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"] if "messages" in body else body["prompt"]


def words(body: dict[str, Any], number: int) -> list[str]:
    """As many different texts, which name the prompt and the seed that they were made with."""
    return [f"{prompt_of(body)} {body.get('seed')} {place}" for place in range(number)]


def fine(server: FakeServer, body: dict[str, Any]) -> Reply:
    """As it should be."""
    return answer(body, words(body, body.get("n", 1)))


def one_choice(server: FakeServer, body: dict[str, Any]) -> Reply:
    """Ignores n."""
    return answer(body, words(body, 1))


def hang(server: FakeServer, body: dict[str, Any]) -> Reply:
    """No answer until the server is closed."""
    server.released.wait(30)
    return fine(server, body)


def says(reply: Reply) -> Behaviour:
    """The same reply to everyone."""
    return lambda server, body: reply


def status(number: int, message: str = "no", **headers: str) -> Behaviour:
    """An error, as OpenAI words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return says(Reply({"error": {"message": message, "type": "x"}}, number, named))


def cut(server: FakeServer, body: dict[str, Any]) -> Reply:
    """The connection is closed in the middle of the answer."""
    reply = fine(server, body)
    reply.cut = True
    return reply


def refuses(name: str, number: int = 400) -> Behaviour:
    """Takes no request that has this parameter."""

    def behave(server: FakeServer, body: dict[str, Any]) -> Reply:
        if name in body:
            return Reply({"error": {"message": f"Unsupported parameter: '{name}'"}}, number)
        return fine(server, body)

    return behave
