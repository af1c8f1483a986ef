"""HTTP to one vLLM server: JSON in and out, over connections that are kept and can be cut."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from winnow.engines.server.bounded import PLAIN, answer_bytes
from winnow.engines.server.client import Passing, Refused
from winnow.engines.server.protocol import BadAnswer
from winnow.engines.server.quoting import quoted

_STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
"""What a kept connection ends with when the server has closed it meanwhile."""
_HEADERS = {**PLAIN, "Content-Type": "application/json"}


class Link:
    """Requests to one server, from any thread.

    Args:
        url: Its address; a `/v1` at its end is left out.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.timeout = timeout
        parts = urlsplit(self.url)
        self._secure, self._path = parts.scheme == "https", parts.path
        self._host, self._port = parts.hostname or "", parts.port
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._busy: set[http.client.HTTPConnection] = set()
        self._cuts = 0
        self._closed = False

    def get(self, path: str, *, timeout: float | None = None) -> Any:
        """The answer to a GET request; see `post`."""
        return self._answer("GET", path, None, timeout, answer_bytes(0))

    def post(
        self, path: str, body: Any = None, *, timeout: float | None = None, tokens: int = 0
    ) -> Any:
        """The answer to a POST request: JSON, or text where it is none.

        Args:
            tokens: Of the answer, which bound its bytes.

        Raises:
            Passing: no answer, no answer in time, or that of a server in trouble.
            Refused: the server will never take this request.
            BadAnswer: its answer is too long.
        """
        return self._answer("POST", path, body, timeout, answer_bytes(tokens))

    def cut(self) -> None:
        """End every request under way, whose threads get `Passing`."""
        with self._lock:
            self._cuts += 1
            for connection in self._busy:
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def close(self) -> None:
        """`cut`, and keep no connection any more."""
        self._closed = True
        self.cut()

    def _answer(self, method: str, path: str, body: Any, limit: float | None, most: int) -> Any:
        text = None if body is None else json.dumps(body).encode()
        status, raw = self._exchange(method, path, text, limit or self.timeout, most)
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError):
            said = raw.decode("utf-8", "replace")
        if status < 300:
            return said
        reason = quoted(f"HTTP {status} {_reason(said)}", None)
        if status in (408, 409, 429) or status >= 500:
            raise Passing(reason, status)
        raise Refused(reason, status)

    def _exchange(
        self, method: str, path: str, body: bytes | None, limit: float, most: int
    ) -> tuple[int, bytes]:
        """Status and body. A kept connection that turns out to be closed is replaced, once."""
        cuts = self._cuts
        while True:
            connection, kept = self._connection(limit)
            whole = False
            try:
                connection.request(method, self._path + path, body, _HEADERS)
                response = connection.getresponse()
                raw = response.read(most + 1)
                if len(raw) > most:
                    raise BadAnswer(f"its answer is longer than {most} bytes")
                whole = not response.will_close
                return response.status, raw
            except TimeoutError:
                said = f"no answer within {limit:g} seconds"
                raise Passing(said, cause="without an answer in time") from None
            except _STALE as error:
                if not kept or cuts != self._cuts:
                    raise Passing(f"no answer: {type(error).__name__}") from None
            except (OSError, http.client.HTTPException, AttributeError) as error:
                # the last: http.client of a connection that `cut` ended while it was made
                raise Passing(quoted(f"no connection: {error}", None)) from None
            finally:
                self._done(connection, whole)

    def _connection(self, limit: float) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            kept = bool(self._idle)
            connection = self._idle.pop() if kept else self._new()
            self._busy.add(connection)
        connection.timeout = limit
        if connection.sock is not None:
            connection.sock.settimeout(limit)
        return connection, kept

    def _new(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        return kind(self._host, self._port)

    def _done(self, connection: http.client.HTTPConnection, whole: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if whole and not self._closed:
                self._idle.append(connection)
                return
        connection.close()


def _reason(said: Any) -> str:
    """The message in an error, in any of its usual places."""
    while isinstance(said, dict):
        said = next((said[key] for key in ("message", "detail", "error") if key in said), str(said))
    return str(said or "")
