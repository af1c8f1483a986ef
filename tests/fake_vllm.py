"""A server with vLLM's protocol and the policy of `fake_engine`, which misbehaves to order.

    with FakeVLLM() as server: ...                    # in a thread of this process
    python tests/fake_vllm.py -m ... --port 8000 --model FOLDER --die-after 9     # or by itself

Like vLLM it keeps what it made of the first block of a prompt until its cache is reset, whatever
weights it has been sent since.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

BLOCK = 16
OTHER = -50.0
"""The log-prob of a token that is no digit."""


def logp(logits: list[float], heat: float) -> Any:
    values = np.array(logits) / (heat or 1.0)
    return values - np.log(np.exp(values).sum())


class FakeVLLM(ThreadingHTTPServer):
    """Listens on a free port of this machine.

    Attributes:
        script: What the next requests for samples get instead of an answer, one each.
        reads, resets, empties, labels: Whether it does what it is asked when it is sent weights;
            `resets` is whether it says that it emptied its cache, `empties` whether it did.
        die_after: Ends the process after so many samples.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        model: Path | None = None,
        port: int = 0,
        die_after: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__((host, port), _Handler)
        self.logits = [0.0] * 10
        if model is not None:
            self.take(model)
        self.cache: dict[tuple[int, ...], list[float]] = {}
        self.label, self.context, self.die_after = "default", 4096, die_after
        self.reads = self.resets = self.empties = self.labels = True
        self.script: list[Callable[[FakeVLLM, dict[str, Any]], Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.labels_had: list[str] = []
        self.paused = threading.Event()
        self.most_at_once = self._now = 0
        self.lock, self.released = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> FakeVLLM:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that hangs up is no news."""

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        """What a path answers, and with which status."""
        route, query = urlsplit(path).path, parse_qs(urlsplit(path).query)
        if route == "/inference/v1/generate":
            return self.generate(body)
        self.calls.append(path)
        if route == "/pause":
            assert query["mode"][0] in ("wait", "abort")
            return {"status": "paused"}
        if route == "/collective_rpc":
            if self.reads:
                self.take(Path(body["kwargs"]["weights_path"]))
            return {"results": [None]}
        if route == "/v1/load_lora_adapter":
            if self.reads:
                self.take(Path(body["lora_path"]))
            return "Success"
        if route == "/reset_prefix_cache":
            if self.empties:
                self.cache.clear()
            return {"success": self.resets}
        if route == "/update_weight_version" and self.labels:
            self.labels_had.append(self.label)
            self.label = body["new_version"]
        if route == "/v1/models":
            return {"data": [{"id": "fake", "max_model_len": self.context}]}
        return {"weight_version": self.label}

    def take(self, folder: Path) -> None:
        """Have the weights in a folder."""
        self.logits = read(folder)

    def generate(self, body: dict[str, Any]) -> Any:
        how = body["sampling_params"]
        if "logprob_token_ids" in how:
            return self.sampled(body)
        with self.lock:
            self.asked.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            behave = self.script.pop(0) if self.script else None
            if self.die_after and len(self.asked) > self.die_after:
                os._exit(1)
        try:
            return self.sampled(body) if behave is None else behave(self, body)
        finally:
            with self.lock:
                self._now -= 1

    def sampled(self, body: dict[str, Any]) -> dict[str, Any]:
        how, ids = body["sampling_params"], tuple(body["token_ids"])
        logits = self.logits
        if len(ids) > BLOCK:
            logits = self.cache.setdefault(ids[:BLOCK], logits)
        own, random = logp(logits, how["temperature"]), np.random.default_rng(how.get("seed", 0))
        tokens, content, said, why = [], [], "length", None
        while len(tokens) < how["max_tokens"] and said == "length":
            digit = int(random.choice(10, p=np.exp(own)))
            tokens.append(48 + digit)
            listed = [{"token_id": t, "logprob": logprob(own, t)} for t in tops(how, 48 + digit)]
            content.append({**listed[0], "top_logprobs": listed})
            if 48 + digit in how.get("stop_token_ids", ()):
                said, why = "stop", 48 + digit
            elif str(digit) in how.get("stop", ()):
                said, why = "stop", str(digit)
        return choice(tokens, content, said, why, self.label)


def tops(how: dict[str, Any], token: int) -> list[int]:
    """The sampled token and those asked for: no more than `logprobs`, as vLLM has it."""
    return [*dict.fromkeys([token, *how.get("logprob_token_ids", ())])][: how["logprobs"] or 1]


def logprob(own: Any, token: int) -> float:
    return float(np.float32(own[token - 48])) if 48 <= token < 58 else OTHER


def choice(tokens: list[int], content: list[Any], said: str, why: Any, label: str) -> Any:
    spans = [{"version": label, "start": 0, "end": len(tokens)}] if tokens else []
    return {
        "choices": [
            {
                "token_ids": tokens,
                "finish_reason": said,
                "stop_reason": why,
                "logprobs": {"content": content},
                "weight_versions": spans,
            }
        ]
    }


def read(folder: Path) -> list[float]:
    found: list[float] = json.loads((folder / "logits.json").read_text())
    return found


def hang(server: FakeVLLM, body: dict[str, Any]) -> Any:
    """No answer until the server is closed."""
    server.released.wait(30)
    return {}


def nonsense(server: FakeVLLM, body: dict[str, Any]) -> Any:
    """An answer, of other tokens than its log-probs."""
    made = server.sampled(body)
    made["choices"][0]["token_ids"][0] += 1
    return made


def aborted(server: FakeVLLM, body: dict[str, Any]) -> Any:
    """What vLLM answers where it gives up a request for new weights."""
    return choice([], [], "abort", None, server.label)


def restarted(server: FakeVLLM, body: dict[str, Any]) -> Any:
    """The answer of a server that somebody has started anew: it has its first weights."""
    server.label, server.logits = "default", [0.0] * 10
    return server.sampled(body)


def late(server: FakeVLLM, body: dict[str, Any]) -> Any:
    """The answer of a server that is back at the weights that it had before these."""
    assert server.label != server.labels_had[-1]
    server.label = server.labels_had[-1]
    return server.sampled(body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: FakeVLLM

    def do_GET(self) -> None:
        self._send(self.server.answer(self.path, {}))

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._send(self.server.answer(self.path, json.loads(raw) if raw else {}))

    def _send(self, said: Any) -> None:
        raw = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args: Any) -> None:
        """Not to the terminal."""


def main(kind: type[FakeVLLM] = FakeVLLM) -> None:
    """What `python -m vllm.entrypoints.openai.api_server` is asked."""
    told = dict(zip(sys.argv, sys.argv[1:], strict=False))
    port, die_after = int(told["--port"]), int(told.get("--die-after", 0))
    if "--killed-once" in told and not Path(told["--killed-once"]).exists():
        Path(told["--killed-once"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with kind(Path(told["--model"]), port, die_after, told["--host"]):
        threading.Event().wait()


if __name__ == "__main__":
    main()
