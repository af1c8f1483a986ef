"""Serves the page of runs while they go on, to this machine alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from winnow.errors import UserError, WinnowError
from winnow.reporting.page.blocks import PARTS, Block, pack, part_of
from winnow.reporting.page.html import Shown, heads, page
from winnow.reporting.progress_file import progress_of
from winnow.storage.parquet import UNREADABLE

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names by which a browser may ask: a page of another site could let its own name point here."""


_SHOWN = ("config.toml", "metrics.jsonl", "evals.jsonl", "alarms.jsonl")
"""Files of a folder that its page shows, beside samples."""
_UNREADABLE = (WinnowError, OSError, ValueError, TypeError, KeyError)
"""What reading raises of a file that is being rewritten, moved or damaged, or is another's."""


class Watched:
    """Folders, as they are now.

    Args:
        folders: Of runs.
        shown_of: How a page shows one.
        blocks_in: The blocks of one alone, as that shows them.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        shown_of: Callable[[Path], Shown],
        blocks_in: Callable[[Path], Sequence[Block]],
    ) -> None:
        self._folders, self._shown_of, self._blocks_in = folders, shown_of, blocks_in

    def state(self) -> dict[str, str]:
        """Something that changes with their files, and what they are doing."""
        mark = hashlib.sha256()
        says = []
        for folder in self._folders:
            named = [folder / name for name in _SHOWN]
            for path in sorted([*named, *folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
                try:
                    stat = path.stat()
                except OSError:
                    continue  # there is none (yet), or it was renamed meanwhile
                mark.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
            progress = progress_of(folder)
            mark.update(f"{progress.get('status')}".encode())
            told = progress.get("says") or progress.get("status") or "nothing tells whether it runs"
            says.append(f"{folder.name}: {told}" if len(self._folders) > 1 else str(told))
        return {"mark": mark.hexdigest(), "says": "; ".join(says)}

    def data(self, key: str) -> bytes | None:
        """What the page asks for, compressed; ``None`` where there is no such thing.

        Empty where it is gone: a page may ask for a block that has been written anew meanwhile.
        """
        if key == "head":
            return pack(heads([self._shown_of(folder) for folder in self._folders]))
        number, _, rest = key.partition("/")
        name, _, part = rest.partition("/")
        if not number.isdecimal() or int(number) >= len(self._folders) or part not in PARTS:
            return None
        there = self._blocks_in(self._folders[int(number)])
        found = next((block for block in there if block.name == name), None)
        try:
            return b"" if found is None else part_of(found, part)
        except UNREADABLE:
            return b""

    def html(self) -> str:
        """The page."""
        return page([self._shown_of(folder) for folder in self._folders], live=True)


def serve(watched: Watched, port: int, ready: Callable[[str], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        port: 0: any that is free.
        ready: Told the address.

    Raises:
        UserError: the port is taken.
    """

    class Handler(_Handler):
        of = watched

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        remedy = "choose another --port, or 0 for any that is free"
        raise UserError("--port", f"cannot listen on {port}: {error.strerror}", remedy) from error
    with server:
        ready(f"http://127.0.0.1:{server.server_address[1]}/")
        server.serve_forever(poll_interval=0.2)


class _Handler(BaseHTTPRequestHandler):
    of: Watched
    timeout = 30

    def do_GET(self) -> None:  # (the name is the library's)
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in HOSTS:
            return self._answer(HTTPStatus.FORBIDDEN, b"ask by http://127.0.0.1", "text/plain")
        path = unquote(urlsplit(self.path).path).lstrip("/")
        try:
            if path == "":
                return self._answer(
                    HTTPStatus.OK, self.of.html().encode(), "text/html; charset=utf-8"
                )
            if path == "state":
                told = json.dumps(self.of.state()).encode()
                return self._answer(HTTPStatus.OK, told, "application/json")
            found = self.of.data(path.removeprefix("data/")) if path.startswith("data/") else None
        except _UNREADABLE:
            text = b"a file of the run cannot be read"
            return self._answer(HTTPStatus.SERVICE_UNAVAILABLE, text, "text/plain")
        if found is None:
            return self._answer(HTTPStatus.NOT_FOUND, b"there is no such thing", "text/plain")
        status = HTTPStatus.OK if found else HTTPStatus.NO_CONTENT
        return self._answer(status, found, "application/octet-stream")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        if body:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """A line a request would hide what is printed."""
