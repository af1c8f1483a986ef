"""Bytes through rank 0, against what is really sent."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests import build, fake_vllm
from winnow.engines.base import SamplingParams
from winnow.engines.fsdp.worker import Worker
from winnow.engines.vllm.protocol import question, read
from winnow.rewards.source import dumps
from winnow.training.scale.step import Lengths, Spread, Step
from winnow.training.scale.traffic import (
    ANSWER_TOKEN,
    GROUP_TOKEN,
    RATIO_TOKEN,
    REQUEST,
    REQUEST_TOKEN,
    traffic,
)
from winnow.types import Sums

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(1000, 152064, 2000).tolist()
LOGPROBS = (-RANDOM.exponential(0.3, 2000)).tolist()


def test_a_request_is_about_as_long_as_told() -> None:
    how = SamplingParams(max_tokens=3072)
    body = question("policy", TOKENS[:256], how, 2**62, (151643, 151645))
    assert len(json.dumps(body)) == pytest.approx(REQUEST + REQUEST_TOKEN * 256, rel=0.1)


def test_an_answer_is_about_as_long_as_told() -> None:
    """Each token's id stands in `token_ids` and, with its log-prob, twice in `content`."""
    entries = [
        {"token_id": token, "logprob": logprob}
        for token, logprob in zip(TOKENS, LOGPROBS, strict=True)
    ]
    content = [{**entry, "top_logprobs": [entry]} for entry in entries]
    answer = fake_vllm.choice(TOKENS, content, "length", None, "1-abc")
    raw = json.dumps(answer)
    assert read(json.loads(raw), SamplingParams(max_tokens=2000), ()).tokens == tuple(TOKENS)
    assert len(raw) / 2000 == pytest.approx(ANSWER_TOKEN, rel=0.1)


def test_a_group_is_about_as_long_as_told() -> None:
    """To the ranks with its text, four characters a token; from them the ratios of its tokens."""
    made = build.sample("word" * 2000, TOKENS)
    ends = tuple(range(4, 8001, 4))
    made = replace(made, logprobs=tuple(LOGPROBS), token_ends=ends)
    group = replace(build.group([1.0]), samples=(made,))
    message = dumps((sys.path, Worker.step, (0, [group], (), None, 1.0, None)))
    assert len(message) / 2000 == pytest.approx(GROUP_TOKEN, rel=0.1)
    back = pickle.dumps(Sums(token_ratios=[*LOGPROBS]))
    assert len(back) / 2000 == pytest.approx(RATIO_TOKEN, rel=0.1)


def test_what_a_step_sends_adds_up() -> None:
    """By hand: 4096 completions of 1000 tokens, 64 servers, 64 ranks, 15.2 GB of weights."""
    weights = 2 * 7_615_616_512
    step = Step(1024, 4096, 2, 1, busiest=1, microbatches=1, positions=1)
    found = traffic(step, Lengths(256, 1000, 3072), Spread(64, 64), weights)
    assert found.answered == ANSWER_TOKEN * 4_096_000
    assert found.handed == 63 * GROUP_TOKEN * 4_096_000
    assert found.fetched == 64 * weights == 64 * found.written
    alone = traffic(step, Lengths(256, 1000, 3072), Spread(1, 0), weights)
    assert vars(alone) == dict.fromkeys(vars(alone), 0.0)
