"""A pool of real vLLM servers on the CPU, against the engine of this process: `make test-vllm`.

Each server has one thread and half a minute or more to start.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import winnow
from tests.engines.vllm.given import load, sampled, soon
from winnow.config.schema import from_dict
from winnow.engines.base import Request, SamplingParams
from winnow.engines.factory import Place, engine_for, policy_sampler
from winnow.engines.local.engine import LocalEngine
from winnow.engines.vllm.sampler import VLLMSampler
from winnow.errors import NoServer
from winnow.types import Group, Prompt, Sample

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]
FEW = "12 + 7 = 19\n30 + 24 = 54\n8 + 65 = 73\n"
LONG = FEW * 4
"""Longer than three blocks of the prefix cache."""
PYTHON = os.environ.get("WINNOW_VLLM_PYTHON", "")


def settings(servers: int, **engine: Any) -> dict[str, Any]:
    own = {"sampler": "vllm", "servers": servers, "vllm_python": PYTHON, "vllm_context": 512}
    return {
        "threads": 1,
        "device": "cpu",
        "sampling": {"batch": 64, "cache_gib": 1.0},
        "engine": {**own, "timeout": 300.0, **engine},
    }


class Pool:
    """An engine, its pool and what was heard of it."""

    def __init__(self, folder: Path, servers: int, given: dict[str, Any] | None = None) -> None:
        config = from_dict({**settings(servers), **(given or {})})
        self.said: list[str] = []
        engine = engine_for(config)
        assert isinstance(engine, LocalEngine)
        sampler = policy_sampler(config, engine, ratio=True, place=Place(folder, self.said.append))
        assert isinstance(sampler, VLLMSampler)
        self.engine, self.sampler, self.version = engine, sampler, 0

    def update(self, by: float = 0.01) -> None:
        """Other weights, sent."""
        self.version += 1
        generator = torch.Generator().manual_seed(self.version)
        with torch.no_grad():
            for weight in self.engine.trained():
                weight *= 1 + by * torch.randn(weight.shape, generator=generator)
        self.send()

    def send(self) -> None:
        load(self.sampler, self.engine.publish(self.version))

    def sample(self, number: int = 12, n: int = 4, text: str = FEW, **params: Any) -> list[Group]:
        how = SamplingParams(**{"max_tokens": 24, "stop": ("7", "\n\n"), **params})
        prompts = [Prompt(str(i), f"{text}{i + 10} + {2 * i + 11} =") for i in range(number)]
        asked = [Request(prompt, n, 10_000 + i, how) for i, prompt in enumerate(prompts)]
        return sampled(self.sampler, asked)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("run"), 2)
    pool.send()
    yield pool
    pool.sampler.close()


def largest(pool: Pool, groups: list[Group], heat: float) -> float:
    """The largest difference of a token's log-prob from the local engine's."""
    forward = pool.engine.forward()
    worst = 0.0
    for group in groups:
        for sample in group.samples:
            ids = torch.tensor([[*group.prompt_ids, *sample.token_ids]])
            with torch.no_grad():
                logits: Any = forward.module(input_ids=ids).logits[
                    0, len(group.prompt_ids) - 1 : -1
                ]
            own = (logits.float() / heat).log_softmax(-1)
            for place, (token, value) in enumerate(
                zip(sample.token_ids, sample.logprobs, strict=True)
            ):
                worst = max(worst, abs(float(own[place, token]) - value))
    return worst


@pytest.mark.parametrize(("heat", "at"), [(1.0, 1.0), (0.7, 0.7), (0.0, 1.0)])
def test_logprobs_are_those_of_this_process(two: Pool, heat: float, at: float) -> None:
    if heat == 0.7:
        two.update()
    groups = two.sample(temperature=heat)
    gap = largest(two, groups, at)
    print(f"at temperature {heat}: {gap:.1e} nats at most")
    assert gap < 1e-4
    assert {s.policy_version for group in groups for s in group.samples} == {two.version}


def test_samples_are_told_as_this_process_tells_its_own(two: Pool) -> None:
    """The same tokens give the same reason, text and ends, however they end."""
    groups = two.sample(number=24)
    stopper = two.engine.sampler(from_dict({}).sampling)._stopper(("7", "\n\n"))
    reasons: Counter[str] = Counter()
    for group in groups:
        assert group.prompt_ids == two.engine.encode(group.prompt)
        for sample in group.samples:
            tokens = sample.token_ids
            for length in range(1, len(tokens)):
                assert stopper.reason(tokens[:length], 24) is None
            assert stopper.reason(tokens, 24) == sample.finish_reason
            assert stopper.text(tokens, sample.finish_reason) == sample.text
            assert stopper.ends(tokens, sample.text) == sample.token_ends
            reasons[sample.finish_reason] += 1
    print(reasons)
    assert reasons.keys() >= {"stop", "length"}


def test_tokens_are_as_frequent_as_they_are_likely(two: Pool) -> None:
    """2,000 first tokens of a prompt against their probabilities: each within five deviations.

    Of those that are likely enough for a normal distribution.
    """
    number = 2000
    (group,) = two.sample(1, number, temperature=1.0, max_tokens=1, text="The answer is")
    found = Counter(sample.token_ids[0] for sample in group.samples)
    likely = [token for token, count in found.most_common(20)]
    tokens = tuple(Sample((token,), (), "", "length") for token in likely)
    (logprobs,) = two.engine.logprobs([Group(group.prompt, group.prompt_ids, tokens)], 1.0)
    pairs = [(token, math.exp(p)) for token, p in zip(likely, logprobs, strict=True)]
    assert sum(p * number >= 10 for _, p in pairs) >= 3
    for token, p in pairs:
        if p * number < 10:
            continue
        assert abs(found[token] / number - p) < 5 * math.sqrt(p * (1 - p) / number), token


def test_a_stale_cache_is_seen(two: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reset left out, once: the canary misses, and the second try, with it, is fine."""
    two.sample(text=LONG)
    whole, resets = two.sampler._delivery, iter([False])
    gaps: list[float] = []

    def delivery(*at: Any) -> Any:
        made = whole(*at)
        return dataclasses.replace(made, resets=next(resets, True))

    monkeypatch.setattr(two.sampler, "_delivery", delivery)
    from winnow.engines.vllm.delivery import Delivery

    check = Delivery.check

    def checked(self: Delivery, *at: Any) -> float:
        try:
            return check(self, *at)
        except Exception as error:
            gaps.append(1.0)
            print(f"without the reset: {error}")
            raise

    monkeypatch.setattr(Delivery, "check", checked)
    two.update()
    assert len(gaps) >= 2  # both servers, at least once each
    assert soon(lambda: len(two.sampler._pool.up) == 2)
    monkeypatch.undo()
    assert largest(two, two.sample(4), 1.0) < 1e-4


