"""A policy without torch that sends its weights to fake servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests import fake_engine
from tests.fake_vllm import OTHER
from winnow.engines.base import Request, SamplingParams, WeightsRef
from winnow.engines.vllm.link import Link
from winnow.engines.vllm.member import Member
from winnow.engines.vllm.sampler import Reader, Terms, VLLMSampler
from winnow.engines.weights.outbox import Outbox
from winnow.types import Group, Prompt

PROMPT = "What is the digit that comes up most often?"
END = 48
MADE: list[VLLMSampler] = []


class Engine(fake_engine.Engine):
    """The fake engine, whose weights also travel."""

    outbox: Outbox

    def __init__(self, config: Any, *others: Any, **named: Any) -> None:
        super().__init__(config, *others, **named)
        self.outbox = Outbox(Path(config.engine.transfer_dir))
        self.publish = lambda version: self.outbox.put(version, self.save)

    def logprobs(self, groups: Sequence[Group], heat: float, of: Any = "present") -> Any:
        own = fake_engine.logp(self.now if of == "present" else self.of(of), heat)
        return [
            [own[s.token_ids[0] - 48] if 48 <= s.token_ids[0] < 58 else OTHER for s in g.samples]
            for g in groups
        ]


class Characters:
    """Tokens are characters."""

    def text(self, tokens: Sequence[int], reason: str) -> str:
        return "".join(map(chr, tokens if reason == "length" else tokens[:-1]))

    def ends(self, tokens: Sequence[int], text: str) -> tuple[int, ...]:
        return ()


def reader(ends: Sequence[int] = ()) -> Callable[[Path], Reader]:
    return lambda folder: Reader(frozenset(ends), lambda stop: Characters())


def engine(folder: Path, logits: Sequence[float] = (0.0,) * 10) -> Engine:
    model = folder / "model"
    model.mkdir()
    (model / "logits.json").write_text(json.dumps(list(logits)))
    place = SimpleNamespace(transfer_dir=str(folder / "sent"))
    return Engine(SimpleNamespace(model=str(model), engine=place))


def member(url: str, slots: int = 4, timeout: float = 20.0) -> Member:
    return Member(url, Link(url, timeout), slots)


def sampler(
    servers: Sequence[Any],
    engine: Engine,
    *,
    slots: int = 4,
    timeout: float = 20.0,
    retries: int = 6,
    ends: Sequence[int] = (),
    **terms: Any,
) -> tuple[VLLMSampler, list[str]]:
    """A sampler over servers, and what it says."""
    said: list[str] = []
    made = VLLMSampler(
        [member(server.url, slots, timeout) for server in servers],
        engine,
        Terms(**{"temperature": 1.0, "tolerance": 1e-3, "timeout": 5.0, **terms}),
        retries=retries,
        tell=said.append,
        reader=reader(ends),
    )
    MADE.append(made)
    return made, said


def requests(number: int, n: int = 4, **params: Any) -> list[Request]:
    how = SamplingParams(**{"max_tokens": 1, **params})
    return [Request(Prompt(str(i), f"{PROMPT} {i}"), n, 1000 + i, how) for i in range(number)]


def sampled(made: VLLMSampler, asked: Sequence[Request]) -> list[Group]:
    first = made.submit(asked)
    groups = {number - first: group for number, group in made.results()}
    return [groups[place] for place in range(len(asked))]


def moved(engine: Engine, digit: int, by: float = 3.0) -> None:
    """An update: a digit becomes likelier."""
    engine.now = engine.now + by * np.eye(10)[digit]


def load(made: VLLMSampler, weights: WeightsRef) -> None:
    """New weights, taken at once."""
    made.load(weights)
    made.ready()


def soon(test: Callable[[], bool]) -> bool:
    """Whether something comes to hold."""
    tick = threading.Event()
    return any(test() or tick.wait(0.02) for _ in range(500))
