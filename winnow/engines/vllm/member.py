"""One server of a pool: where it is, what it has, how it comes and goes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from winnow.engines.base import SamplingParams
from winnow.engines.server.client import Passing, Refused
from winnow.engines.server.protocol import BadAnswer
from winnow.engines.vllm.delivery import Delivery, Missed
from winnow.engines.vllm.link import Link
from winnow.engines.vllm.process import SERVED, Plan, Process, Running
from winnow.engines.vllm.protocol import GENERATE, Completion, question, read

FAILURES = (Passing, BadAnswer, Missed, Refused)
"""How a server may fail."""
_POLL = 0.25
_ALIVE = 5.0
"""Seconds that a server may take to say that it is there."""

_BY_SIGNAL = {128 + number: number.name for number in signal.Signals}

State = Literal["joining", "up", "down", "out"]
"""On its way to the weights; sampling; failed, to join again; failed for good."""


GoesOn = Callable[[], bool]
"""Whether a server that is on its way is still wanted."""


@dataclass(frozen=True)
class Job:
    """One completion to ask for.

    Attributes:
        place: Of its request, among those that are sampled together.
        number: Of the sample, among the request's.
    """

    place: int
    number: int
    ids: tuple[int, ...]
    params: SamplingParams
    seed: int


class Killed(Missed):
    """A server was ended by a signal, so nothing is known to be wrong with how it is started."""


class WrongVersion(Exception):
    """A server sampled from other weights than it was given last."""


@dataclass
class Member:
    """A server.

    Attributes:
        name: For messages: its address, or its number.
        start: Starts it; ``None``: it runs already.
        served: What it calls its model; empty: it is asked.
        slots: Most requests that it is sent at a time.
        busy: Requests that it has.
        epoch: How often it has joined: what fails of an earlier time is no news.
        has: What it was given last.
        before: What it had before, which samples may be of that were under way then.
        coming: What it is being given, which samples under way may be of too.
        context: Most tokens that it takes; ``None`` if it does not say.
        gap: The largest difference of log-probs from the learner's that its canaries had.
    """

    name: str
    link: Link
    slots: int
    start: Callable[[Delivery, GoesOn], Running] | None = None
    served: str = ""
    state: State = "joining"
    busy: int = 0
    epoch: int = 0
    failures: int = 0
    has: Delivery | None = None
    before: Delivery | None = None
    coming: Delivery | None = None
    context: int | None = None
    gap: float = 0.0
    reason: str = ""
    process: Running | None = field(default=None, repr=False)

    def join(self, delivery: Delivery, goes_on: GoesOn) -> None:
        """Be there, with these weights. A miss is tried once more.

        Args:
            goes_on: Whether it is still wanted.

        Raises:
            Missed: it does not take them.
            Passing, BadAnswer, Refused: it does not answer, or not what it should.
        """
        begun = self.start is not None
        if self.start is not None:
            self.close()
            self.process = self.start(delivery, goes_on)
            self.link = Link(self.process.url, self.link.timeout)
        self._wait(delivery.timeout, goes_on)
        if not self.served or self.context is None:
            self._ask_model()
        try:
            self._give(delivery, begun=begun)
        except Missed:
            self._give(delivery, begun=False)

    def give(self, delivery: Delivery) -> None:
        """Take other weights than it has. A miss is tried once more; see `join`."""
        self.coming = delivery
        if self.has is not None and self._same(self.has, delivery):
            self.link.post("/update_weight_version", {"new_version": delivery.label})
            self.gap = max(self.gap, delivery.check(self.link, self.served))
            self.before, self.has = self.has, delivery
            return
        try:
            self._give(delivery, begun=False)
        except Missed:
            self._give(delivery, begun=False)

    def ask(self, job: Job, ends: Collection[int]) -> Completion:
        """A completion.

        Raises:
            WrongVersion: it is of weights that the server was not to have.
            Passing, BadAnswer, Refused: no answer to use.
        """
        had, may = self.has, [self.has, self.coming]
        assert had is not None
        name = had.name(self.served)
        body = question(name, job.ids, job.params, job.seed, ends)
        answer = self.link.post(GENERATE, body, tokens=job.params.max_tokens)
        made = read(answer, job.params, ends)
        may += [self.has, self.coming]
        if self.has is not had:  # more than one transfer may have come meanwhile
            may.append(self.before)
        known = {delivery.label for delivery in may if delivery is not None}
        wrong = [label for _, label in made.labels if label not in known]
        if wrong:
            assert self.has is not None
            raise WrongVersion(f"it sampled from version {wrong[0]!r}, not {self.has.label!r}")
        return made

    @property
    def runs(self) -> bool:
        """Whether it is there, as far as is known."""
        return self.start is None or (self.process is not None and self.process.ended is None)

    def close(self) -> None:
        """End the server, if it was started here."""
        self.link.close()
        if self.process is not None:
            self.process.close()
            self.process = None

    def _give(self, delivery: Delivery, *, begun: bool) -> None:
        self.coming = delivery
        gap = delivery.deliver(self.link, self.served, begun=begun)
        self.gap = max(self.gap, gap)
        self.before, self.has = self.has, delivery

    def _same(self, one: Delivery, two: Delivery) -> bool:
        return one.label.partition("-")[2] == two.label.partition("-")[2]

    def _wait(self, limit: float, goes_on: GoesOn) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + limit
        while goes_on():
            if self.process is not None and (code := self.process.ended) is not None:
                said = self.process.last_words()
                if code in _BY_SIGNAL:
                    raise Killed(f"it was ended by {_BY_SIGNAL[code]}")
                raise Missed(f"it ended with exit code {code}{said and f': {said}'}")
            try:
                self.link.get("/health", timeout=_ALIVE)
                return
            except Passing as error:
                if time.monotonic() > deadline:
                    raise Missed(f"not there after {limit:g} seconds: {error}") from None
            time.sleep(_POLL)
        raise Missed("it is not wanted any more")

    def _ask_model(self) -> None:
        models = self.link.get("/v1/models")
        listed: Any = models.get("data") if isinstance(models, dict) else None
        if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
            raise BadAnswer("it lists no models")
        own = [one for one in listed if one.get("id") == self.served] or listed
        if not own:
            raise BadAnswer("it lists no models")
        self.served = self.served or str(own[0].get("id"))
        length = own[0].get("max_model_len")
        self.context = length if type(length) is int else None


Start = Callable[[Plan, int, Delivery, GoesOn], Running]
"""What starts a server, by its number."""


def started_here(plan: Plan, number: int, delivery: Delivery, _: GoesOn) -> Running:
    """A server on this machine."""
    return Process(plan, number, delivery.model)


def started(
    plan: Plan, number: int, slots: int, timeout: float, start: Start = started_here
) -> Member:
    """A member that Winnow starts."""
    return Member(
        f"server {number}",
        Link("http://127.0.0.1", timeout),
        slots,
        lambda delivery, goes_on: start(plan, number, delivery, goes_on),
        SERVED,
    )
