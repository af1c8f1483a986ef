"""Requests to a server: paced, retried where that may help, else a one-line error."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from winnow.config.secrets import NOT_A_NAME, NOT_BARE, is_bare, names_a_variable
from winnow.engines.base import Request
from winnow.engines.server.bounded import PLAIN, answer_bytes, bounded_client, most_bytes
from winnow.engines.server.pacing import Pacer, retry_after
from winnow.engines.server.protocol import Api, BadAnswer, Counts, dispensable, question, read
from winnow.engines.server.quoting import quoted
from winnow.errors import UserError, install_extra
from winnow.types import Sample

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_MOST_AT_ONCE = 1000  # connections that the openai package opens
_LONGEST_BACK_OFF = 30.0
_LONGEST_WAIT = 600.0  # a server that asks for longer is out of quota
_CHECK_TIMEOUT = 10.0
_CHECK_RETRIES = 2
_NOBODY_BEHIND = (0, 502, 503, 504)  # no answer; a proxy without a server; one that still loads
_ANSWERED = 200
_ABOUT_THE_PROMPT = (400, 413, 422)  # such as a chat template that refuses it
_NEW_SEEDS = 2**20  # beyond the offsets of the choices of one request


@dataclass(frozen=True)
class Server:
    """Where a server is and how to ask it.

    Attributes:
        url: Its address up to the version, as "http://localhost:8000/v1".
        model: What the server calls the model.
        api: "completions" sends a prompt's text as it is; "chat" sends messages, to which the
            server applies the model's chat template.
        concurrency: Most requests under way at a time.
        requests_per_minute: Requests are sent at most so often, evenly spaced; 0: no limit.
        timeout: Seconds that a request may take.
        retries: Times that a failed request is sent again.
        key_env: Name of the environment variable with the key, which is nowhere else.
        logprobs: Whether to ask for log-probs. They also give the length of each sample.
        where: The table of settings that says all this, for messages.
        template_options: For the chat template, with "chat".
    """

    url: str
    model: str
    api: Api = "completions"
    concurrency: int = 16
    requests_per_minute: float = 0.0
    timeout: float = 600.0
    retries: int = 8
    key_env: str | None = None
    logprobs: bool = True
    where: str = "engine"
    template_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_bare(self.url):  # before any message that shows the address
            raise UserError(f"{self.where}.url", *NOT_BARE)
        if self.key_env is not None and not names_a_variable(self.key_env):
            raise UserError(f"{self.where}.key_env", *NOT_A_NAME)
        if not _is_address(self.url):
            problem = f"{self.url!r} is not an address"
            remedy = f"fix {self.where}.url, for example 'http://localhost:8000/v1'"
            raise UserError(f"{self.where}.url", problem, remedy)
        if self.api not in ("completions", "chat"):
            raise UserError(
                "engine.api", f"unknown endpoint {self.api!r}", "use 'completions' or 'chat'"
            )
        if not 1 <= self.concurrency <= _MOST_AT_ONCE:
            raise UserError(
                "engine.concurrency", f"must be from 1 to {_MOST_AT_ONCE} (got {self.concurrency})"
            )
        if not self.requests_per_minute >= 0:
            raise UserError("engine.requests_per_minute", "must not be negative")
        if not self.retries >= 0:
            raise UserError("engine.retries", "must not be negative")
        if not self.timeout > 0:
            raise UserError("engine.timeout", "must be above 0")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


class Passing(Exception):
    """A failure that may pass when the request is sent again (after `wait` seconds, if given).

    Args:
        cause: What is said of requests that failed so; default: their status, or no connection.
    """

    def __init__(
        self, message: str, status: int = 0, wait: float | None = None, cause: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.wait = status, wait
        self.cause = cause or (f"with HTTP {status}" if status else "without a connection")


class Refused(Exception):
    """A request that the server will never take."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class OneFailed(UserError):
    """A request that failed for good, where others may not.

    Attributes:
        nobody: Whether there was no answer at all.
    """

    def __init__(self, error: UserError, *, nobody: bool = False) -> None:
        super().__init__(error.setting, error.problem, error.remedy)
        self.nobody = nobody

    def __reduce__(self) -> tuple[Any, ...]:
        return UserError, (self.setting, self.problem, self.remedy)


