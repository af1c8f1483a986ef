"""Samples from a pool of vLLM servers that are sent the policy's weights."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from winnow.engines.base import Capabilities, Engine, Request, WeightsRef
from winnow.engines.queueing import QueuedSampler, Results
from winnow.engines.vllm.delivery import Delivery
from winnow.engines.vllm.member import Job, Member
from winnow.engines.vllm.pool import Pool
from winnow.engines.vllm.protocol import Completion, sample_seed
from winnow.engines.weights.canary import LENGTH, canaries, prefixes
from winnow.engines.weights.outbox import BASE, hash_of
from winnow.engines.weights.untied import untie
from winnow.errors import UserError, WinnowError
from winnow.types import FinishReason, Group, Sample

_SEQUENCES = 3
"""That canaries begin as, of those that were sampled last."""


Made = Generator[tuple[Job, Completion], None, None]


class Texts(Protocol):
    """Tokens as texts, by the model's tokenizer (`models.stopping.Stopper`)."""

    def text(self, tokens: Sequence[int], reason: FinishReason) -> str: ...

    def ends(self, tokens: Sequence[int], text: str) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Reader:
    """What a model's folder says of its completions.

    Attributes:
        ends: Tokens that end one.
        texts: Made for stop strings.
    """

    ends: Collection[int]
    texts: Callable[[tuple[str, ...]], Texts]


def reader_of(folder: Path) -> Reader:
    """That of a model that was saved."""
    from winnow.engines.models.loading import ModelSource, end_tokens_in, load_tokenizer
    from winnow.engines.models.stopping import Stopper

    tokenizer = load_tokenizer(ModelSource(str(folder)), local=True)
    ends = end_tokens_in(folder, tokenizer)
    return Reader(ends, lambda stop: Stopper(tokenizer, ends, stop))


@dataclass(frozen=True)
class Terms:
    """How weights are given to servers, and held to be there.

    Attributes:
        temperature: Of most samples.
        tolerance: Most nats between a server's log-probs and the learner's.
        lora: Whether adapters travel alone.
        pause: What happens to samples under way.
        timeout: Seconds that a server may take to start, or to read weights.
        precision: Of the servers, where it is not the learner's.
        untied: Whether a model is sent with a head of its own (see `weights.untied`).
        context: Most tokens that servers are told to take; 0: the model's.
    """

    temperature: float
    tolerance: float
    lora: bool = False
    pause: str = "wait"
    timeout: float = 600.0
    precision: str = ""
    untied: bool = False
    context: int = 0


