"""Samples from any server of OpenAI's protocol: vLLM, transformers serve, llama.cpp, a host.

The server has its own weights and its own tokenizer, so its samples have no token ids. Requests are
sent from an event loop in a thread, so that the server is kept busy while samples are scored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from queue import SimpleQueue

from winnow.engines.base import Capabilities, Request, WeightsRef
from winnow.engines.queueing import QueuedSampler, Results
from winnow.engines.server.client import Caller, Server
from winnow.engines.server.in_thread import checked, first_error, loop_in_a_thread
from winnow.engines.server.pacing import Pacer, Sleep
from winnow.engines.server.protocol import Api, Counts
from winnow.errors import UserError, WinnowError, number_of
from winnow.types import Group, Prompt, Sample


class ServerSampler(QueuedSampler):
    """Samples from a server. A `Sampler`; its weights never change.

    Its log-probs are the server's, mostly those of the raw logits, whatever the temperature:
    nothing may be divided by them.

    Args:
        server: Where and how to ask.
        backoff: Seconds before the first retry; doubled for each further one.
        clock, sleep: Time, for tests.
    """

    capabilities = Capabilities(true_logprobs=False, seeds=False, loads_weights=False)

    def __init__(
        self,
        server: Server,
        *,
        backoff: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__()
        self.server = server
        self.counts = Counts()
        self._pacer = Pacer(server.requests_per_minute, clock, sleep)
        self._backoff = backoff

    def notes(self) -> list[str]:
        """What went wrong so far and was fixed, in sentences."""
        return self.counts.notes()

    @property
    def device(self) -> str:
        return self.server.url

    def load(self, weights: WeightsRef) -> None:
        raise WinnowError(
            f"the server at {self.server.url} samples from its own weights and takes no others"
        )

    def check(self) -> None:
        """Ask for the list of models, to find out whether there is a server.

        Raises:
            UserError: nobody answers, or the key is refused. A server without such a list is fine.
        """
        checked(self._caller())

    def submit(self, requests: Sequence[Request]) -> int:
        """Take requests.

        Raises:
            UserError: a conversation, where the endpoint takes none.
        """
        check_conversations(self.server.api, [request.prompt for request in requests])
        return super().submit(requests)

    def _sample(self, requests: Sequence[Request]) -> Results:
        """Groups as they finish, each with the position of its request.

        Raises:
            UserError: the server cannot be reached or refuses. What was sampled comes first: the
                last groups may have fewer samples than were asked for.
        """
        caller = self._caller()
        sampled = 0
        with loop_in_a_thread() as loop:
            job = _Job(caller, self.counts, self.server.concurrency)
            done = asyncio.run_coroutine_threadsafe(job.run(requests), loop)
            done.add_done_callback(lambda _: job.finished.put(None))
            while (item := job.finished.get()) is not None:
                loop.call_soon_threadsafe(job.places.release)
                sampled += len(item[1].samples)
                yield item
            try:
                done.result()
            except UserError as error:
                if sampled:
                    error.add_note(f"what was sampled is kept: {number_of(sampled, 'sample')}")
                raise

    def _caller(self) -> Caller:
        return Caller(self.server, self.counts, self._pacer, self._backoff)


def check_conversations(api: Api, prompts: Sequence[Prompt]) -> None:
    """Raise a `UserError` for prompts that an endpoint does not take."""
    if api == "completions" and any(prompt.messages for prompt in prompts):
        problem = "the prompts are conversations, which the completions endpoint does not take"
        raise UserError("engine.api", problem, "set engine.api = 'chat'")


class _Job:
    """The requests of one `sample`."""

    def __init__(self, caller: Caller, counts: Counts, concurrency: int) -> None:
        self.finished: SimpleQueue[tuple[int, Group] | None] = SimpleQueue()
        # a place is taken from a request's start until its group is fetched: results never pile up
        self.places = asyncio.Semaphore(2 * concurrency)
        self._slots = asyncio.Semaphore(concurrency)
        self._caller, self._counts = caller, counts

    async def run(self, requests: Sequence[Request]) -> None:
        """Send all requests; if one fails for good, cancel the others, which yield theirs."""
        async with first_error(), self._caller, asyncio.TaskGroup() as tasks:
            for number, request in enumerate(requests):
                await self.places.acquire()
                tasks.create_task(self._one(number, request))

    async def _one(self, number: int, request: Request) -> None:
        sampled: list[tuple[int, Sample]] = []
        try:
            await self._fill(request, sampled)
        finally:
            if sampled:
                samples = tuple(sample for _, sample in sorted(sampled, key=itemgetter(0)))
                self._compare(samples, request.params.temperature)
                self.finished.put((number, Group(request.prompt, (), samples, step=request.step)))

    def _compare(self, samples: Sequence[Sample], temperature: float) -> None:
        if len(samples) > 1 and temperature > 0:
            self._counts.groups += 1
            self._counts.same += len({sample.text for sample in samples}) == 1

    async def _fill(self, request: Request, sampled: list[tuple[int, Sample]]) -> None:
        """Ask until all samples are there. Each round brings at least one."""
        asked = 0
        while (missing := request.n - len(sampled)) > 0:
            most = self._counts.most_choices or missing
            async with asyncio.TaskGroup() as calls:
                for start in range(0, missing, most):
                    size = min(most, missing - start)
                    calls.create_task(self._call(request, size, asked + start, sampled))
            asked += missing

    async def _call(
        self, request: Request, size: int, offset: int, sampled: list[tuple[int, Sample]]
    ) -> None:
        async with self._slots:
            samples = await self._caller.sample(request, size, offset)
        sampled += [(offset, sample) for sample in samples]
