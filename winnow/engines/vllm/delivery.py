"""Weights to a server: paused, read, its cache emptied, labeled, resumed; then the canaries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from winnow.engines.server.client import Passing, Refused
from winnow.engines.server.protocol import BadAnswer
from winnow.engines.vllm.link import Link
from winnow.engines.vllm.protocol import GENERATE, probe, read_probe
from winnow.engines.weights.canary import Canary, distance

ADAPTERS = "policy-lora"
"""The name of the policy's adapters on a server."""
_RESETS, _BETWEEN = 10, 0.2
_SOON = 5.0
"""Seconds that a server may take to go on after what went wrong."""


class Missed(Exception):
    """A server does not have the weights that it was sent: why."""


@dataclass(frozen=True)
class Delivery:
    """Weights that servers are to have, and how they prove it.

    Attributes:
        folder: Where they are.
        base: What adapters are over; ``None`` where the folder holds the whole model.
        label: Of a version and its hash; servers say it with each token.
        canaries: By the learner.
        heat: The temperature of their log-probs.
        tolerance: Most nats between a server's log-probs and theirs.
        pause: What happens to requests under way: "wait" or "abort".
        timeout: Seconds that a step may take.
        resets: Whether the server's cache is emptied; else is for tests.
    """

    folder: Path
    label: str
    canaries: Sequence[Canary]
    heat: float
    tolerance: float
    base: Path | None = None
    pause: str = "wait"
    timeout: float = 600.0
    resets: bool = True

    @property
    def model(self) -> Path:
        """What a server that is started for them begins with."""
        return self.folder if self.base is None else self.base

    def name(self, served: str) -> str:
        """The model's name in requests, on a server that calls its own so."""
        return served if self.base is None else ADAPTERS

    def deliver(self, link: Link, served: str, *, begun: bool) -> float:
        """Have a server sample from these weights.

        Args:
            begun: Whether it was started with `model`, and has read it.

        Returns:
            The largest difference of log-probs, nats.

        Raises:
            Missed: it did not take them, or its log-probs are others.
            Passing, BadAnswer: it does not answer, or not what it should.
        """
        try:
            keeps = "" if self.resets else "&clear_cache=false"
            try:
                link.post(f"/pause?mode={self.pause}{keeps}", timeout=self.timeout)
                if not begun or self.base is not None:
                    self._read(link)
                if self.resets:
                    _reset(link)
                link.post("/update_weight_version", {"new_version": self.label})
            except BaseException:
                with suppress(Passing, Refused, BadAnswer):  # others may use it
                    link.post("/resume", timeout=_SOON)
                raise
            link.post("/resume")
            return self.check(link, served)
        except Refused as error:
            raise Missed(f"it refuses the weights: {error}") from error

    def check(self, link: Link, served: str) -> float:
        """The largest difference of log-probs between a server and the learner, nats.

        Raises:
            Missed: it is larger than it may be, or the server has another version.
            Passing, BadAnswer, Refused: no answer to use.
        """
        label = _field(link.get("/weight_info"), "weight_version")
        if label != self.label:
            raise Missed(f"it has version {label!r} instead of {self.label!r}")
        worst = 0.0
        for canary in self.canaries:
            body = probe(self.name(served), canary.prefix, canary.tokens, self.heat)
            given = read_probe(link.post(GENERATE, body, tokens=len(canary.tokens)))
            worst = max(worst, distance(canary, given))
        if worst > self.tolerance:
            problem = f"its log-probs are {worst:.3g} nats from the learner's"
            raise Missed(f"{problem}, more than {self.tolerance:g}")
        return worst

    def _read(self, link: Link) -> None:
        if not self.folder.is_dir():  # asked for a folder that is not there, the server ends
            raise Missed(f"{self.folder} is not there")
        if self.base is not None:
            body = {"lora_name": ADAPTERS, "lora_path": str(self.folder), "load_inplace": True}
            link.post("/v1/load_lora_adapter", body, timeout=self.timeout)
            return
        kwargs = {"weights_path": str(self.folder)}
        body = {"method": "reload_weights", "kwargs": kwargs}
        link.post("/collective_rpc", body, timeout=self.timeout)


def _reset(link: Link) -> None:
    """Empty the prefix cache, which holds what earlier weights made of the same prompts.

    While requests run, a server says that it did not.
    """
    for _ in range(_RESETS):
        if _field(link.post("/reset_prefix_cache"), "success") is True:
            return
        time.sleep(_BETWEEN)
    raise Missed("it does not empty its prefix cache")


def _field(answer: object, name: str) -> object:
    return answer.get(name) if isinstance(answer, dict) else None
