"""Builds requests and reads answers in OpenAI's two protocols. Sends nothing.

A server may be wrong about anything: what cannot be true is counted and never used.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal

from winnow.engines.base import Request, SamplingParams
from winnow.errors import number_of
from winnow.storage.messages import for_server, tools_of
from winnow.types import FinishReason, Sample

Api = Literal["completions", "chat"]

_SEED_BITS = 0x7FFF_FFFF  # every server takes such seeds
_CHARACTERS_A_TOKEN = 4

_REFUSABLE = {
    "max_tokens": r"\bmax_completion_tokens\b",  # its newer name, which some hosts insist on
    "logprobs": r"logprobs",
    "n": r"\bn\b|choice",
    "seed": r"seed",
}
"""Parameters that a request can do without, and how a refusal names them. Tried in this order."""


class BadAnswer(Exception):
    """The server's answer holds nothing usable."""


@dataclass
class Counts:
    """Counts of what went wrong.

    Attributes:
        causes: Why requests were sent again, and how many were.
        short_answers: Answers with fewer choices than asked, until their number was known.
        long_answers: Answers with more choices than asked; the first ones were kept.
        bad_choices: Choices without a text, in answers where others had one; asked for again.
        bad_usage: Samples whose length is a guess.
        bad_logprobs: Samples whose log-probs could not be true and were dropped.
        no_logprobs: Samples without log-probs, though they were asked for.
        most_choices: Choices that the server gives a request, if fewer than asked.
        groups: Groups of two samples or more, at a temperature that is not 0.
        same: Of these, those whose samples all have one text.
        refused: Parameters that the server refuses.
        other_name: A model that the server answered as, though another was asked for, and that one.
    """

    causes: Counter[str] = field(default_factory=Counter)
    short_answers: int = 0
    long_answers: int = 0
    bad_choices: int = 0
    bad_usage: int = 0
    bad_logprobs: int = 0
    no_logprobs: int = 0
    most_choices: int | None = None
    groups: int = 0
    same: int = 0
    refused: set[str] = field(default_factory=set)
    other_name: tuple[str, str] | None = None

    @property
    def retries(self) -> int:
        """Requests that were sent again."""
        return self.causes.total()

    def notes(self) -> list[str]:
        """The counts as sentences; none where all was well."""
        several = len(self.causes) > 1
        why = ", ".join(
            f"{number} {cause}" if several else cause for cause, number in self.causes.most_common()
        )
        told = (
            (self.retries, f"{number_of(self.retries, 'request')} retried ({why})"),
            (
                self.short_answers,
                f"the server gave fewer answers than asked for; it is asked for "
                f"{self.most_choices} at a time",
            ),
            (self.long_answers, "the server gave more answers than asked for; they were dropped"),
            (
                self.bad_choices,
                f"{number_of(self.bad_choices, 'answer')} had no text and had to be asked for "
                "again",
            ),
            (
                self.bad_usage,
                f"the length of {number_of(self.bad_usage, 'sample')} is a guess: the server's "
                "count of tokens was missing or cannot be true",
            ),
            (
                self.bad_logprobs,
                f"the log-probs of {number_of(self.bad_logprobs, 'sample')} cannot be true and "
                "were dropped",
            ),
            (
                self.no_logprobs,
                f"the server gave no log-probs for {number_of(self.no_logprobs, 'sample')}: their "
                "column `logprobs` is empty, and no ratio or KL can be computed from them",
            ),
            (
                self.other_name is not None,
                "the server answers as {!r}, and was asked for {!r} (engine.served_model): is it "
                "the model you mean?".format(*self.other_name or ("", "")),
            ),
            (
                self.same and self.same == self.groups,
                "all samples of a prompt are the same, for every prompt: the server may be taking "
                "the likeliest token, whatever the temperature",
            ),
            (
                "logprobs" in self.refused,
                "the server refuses `logprobs`: its samples have none, and no ratio or KL can be "
                "computed from them",
            ),
            ("n" in self.refused, "the server refuses `n`: it is asked for one answer at a time"),
            ("seed" in self.refused, "the server refuses `seed`: other samples come every time"),
        )
        return [sentence for applies, sentence in told if applies]