def test_kill_dash_nine_of_a_server_loses_nothing(two: Pool) -> None:
    member = two.sampler._pool.members[0]
    assert member.process is not None
    group = member.process.group
    assert group is not None
    before = len(two.said)
    how = SamplingParams(max_tokens=60)
    prompts = [Prompt(str(i), f"{FEW}{i} + {i} =") for i in range(16)]
    two.sampler.submit([Request(one, 4, 77 + i, how) for i, one in enumerate(prompts)])
    results = two.sampler.results()
    made = [next(results)]
    os.kill(group, signal.SIGKILL)
    made += list(results)
    assert sorted(len(group.samples) for _, group in made) == [4] * 16
    assert two.said[before].startswith("server 0 failed, and others take its requests: ")
    assert any(soon(lambda: len(two.sampler._pool.up) == 2) for _ in range(30))
    two.update()
    assert largest(two, two.sample(), 1.0) < 1e-4


def test_adapters_travel_alone(tmp_path: Path) -> None:
    given = {**settings(1, transfer="lora"), "lora": {"rank": 4}}
    pool = Pool(tmp_path, 1, given)
    try:
        pool.send()
        assert largest(pool, pool.sample(4), 1.0) < 1e-4
        pool.update(by=0.0)
        with torch.no_grad():
            for weight in pool.engine.trained():
                weight += 0.02 * torch.randn(weight.shape)
        pool.send()
        assert largest(pool, pool.sample(4), 1.0) < 1e-4
        print(pool.sampler.notes(), pool.sampler.seconds)
    finally:
        pool.sampler.close()


def test_a_recipe_trains_with_one_server(tmp_path: Path) -> None:
    given = settings(1)
    result = winnow.train(
        recipe="arithmetic",
        **{**given, "sampling": {**given["sampling"], "max_tokens": 8, "stop": ["\n"]}},
        steps=3,
        prompts_per_step=4,
        samples_per_prompt=4,
        minibatch_prompts=4,
        eval={"size": 0},
        out=tmp_path / "run",
        quiet=True,
    )
    for row in result.metrics:
        for group in result.run.samples(row["step"], "train"):
            assert all(
                s.policy_version == row["policy_version"] - row["updates"] for s in group.samples
            )
        if row["updates"]:
            assert row["ratio_mean"] == pytest.approx(1, abs=1e-3)


def test_more_prompt_tokens_at_once_than_are_read_at_once(two: Pool) -> None:
    """48 prompts of 179 tokens that have no first block in common, at two servers."""
    draw = random.Random(1)
    texts = [" ".join(str(draw.randrange(10, 99)) for _ in range(60)) for _ in range(48)]
    how = SamplingParams(max_tokens=8)
    before = len(two.said)
    groups = sampled(
        two.sampler, [Request(Prompt(str(i), text), 2, i, how) for i, text in enumerate(texts)]
    )
    assert len(two.said) == before
    assert largest(two, groups[:4], 1.0) < 1e-4


def test_none_that_cannot_start_is_waited_for(tmp_path: Path) -> None:
    pool = Pool(tmp_path, 1, settings(1, vllm_args=["--no-such-argument"]))
    with pytest.raises(NoServer, match="no-such-argument"):
        pool.send()
    pool.sampler.close()
