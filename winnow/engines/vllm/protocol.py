"""What is said to a vLLM server and read of it: token ids in, token ids out. Sends nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from winnow.engines.base import SamplingParams
from winnow.engines.server.protocol import BadAnswer
from winnow.types import FinishReason

GENERATE = "/inference/v1/generate"
"""vLLM's endpoint for token ids (`--enable-scale-out`); it says which weights gave each token."""


@dataclass(frozen=True)
class Completion:
    """One completion, as the server has it.

    Attributes:
        reason: Why it ended; ``None`` if the server gave it up, for new weights.
        labels: The first token of each stretch, and the label of the weights that gave it.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    reason: FinishReason | None
    labels: tuple[tuple[int, str], ...]


def sample_seed(seed: int, number: int) -> int:
    """The seed of one sample of a request.

    A hash: vLLM gives the choices of one request the seeds s, s + 1, ..., so that prompts with
    neighboring seeds would share their random numbers.
    """
    digest = hashlib.blake2b(f"{seed}\x1f{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def question(
    model: str, ids: Sequence[int], params: SamplingParams, seed: int, ends: Collection[int]
) -> dict[str, Any]:
    """The body of a request for one completion.

    Args:
        ids: The prompt.
        ends: Tokens that end a completion.
    """
    how: dict[str, Any] = {
        "n": 1,
        "seed": seed,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "max_tokens": params.max_tokens,
        "logprobs": 0,
        "stop_token_ids": sorted(ends),
        "stop": list(params.stop),
    }
    return {"model": model, "token_ids": list(ids), "sampling_params": how}


def read(answer: object, params: SamplingParams, ends: Collection[int]) -> Completion:
    """The completion in an answer.

    Raises:
        BadAnswer: it is none that the request could have.
    """
    choice = _choice(answer)
    tokens = choice.get("token_ids")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise BadAnswer("its answer holds no token ids")
    if choice.get("finish_reason") == "abort":
        return Completion(tuple(tokens), (), None, ())
    labels = _labels(choice.get("weight_versions"))
    logprobs = tuple(value for _, value in _content(choice))
    if not 1 <= len(tokens) <= params.max_tokens or len(logprobs) != len(tokens):
        raise BadAnswer(f"its answer holds {len(tokens)} tokens and {len(logprobs)} log-probs")
    if [token for token, _ in _content(choice)] != tokens:
        raise BadAnswer("its log-probs are of other tokens")
    reason = _finish_reason(choice, tokens, ends)
    if reason == "length" and len(tokens) < params.max_tokens:
        problem = f"it stops at {len(tokens)} of {params.max_tokens} tokens: its context is full"
        raise BadAnswer(problem)
    return Completion(tuple(tokens), logprobs, reason, labels)


def probe(model: str, ids: Sequence[int], tokens: Sequence[int], heat: float) -> dict[str, Any]:
    """The body of a request for the log-probs of given tokens after a prompt.

    The answer has as many as are asked for, the sampled token's first: one more is asked for, which
    that may take the place of.
    """
    other = next(token for token in range(len(tokens) + 1) if token not in tokens)
    how = {
        "temperature": heat,
        "max_tokens": 1,
        "logprobs": len(tokens) + 1,
        "logprob_token_ids": [*tokens, other],
    }
    return {"model": model, "token_ids": list(ids), "sampling_params": how}


def read_probe(answer: object) -> dict[int, float]:
    """Log-probs by token.

    Raises:
        BadAnswer: it has none.
    """
    listed = _choice(answer).get("logprobs")
    content = listed.get("content") if isinstance(listed, dict) else None
    first = content[0] if isinstance(content, list) and content else None
    if not isinstance(first, dict) or not isinstance(first.get("top_logprobs"), list):
        raise BadAnswer("its answer holds no log-probs")
    return dict(_token(entry) for entry in first["top_logprobs"])


def _choice(answer: object) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise BadAnswer("its answer holds no completion")
    return choices[0]


def _content(choice: Mapping[str, Any]) -> list[tuple[int, float]]:
    listed = choice.get("logprobs")
    content = listed.get("content") if isinstance(listed, dict) else None
    return [_token(entry) for entry in content] if isinstance(content, list) else []


def _token(entry: object) -> tuple[int, float]:
    token = entry.get("token_id") if isinstance(entry, dict) else None
    value = entry.get("logprob") if isinstance(entry, dict) else None
    if type(token) is not int or isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAnswer("its answer holds no log-probs")
    if not math.isfinite(value) or value > 1e-3:  # a rounded 0 may lie above 0
        raise BadAnswer(f"it gives a log-prob of {value}")
    return token, min(0.0, float(value))


def _labels(spans: object) -> tuple[tuple[int, str], ...]:
    if not isinstance(spans, list) or not spans:
        raise BadAnswer("it does not say which weights it sampled from")
    found = []
    for span in spans:
        start = span.get("start") if isinstance(span, dict) else None
        label = span.get("version") if isinstance(span, dict) else None
        if type(start) is not int or not isinstance(label, str):
            raise BadAnswer("it does not say which weights it sampled from")
        found.append((start, label))
    return tuple(found)


def _finish_reason(
    choice: Mapping[str, Any], tokens: Sequence[int], ends: Collection[int]
) -> FinishReason:
    """An end token counts before a stop string, and that before the limit, as in this process."""
    if tokens[-1] in ends:
        return "eos"
    said = choice.get("finish_reason")
    if said == "stop" and isinstance(choice.get("stop_reason"), str):
        return "stop"
    if said == "length":
        return "length"
    raise BadAnswer(f"its completion ends with {said!r}, and with no end token")