class Caller:
    """Asks for samples.

    The key lives in here for as long as a `sample` or `check` lasts, and in no message.
    """

    def __init__(self, server: Server, counts: Counts, pacer: Pacer, backoff: float) -> None:
        self._server, self._counts, self._pacer, self._backoff = server, counts, pacer, backoff
        self._key = _key(server)
        self._client = _client(server, self._key)
        self._random = random.Random()  # not the global one, which a run may have seeded

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def check(self) -> None:
        """See `ServerSampler.check`."""
        limit = min(self._server.timeout, _CHECK_TIMEOUT)
        for attempt in range(_CHECK_RETRIES + 1):
            try:
                await self._answer(self._client.models.with_raw_response.list(), limit)
                return
            except (Refused, BadAnswer):  # such as 404: one that lists no models is a server too
                return
            except Passing as failure:
                if failure.status not in _NOBODY_BEHIND:
                    return
                reason = str(failure)
            if attempt < _CHECK_RETRIES:
                await self._pacer.sleep(self._backoff * 2**attempt)
        raise self._error(reason, f"start the server, or fix {self._server.where}.url")

    async def sample(self, request: Request, size: int, offset: int) -> list[Sample]:
        """At least one sample and at most ``size``; a `UserError` if the server gives none."""
        attempts = self._server.retries + 1
        for attempt in range(attempts):
            try:
                return await self._sample(request, size, offset)
            except BadAnswer as error:
                offset += _NEW_SEEDS  # the same seed might bring the same answer
                cause = "whose answer could not be read"
                failure = Passing(str(error), _ANSWERED, cause=cause)
            except Passing as error:
                failure = error
            except Refused as error:
                refused = self._error(str(error), self._remedy(error.status))
                if error.status in _ABOUT_THE_PROMPT:
                    refused = OneFailed(refused)
                    refused.add_note(f"it was asked with prompt {request.prompt.id!r}")
                raise refused from None
            if attempt + 1 < attempts:
                self._counts.causes[failure.cause] += 1
                await self._back_off(attempt, failure.wait)
        gave_up = self._error(f"failed {attempts} times in a row, the last time with: {failure}")
        raise OneFailed(gave_up, nobody=failure.status in _NOBODY_BEHIND)

    async def _sample(self, request: Request, size: int, offset: int) -> list[Sample]:
        """Ask once; if refused, ask without parameters that the server may not know."""
        server, counts = self._server, self._counts
        size = min(size, counts.most_choices or size)
        refusal: Refused | None = None
        without = set(counts.refused)
        while True:
            body = question(
                request,
                server.api,
                server.model,
                n=size,
                offset=offset,
                logprobs=server.logprobs,
                without=without,
                template=server.template_options,
            )
            try:
                answer = await self._post(body, size * request.params.max_tokens)
                break
            except Refused as error:
                refusal = refusal or error
                left_out = dispensable(body, str(error)) if error.status in (400, 422) else None
                if left_out is None:
                    raise refusal from None
                without.add(left_out)
        counts.refused |= without
        if "n" in without:
            size = counts.most_choices = 1
        given, samples = read(
            answer,
            request.params,
            asked=size,
            counts=counts,
            logprobs="logprobs" in body,
            api=server.api,
        )
        self._compare(answer)
        if given < size:
            counts.short_answers += 1
            counts.most_choices = min(given, counts.most_choices or given)
        return samples

    def _compare(self, answer: object) -> None:
        """Note the name that a server answers with, if it is not the one that was asked for.

        `transformers serve` adds the revision of a model, by default @main, which is the same one.
        """
        name, asked = answer.get("model") if isinstance(answer, dict) else None, self._server.model
        if isinstance(name, str) and name.strip() and name not in (asked, f"{asked}@main"):
            self._counts.other_name = self._counts.other_name or (self._quote(name), asked)

    async def _post(self, body: dict[str, Any], tokens: int) -> object:
        """The answer to a request for so many tokens, as JSON. The package validates neither."""
        await self._pacer.turn()
        call: Awaitable[Any]
        rest = {key: body[key] for key in body.keys() - {"model", "messages", "prompt"}}
        if "messages" in body:
            call = self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], extra_body=rest
            )
        else:
            call = self._client.completions.with_raw_response.create(
                model=body["model"], prompt=body["prompt"], extra_body=rest
            )
        text = await self._answer(call, self._server.timeout, tokens)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise BadAnswer("its answer is not JSON") from None

    async def _answer(self, call: Awaitable[Any], limit: float, tokens: int = 0) -> bytes:
        """The body of the server's answer. Errors have no cause: that would hold the request."""
        import openai

        most_bytes.set(answer_bytes(tokens))
        try:
            async with asyncio.timeout(limit):
                return cast(bytes, (await call).http_response.content)
        except (TimeoutError, openai.APITimeoutError):
            said = f"no answer within {limit:g} seconds"
            raise Passing(said, cause="without an answer in time") from None
        except openai.APIStatusError as error:
            raise self._failure(error) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, BadAnswer):
                raise BadAnswer(str(error.__cause__)) from None
            reason = str(error.__cause__ or "") or type(error.__cause__ or error).__name__
            raise Passing(self._quote(f"no connection: {reason}")) from None

    def _failure(self, error: APIStatusError) -> Exception:
        """The exception for a status that is no success."""
        status = error.status_code
        if status in (401, 403):
            return self._error(f"refuses the key ({status})", _about_key(self._server))
        if 300 <= status < 400:
            target = self._quote(error.response.headers.get("location", "")) or "nowhere"
            remedy = f"set {self._server.where}.url to that address, if it is the server you mean"
            return self._error(f"redirects to {target} ({status})", remedy)
        said = self._quote(f"{status} {_said(error.body)}")
        if status not in (408, 409, 429) and status < 500:
            return Refused(said, status)
        wait = retry_after(error.response.headers.get("retry-after", ""))
        if wait is not None and wait > _LONGEST_WAIT:
            return self._error(f"asks to come back in {wait:.9g} seconds: {said}")
        if wait is not None:
            self._pacer.hold(wait)
        return Passing(said, status, wait)

    async def _back_off(self, attempt: int, wait: float | None) -> None:
        """Wait longer with each attempt, with jitter; at least as long as the server asked."""
        delay = min(_LONGEST_BACK_OFF, self._backoff * 2**attempt) * self._random.uniform(0.5, 1)
        await self._pacer.sleep(delay if wait is None else wait + delay)

    def _error(self, problem: str, remedy: str = "") -> UserError:
        return UserError(f"{self._server.where}.url", f"{self._server.url}: {problem}", remedy)

    def _remedy(self, status: int) -> str:
        where = self._server.where
        model = "served_model" if where == "engine" else "model"
        fix = f"fix {where}.url (it mostly ends in /v1) or {where}.{model}"
        return fix if status == 404 else ""

    def _quote(self, text: str) -> str:
        return quoted(text, self._key)