def question(
    request: Request,
    api: Api,
    model: str,
    *,
    n: int,
    offset: int,
    logprobs: bool,
    without: Collection[str] = (),
    template: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of a request for n choices.

    ``top_p`` is sent even where it is 1: some servers would take the model's generation config for
    it. ``top_k`` of 0 is not sent, as few know it.

    Args:
        offset: Choices of this request that were asked for before. It moves the seed, so that the
            same choices do not come again.
        without: Parameters that the server refuses.
        template: Options of the chat template, for servers that take `chat_template_kwargs`.
    """
    prompt, params = request.prompt, request.params
    body: dict[str, Any] = {"model": model, "temperature": params.temperature}
    if api == "chat":
        asked = prompt.messages or ({"role": "user", "content": prompt.text},)
        body["messages"] = for_server(asked)
        tools = tools_of(prompt.data) if prompt.messages else None
        if tools is not None:
            body["tools"] = tools
        if template:
            body["chat_template_kwargs"] = dict(template)
    else:
        body["prompt"] = prompt.text
    body["max_completion_tokens" if "max_tokens" in without else "max_tokens"] = params.max_tokens
    if params.stop:
        body["stop"] = list(params.stop)
    body["top_p"] = params.top_p
    if params.top_k > 0:
        body["top_k"] = params.top_k
    if n > 1 and "n" not in without:
        body["n"] = n
    if "seed" not in without:
        body["seed"] = (request.seed + offset) & _SEED_BITS
    if logprobs and "logprobs" not in without:
        body["logprobs"] = True if api == "chat" else 1  # 0 is "none" to some servers
    return body


def dispensable(body: dict[str, Any], refusal: str) -> str | None:
    """What to leave out of a refused request: what the refusal names, else the first that can go.

    None where nothing is left that can go.
    """
    sent = [name for name in _REFUSABLE if name in body]
    named = [name for name in sent if re.search(_REFUSABLE[name], refusal)]
    return next(iter(named or [name for name in sent if name != "max_tokens"]), None)


def read(
    answer: object,
    params: SamplingParams,
    *,
    asked: int,
    counts: Counts,
    logprobs: bool = False,
    api: Api = "completions",
) -> tuple[int, list[Sample]]:
    """How many choices an answer has, and the samples among the first ``asked`` of them.

    The length of a sample is that of its log-probs; else its even share of the server's token count
    for all choices; else the token limit, where it ended there; else a guess from its text at four
    characters a token.

    Args:
        logprobs: Whether log-probs were asked for.
        api: What was asked; a choice of `chat` without a message is none.

    Raises:
        BadAnswer: no choice has a text.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(choices, list) or not choices:
        raise BadAnswer("its answer holds no choices")
    given = len(choices)
    counts.long_answers += given > asked
    shares = _shares(answer.get("usage"), given, params.max_tokens)
    read = [
        _sample(choice, params, share, counts, logprobs)
        if api == "completions" or _has_message(choice)
        else None
        for choice, share in zip(choices[:asked], shares, strict=False)
    ]
    samples = [sample for sample in read if sample is not None]
    if not samples:
        raise BadAnswer("its answer holds no text")
    counts.bad_choices += len(read) - len(samples)
    return given, samples


def _shares(usage: object, given: int, most: int) -> list[int | None]:
    """Tokens of each choice, as evenly as their sum allows; None where that cannot be the sum."""
    total = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(total) is not int or not given <= total <= given * most:
        return [None] * given
    whole, rest = divmod(total, given)
    return [whole + (place < rest) for place in range(given)]


def _sample(
    choice: object, params: SamplingParams, share: int | None, counts: Counts, asked: bool
) -> Sample | None:
    if not isinstance(choice, dict) or (text := _text(choice)) is None:
        return None
    listed = _listed_logprobs(choice)
    logprobs: tuple[float, ...] = ()
    if all(map(_is_logprob, listed)) and len(listed) <= params.max_tokens:
        logprobs = tuple(min(0.0, float(value)) for value in listed)
        counts.no_logprobs += asked and not listed and text != ""
    else:
        counts.bad_logprobs += 1
    known = len(logprobs) or share
    kept = _before_stop(text, params.stop)
    reason = "stop" if kept != text else _finish_reason(choice, known or 0, params)
    if known is None and choice.get("finish_reason") == "length":
        known = params.max_tokens
    if known is None:
        counts.bad_usage += text != ""  # an empty completion is one token, its end
        known = min(params.max_tokens, 1 + len(text) // _CHARACTERS_A_TOKEN)
    ends = _token_ends(choice, text, kept) if logprobs else ()
    return Sample((), logprobs, kept, reason, length=known, token_ends=ends)


def _has_message(choice: object) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict)


def _text(choice: dict[str, Any]) -> str | None:
    """The text of a choice, of either protocol, without the thoughts of a reasoning model.

    If it is cut off within its thoughts, the text is empty.
    """
    message = choice.get("message")
    if isinstance(message, dict):
        text = message.get("content")
        thought = message.get("reasoning_content") or message.get("reasoning")
        if text is None and (thought or choice.get("finish_reason") == "length"):
            text = ""
    else:
        text = choice.get("text")
    if not isinstance(text, str):
        return None
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text


def _listed_logprobs(choice: dict[str, Any]) -> list[Any]:
    """One entry a token, in the shape of either protocol: some servers answer in the other's."""
    held = choice.get("logprobs")
    if held is None:
        return []
    if not isinstance(held, dict):
        return _WRONG_TYPE
    values, content = held.get("token_logprobs"), held.get("content")
    if isinstance(values, list):
        return values
    if isinstance(content, list):
        return [token.get("logprob") if isinstance(token, dict) else None for token in content]
    return [] if values is None and content is None else _WRONG_TYPE


def _token_ends(choice: dict[str, Any], text: str, kept: str) -> tuple[int, ...]:
    """Where each listed token ends in the text that is kept: `types.Sample.token_ends`.

    By the tokens' bytes where all are given, else by their texts; empty where these are not the
    choice's text, perhaps with an end token behind it.
    """
    held = choice["logprobs"]
    listed = held.get("tokens") if held.get("content") is None else held["content"]
    parts = [_bytes(token) for token in listed] if isinstance(listed, list) else [None]
    number, there = len(_listed_logprobs(choice)), [part for part in parts if part is not None]
    if len(there) != len(parts) or len(there) != number:
        return ()
    if not b"".join(there).startswith(text.encode()):
        return ()
    characters = list(accumulate(len(character.encode()) for character in kept))  # their ends
    ends = [bisect_right(characters, end) for end in accumulate(map(len, there))]
    return (*ends[:-1], len(kept))


def _bytes(token: object) -> bytes | None:
    """The bytes of a listed token; ``None`` where there is nothing that it can be."""
    text = token.get("token") if isinstance(token, dict) else token
    own = token.get("bytes") if isinstance(token, dict) else None
    if isinstance(own, list):
        right = all(type(byte) is int and 0 <= byte < 256 for byte in own)
        return bytes(own) if right else None
    return text.encode("utf-8", "replace") if isinstance(text, str) else None


_WRONG_TYPE = [None]
"""What is listed where something is, but no list: no log-prob."""


def _is_logprob(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -1e9 < value < 1e-3  # neither NaN nor infinite; a rounded 0 may lie above 0


def _before_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text up to the first stop string. Some servers leave it in, some ignore it."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def _finish_reason(choice: dict[str, Any], length: int, params: SamplingParams) -> FinishReason:
    """Why a completion ended, in Winnow's terms.

    "stop" is a stop string where one was asked for, unless the server names what it stopped at
    (vLLM's `stop_reason`) and that is no string. A content filter counts as the token limit. With
    anything else (a tool call, or no reason) the model ended by itself, if not at the limit.
    """
    said = choice.get("finish_reason")
    if said in ("length", "max_tokens", "content_filter"):
        return "length"
    if said == "stop":
        at_string = params.stop and isinstance(choice.get("stop_reason", ""), str)
        return "stop" if at_string else "eos"
    return "length" if length >= params.max_tokens else "eos"