class VLLMSampler(QueuedSampler):
    """A `Sampler` over a pool. Its servers are started, or looked for, with the first weights.

    Args:
        engine: Of the policy: it encodes prompts, and knows what the log-probs of canaries are.
        tell: Hears of servers that fail and come back, in the thread that samples.
        reader: Made of the first weights' folder; default: by its tokenizer.
    """

    # Sums are taken in another order in other batches, so seeds mostly give the same samples.
    capabilities = Capabilities(true_logprobs=True, seeds=False, loads_weights=True)

    def __init__(
        self,
        members: Sequence[Member],
        engine: Engine,
        terms: Terms,
        *,
        retries: int = 6,
        tell: Callable[[str], None] = lambda text: None,
        reader: Callable[[Path], Reader] | None = None,
    ) -> None:
        super().__init__()
        self._heard: deque[str] = deque()
        self._pool = Pool(members, retries, self._heard.append, self._say)
        self._engine, self._terms, self._tell = engine, terms, tell
        self._make_reader, self._reader = reader or reader_of, None
        self._texts: dict[tuple[str, ...], Texts] = {}
        self._versions: dict[str, int] = {}
        self._asked: deque[tuple[int, ...]] = deque(maxlen=_SEQUENCES)
        self._due: Delivery | None = None
        self.seconds: list[float] = []
        """That each transfer took, the first with the start of the servers."""
        self._measured: dict[str, float] = {}

    _reader: Reader | None

    @property
    def device(self) -> str:
        names = [member.link.url if member.start is None else "" for member in self._pool.members]
        known = [name for name in names if name]
        return ", ".join(known) or f"vllm, servers: {len(names)}"

    def load(self, weights: WeightsRef) -> None:
        """Sample from these weights from now on.

        Servers take them, and prove it, when the next samples are asked for: no weights travel that
        nobody samples from. While samples are under way it is at once, and they may be of both.

        Raises:
            WinnowError: the weights are in no folder, or not whole; no server is left.
        """
        folder = weights.where
        if not isinstance(folder, Path):
            raise WinnowError("vLLM servers take weights from a folder")
        try:
            whole = hash_of(folder) == weights.hash
        except OSError as error:
            raise WinnowError(f"the weights in {folder} are gone: {error.strerror}") from error
        if not whole:
            raise WinnowError(f"the weights in {folder} are not those of version {weights.version}")
        base = folder.parent / BASE if self._terms.lora else None
        if self._reader is None:
            self._reader = self._make_reader(base or folder)
        if self._terms.untied and base is None:
            untie(folder)
        label = f"{weights.version}-{weights.hash[:12]}"
        self._versions[label] = weights.version
        self._due = self._delivery(folder, base, label)
        if self._under_way is not None:
            self.ready()

    def ready(self) -> None:
        """Have the servers take what `load` was given last, if they have not.

        Raises:
            NoServer: none of them can.
        """
        if self._due is None:
            return
        begun = time.perf_counter()
        try:
            self._pool.give(self._due)
        finally:
            self._say()
        self._due = None
        self.seconds.append(time.perf_counter() - begun)

    def close(self) -> None:
        """End the servers that were started here."""
        self.cancel()
        self._pool.close()
        self._say()

    def notes(self) -> list[str]:
        said = self._pool.notes()
        if self._terms.precision:
            said.append(
                f"the servers compute in {self._terms.precision}, the learner does not: ratios "
                "begin a little off 1"
            )
        return said

    def measures(self) -> dict[str, float]:
        pool = self._pool
        so_far: dict[str, float] = {
            "transfer_seconds": sum(self.seconds[1:]),
            "requests_resent": pool.resent.total(),
            "servers_failed": pool.failed,
            "servers_back": pool.back,
        }
        new = {name: round(so_far[name] - self._measured.get(name, 0), 3) for name in so_far}
        self._measured = so_far
        return new

    def _delivery(self, folder: Path, base: Path | None, label: str) -> Delivery:
        terms, heat = self._terms, self._terms.temperature or 1.0
        known = (self._engine.context, terms.context, *(one.context for one in self._pool.members))
        shortest = min((context for context in known if context), default=None)
        sequences = prefixes(self._engine, list(self._asked), shortest)
        return Delivery(
            folder=folder,
            base=base,
            label=label,
            canaries=canaries(self._engine, sequences, heat),
            heat=heat,
            tolerance=terms.tolerance,
            pause=terms.pause,
            timeout=terms.timeout,
        )

    def _sample(self, requests: Sequence[Request]) -> Results:
        if self._reader is None:
            self.load(self._engine.publish(0))
        self.ready()
        assert self._reader is not None
        prompts = [tuple(self._engine.encode(request.prompt)) for request in requests]
        self._check_room(prompts, requests)
        jobs = [
            Job(place, number, ids, request.params, sample_seed(request.seed, number))
            for place, (ids, request) in enumerate(zip(prompts, requests, strict=True))
            for number in range(request.n)
        ]
        made: dict[int, dict[int, Sample]] = {}
        for job, completion in self._told(self._pool.run(jobs, self._reader.ends)):
            own = made.setdefault(job.place, {})
            own[job.number] = self._read(job, completion)
            request = requests[job.place]
            if len(own) == request.n:
                samples = tuple(own[number] for number in range(request.n))
                del made[job.place]
                self._remember(job.ids, samples)
                yield (
                    job.place,
                    Group(request.prompt, job.ids, samples, step=request.step),
                )

    def _told(self, made: Made) -> Made:
        """What was made, and along with it what was heard of the servers."""
        try:
            for item in made:
                self._say()
                yield item
        finally:
            made.close()
            self._say()

    def _read(self, job: Job, completion: Completion) -> Sample:
        assert completion.reason is not None
        texts = self._stopper(job.params.stop)
        text = texts.text(completion.tokens, completion.reason)
        versions = [(start, self._versions[label]) for start, label in completion.labels]
        spans = [pair for i, pair in enumerate(versions[1:]) if pair[1] != versions[i][1]]
        return Sample(
            token_ids=completion.tokens,
            logprobs=() if job.params.truncated else completion.logprobs,
            text=text,
            finish_reason=completion.reason,
            policy_version=versions[0][1],
            version_spans=tuple(spans),
            token_ends=texts.ends(completion.tokens, text),
        )

    def _stopper(self, stop: tuple[str, ...]) -> Texts:
        assert self._reader is not None
        if stop not in self._texts:
            self._texts[stop] = self._reader.texts(stop)
        return self._texts[stop]

    def _remember(self, ids: tuple[int, ...], samples: Iterable[Sample]) -> None:
        """What the servers have in their caches by now, for canaries to begin with."""
        longest = max(samples, key=lambda sample: sample.length)
        self._asked.append((ids + longest.token_ids)[:LENGTH])

    def _check_room(self, prompts: Sequence[tuple[int, ...]], requests: Sequence[Request]) -> None:
        """Raise a `UserError` for what no server has room for: it would be cut off unsaid."""
        room = min((m.context for m in self._pool.up if m.context is not None), default=None)
        for ids, request in zip(prompts, requests, strict=True):
            if room is not None and len(ids) + request.params.max_tokens > room:
                problem = (
                    f"{room} tokens have no room for prompt {request.prompt.id!r} with its "
                    f"{len(ids)} and {request.params.max_tokens} of completion"
                )
                remedy = "give the servers more, or leave it out for the model's own"
                raise UserError("engine.vllm_context", problem, remedy)

    def _say(self) -> None:
        while self._heard:
            self._tell(self._heard.popleft())