def _client(server: Server, key: str | None) -> AsyncOpenAI:
    try:
        from openai import AsyncOpenAI
    except ImportError:
        sampling = server.where == "engine"
        problem = f"{'openai' if sampling else 'judge'!r} needs the openai package"
        setting = "engine.sampler" if sampling else server.where
        raise UserError(setting, problem, install_extra("server")) from None
    # without a key, the package would send that in OPENAI_API_KEY, to whatever server it is
    client = AsyncOpenAI(
        base_url=server.url,
        api_key=key or "EMPTY",
        timeout=server.timeout,
        max_retries=0,
        default_headers=PLAIN,
        http_client=bounded_client(),
    )
    client.organization = client.project = None  # from the environment too, and only for OpenAI
    return client


def _key(server: Server) -> str | None:
    """The key, or None where none is named.

    Raises:
        UserError: the variable is not set, or holds characters that the package would show in its
            errors.
    """
    name, setting = server.key_env, f"{server.where}.key_env"
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:  # without the name, which may be a key that looks like one
        problem = "the environment variable that it names is not set"
        raise UserError(setting, problem, f"set it, or leave {setting} out")
    if not (key.isascii() and key.isprintable() and " " not in key):
        problem = f"what {name} holds cannot be a key"
        raise UserError(setting, problem, "set it to the key alone")
    return key


def _about_key(server: Server) -> str:
    if server.key_env is None:
        return f"name the environment variable that holds one in {server.where}.key_env"
    return f"set the environment variable {server.key_env} to a key that the server takes"


def _said(body: object) -> str:
    """The message in the body of an error, in any of its usual places."""
    while isinstance(body, dict):
        body = next((body[key] for key in ("message", "detail", "error") if key in body), str(body))
    return str(body or "")
