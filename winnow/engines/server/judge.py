"""A model behind a server as a reward: it is shown a completion and says what it is worth.

Its answer to a question is kept (`storage.answers`) and not asked for again. Errors are not kept.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from winnow.config.schema.judge import JudgeConfig
from winnow.engines.base import Request, SamplingParams
from winnow.engines.server.client import Caller, OneFailed, Server
from winnow.engines.server.in_thread import checked, first_error, loop_in_a_thread
from winnow.engines.server.pacing import Pacer, Sleep
from winnow.engines.server.protocol import Counts, question
from winnow.errors import UserError, number_of
from winnow.rewards.base import Reward
from winnow.rewards.factory import JUDGE
from winnow.rewards.verifiers import needed_answer
from winnow.storage.answers import Answers, digest_of
from winnow.types import Prompt, Sample, Score

_HOLE = re.compile(r"\{(prompt|completion|answer)\}")
_SHOWN = 200


@dataclass(frozen=True)
class _Asked:
    """A question to the judge, by its digest."""

    digest: str
    request: Request


class Judge:
    """A :class:`winnow.rewards.base.Reward`.

    Args:
        how: How it is asked.
        key: The table of settings that says so, for messages.
        reader: Scores the judge's answers: ``(prompt, answer)``.
        answers: Those that are known, and where new ones are kept.
        backoff, clock, sleep: As in :class:`winnow.engines.server.sampler.ServerSampler`.
    """

    name = JUDGE

    def __init__(
        self,
        how: JudgeConfig,
        key: str,
        reader: Reward,
        answers: Answers,
        *,
        backoff: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        shared = how.model_dump(exclude={"template", "parse", "scores", "max_tokens"})
        self._server = Server(**shared, api="chat", logprobs=False, where=f"{key}.options")
        self._how, self._reader, self._answers = how, reader, answers
        self._params = SamplingParams(temperature=0.0, max_tokens=how.max_tokens)
        self._pacer = Pacer(how.requests_per_minute, clock, sleep)
        self._backoff, self._counts = backoff, Counts()

    def check(self) -> None:
        """Find out whether there is a server.

        Raises:
            UserError: nobody answers, or the key is refused.
        """
        checked(self._caller())

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score an item, in order.

        Raises:
            UserError: nobody answers, or the server takes no question at all.
        """
        asked = [self._question(prompt, completion) for prompt, completion in items]
        prompts = {
            a.digest: prompt
            for a, (prompt, _) in zip(asked, items, strict=True)
            if isinstance(a, _Asked)
        }
        scores: dict[str, Score] = {}
        new: dict[str, Request] = {}
        for each in asked:
            if not isinstance(each, _Asked) or each.digest in scores or each.digest in new:
                continue
            known = self._answers.find(each.digest)
            if known is None:
                new[each.digest] = each.request
            else:
                scores[each.digest] = self._read(prompts[each.digest], known)
        for digest, answer in self._said(new):
            score = self._scored(prompts[digest], answer)
            scores[digest] = score
            if score.value is not None and isinstance(answer, Sample):
                self._answers.keep(digest, answer.text)
        return [scores[a.digest] if isinstance(a, _Asked) else a for a in asked]

    def close(self) -> None:
        self._reader.close()

    def _question(self, prompt: Prompt, completion: str) -> _Asked | Score:
        """The question about a completion; an error where the prompt lacks what it asks for."""
        template = self._how.template
        values = {"prompt": _shown(prompt), "completion": completion}
        if "{answer}" in template:
            try:
                values["answer"] = needed_answer(prompt)
            except ValueError as error:
                return Score.failed(str(error))
        text = _HOLE.sub(lambda hole: values[hole[1]], template)  # once: holes in a text are text
        request = Request(Prompt(prompt.id, text), 1, 0, self._params)
        server = self._server
        body = question(request, "chat", server.model, n=1, offset=0, logprobs=False)
        return _Asked(digest_of(body), request)

    def _scored(self, prompt: Prompt, answer: Sample | OneFailed) -> Score:
        if isinstance(answer, OneFailed):
            return Score.failed(f"the judge {answer.problem}")
        if answer.finish_reason == "length":
            most, shown = self._how.max_tokens, answer.text[-_SHOWN:]
            return Score.failed(f"the judge's answer was cut off at max_tokens = {most}: {shown!r}")
        return self._read(prompt, answer.text)

    def _read(self, prompt: Prompt, answer: str) -> Score:
        (score,) = self._reader.score([(prompt, answer)])
        return score

    def _said(self, requests: Mapping[str, Request]) -> Iterator[tuple[str, Sample | OneFailed]]:
        """The answers as they come, each with its digest."""
        if not requests:
            return
        with loop_in_a_thread() as loop:
            job = _Job(self._caller(), self._server)
            done = asyncio.run_coroutine_threadsafe(job.run(requests), loop)
            done.add_done_callback(lambda _: job.finished.put(None))
            while (item := job.finished.get()) is not None:
                yield item
            done.result()

    def _caller(self) -> Caller:
        return Caller(self._server, self._counts, self._pacer, self._backoff)


class _Job:
    """The questions of one `score`."""

    def __init__(self, caller: Caller, server: Server) -> None:
        self.finished: SimpleQueue[tuple[str, Sample | OneFailed] | None] = SimpleQueue()
        self._caller, self._server = caller, server
        self._slots = asyncio.Semaphore(server.concurrency)
        self._answered = False
        self._unanswered = 0

    async def run(self, requests: Mapping[str, Request]) -> None:
        """Ask all of them; the first that no question would pass ends it."""
        enough = min(len(requests), self._server.concurrency)
        async with first_error(), self._caller, asyncio.TaskGroup() as tasks:
            for digest, request in requests.items():
                tasks.create_task(self._one(digest, request, enough))

    async def _one(self, digest: str, request: Request, enough: int) -> None:
        async with self._slots:
            try:
                (answer,) = await self._caller.sample(request, 1, 0)
            except OneFailed as error:
                self._unanswered += error.nobody
                if not self._answered and self._unanswered >= enough:
                    raise self._down(error, enough) from None
                self.finished.put((digest, error))
                return
            self._answered = True
            self.finished.put((digest, answer))

    def _down(self, error: OneFailed, asked: int) -> UserError:
        problem = (
            f"none of {number_of(asked, 'question')} to the judge was answered: {error.problem}"
        )
        return UserError(f"{self._server.where}.url", problem, "start the server, or fix it")


def _shown(prompt: Prompt) -> str:
    """A prompt as the judge sees it; of a conversation, who said what."""
    turns = prompt.messages or ()
    if len(turns) < 2:
        return prompt.text
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
