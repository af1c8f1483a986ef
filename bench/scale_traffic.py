"""What goes through rank 0 in a step: bytes and seconds of its own, with many simulated samplers.

The servers are `tests/fake_vllm.py` in a process of their own. They answer at once, with what vLLM
0.32 answered once: `vllm_answer.json`, 64 tokens of SmolLM2-135M byte for byte, over and over to
the length that is wanted. So what is measured is what rank 0 does, not what sampling takes:
requests, answers read and checked, groups made; then the message to the ranks that learn, and what
they send back.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import fake_vllm
from tests.engines.vllm import given
from winnow.engines.base import Request, SamplingParams
from winnow.engines.vllm.sampler import Reader, Terms, VLLMSampler
from winnow.rewards.source import dumps
from winnow.types import Group, Prompt, Sums

ANSWER = Path(__file__).with_name("vllm_answer.json")
"""The body of an answer to a request for 64 tokens, as `protocol.question` asks."""


class Texts:
    """Four characters a token, as English has them about."""

    def text(self, tokens: Sequence[int], reason: str) -> str:
        return "word" * len(tokens)

    def ends(self, tokens: Sequence[int], text: str) -> tuple[int, ...]:
        return tuple(range(4, 4 * len(tokens) + 1, 4))


class _Raw(fake_vllm._Handler):
    """Sends bytes as they are, and counts."""

    server: Recorded

    def do_POST(self) -> None:
        self.server.taken += int(self.headers.get("Content-Length", 0))
        super().do_POST()

    def _send(self, said: Any) -> None:
        raw = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.server.sent += len(raw)
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


class Recorded(fake_vllm.FakeVLLM):
    """Answers requests for samples with one recorded completion."""

    def __init__(self, model: Path, tokens: int, first: int) -> None:
        super().__init__(model)
        self.RequestHandlerClass = _Raw
        self.context = 1 << 20
        self.taken = self.sent = self.served = 0
        self._tokens, self._first = tokens, first
        self._made: dict[str, bytes] = {}

    def generate(self, body: dict[str, Any]) -> Any:
        if "logprob_token_ids" in body["sampling_params"]:
            return self.sampled(body)
        self.served += 1
        if self.label not in self._made:
            self._made = {self.label: recorded(self._tokens, self._first, self.label)}
        return self._made[self.label]


def recorded(tokens: int, first: int, label: str) -> bytes:
    """The recorded answer, of so many tokens; it begins with one of them and names a version."""
    answer = json.loads(ANSWER.read_bytes())
    (choice,) = answer["choices"]
    content = choice["logprobs"]["content"]
    content = [content[(first + place) % len(content)] for place in range(tokens)]
    choice["logprobs"]["content"] = content
    choice["token_ids"] = [entry["token_id"] for entry in content]
    choice["weight_versions"] = [{"version": label, "start": 0, "end": tokens}]
    return json.dumps(answer, separators=(",", ":")).encode()


def serve(number: int, model: Path, tokens: int, line: Connection) -> None:
    """So many servers, until the line is closed; then what they counted."""
    servers = [Recorded(model, tokens, first) for first in range(number)]
    for server in servers:
        server.__enter__()
    line.send([server.url for server in servers])
    line.recv()
    line.send([(one.taken, one.sent, one.served) for one in servers])


@dataclass(frozen=True)
class Load:
    """What is sampled."""

    servers: int
    prompts: int
    samples: int
    prompt_tokens: int
    tokens: int
    slots: int


@dataclass(frozen=True)
class Measured:
    """Of one step; seconds are rank 0's own, of one core.

    Attributes:
        asked, answered: Bytes of requests and of answers.
        reading: Seconds to ask, read, check and put into groups, by its processor time.
        clock: The same by the clock.
        packed: Bytes of the message with which a mini-batch of all groups goes to the ranks.
        packing, unpacking: Seconds to make it, and of each rank to read it.
        returned: Bytes of statistics that come back from all ranks together.
        tokens: Sampled.
        requests: For samples.
        busy: Servers that had some.
    """

    asked: int
    answered: int
    reading: float
    clock: float
    packed: int
    packing: float
    unpacking: float
    returned: int
    tokens: int
    requests: int
    busy: int


def measure(load: Load) -> Measured:
    """Sample once from simulated servers."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = given.engine(folder)
        engine.context = 1 << 20  # type: ignore[misc]
        engine.encode = lambda prompt: tuple(10_000 + ord(letter) for letter in prompt.text)
        here, there = context.Pipe()
        # They run until they are told, so that this process's time is its own.
        child = context.Process(
            target=serve, args=(load.servers, folder / "model", load.tokens, there), daemon=True
        )
        child.start()
        sampler = VLLMSampler(
            [given.member(url, load.slots, 600.0) for url in here.recv()],
            engine,
            Terms(temperature=1.0, tolerance=1e-3, timeout=60.0),
            reader=lambda path: Reader(frozenset(), lambda stop: Texts()),
        )
        sampler.load(engine.publish(0))
        sampler.ready()
        begun, clock = time.process_time(), time.perf_counter()
        sampler.submit(requests(load))
        groups = [group for _, group in sampler.results()]
        reading, clock = time.process_time() - begun, time.perf_counter() - clock
        sampler.close()
        here.send("done")
        counted = here.recv()
        child.join()
    return Measured(
        asked=sum(taken for taken, _, _ in counted),
        answered=sum(sent for _, sent, _ in counted),
        reading=reading,
        clock=clock,
        tokens=sum(sample.length for group in groups for sample in group.samples),
        requests=sum(served for _, _, served in counted),
        busy=sum(served > 0 for _, _, served in counted),
        **sent_on(groups),
    )


def requests(load: Load) -> list[Request]:
    """Of prompts that have a token for each character, an id of five digits."""
    how = SamplingParams(max_tokens=load.tokens)
    texts = [f"{i:06}".ljust(load.prompt_tokens, "?") for i in range(load.prompts)]
    return [Request(Prompt(text, text), load.samples, i, how) for i, text in enumerate(texts)]


def sent_on(groups: list[Group]) -> dict[str, Any]:
    """The message to the ranks, and what comes back."""
    from winnow.engines.fsdp.worker import Worker

    begun = time.process_time()
    message = dumps((sys.path, Worker.step, (0, groups, (), None, 1.0, None)))
    packing = time.process_time() - begun
    begun = time.process_time()
    pickle.loads(message)
    unpacking = time.process_time() - begun
    ratios = [float(x) for group in groups for s in group.samples for x in s.logprobs]
    weights = [float(sum(s.logprobs)) for group in groups for s in group.samples]
    returned = len(pickle.dumps(Sums(token_ratios=ratios, log_weights=weights)))
    return {
        "packed": len(message),
        "packing": packing,
        "unpacking": unpacking,
        "returned": returned,
    }
