"""A sampler's own copy of the weights: the distribution that it samples is the one it records."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

from tests import local, tiny
from tests.engines.models import architectures
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import PRESENT, START, Request, SamplingParams, WeightsRef
from winnow.engines.local import own_copy
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.own_copy import OwnCopy
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models import tree_attention
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.low_attention import low_attention
from winnow.errors import UserError
from winnow.rollouts.generate import ask
from winnow.types import Group, Outcome, Prompt, Score

PROMPTS = ["1+2=", "a", "what is 3 + 4, and why is it not 5", "2*3=\n7-1="]
ROUNDING = 2.0**-8
"""Half a unit in the last place of bfloat16, relative."""


def requests(prompts: list[str], n: int, params: SamplingParams) -> list[Request]:
    return [Request(Prompt(id=p, text=p), n, i, params) for i, p in enumerate(prompts)]


def sampled(sampler: LocalSampler, n: int = 12, heat: float = 1.0) -> list[Group]:
    asked = requests(PROMPTS, n, SamplingParams(temperature=heat, max_tokens=20, stop=("7",)))
    found = dict(ask(sampler, asked))
    return [found[i] for i in range(len(asked))]


def own(module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> LocalSampler:
    policy = PolicyForward(module)
    made = OwnCopy(lambda: policy, dtype)
    return LocalSampler(
        made.forward, tiny.tokenizer(), 64, probed=made.token_bytes, outdate=made.outdate
    )


def plainly(module: Any, group: Group, heat: float) -> list[list[float]]:
    """log pi of each token, by a pass of the module over each sample alone, without a cache."""
    found = []
    for sample in group.samples:
        ids = torch.tensor([[*group.prompt_ids, *sample.token_ids]])
        with torch.no_grad():
            logits = module(input_ids=ids, use_cache=False).logits[0].float() / heat
        rows = logits.log_softmax(-1)[len(group.prompt_ids) - 1 : -1]
        found.append([float(row[t]) for row, t in zip(rows, sample.token_ids, strict=True)])
    return found


def in_half(net: Any) -> Any:
    return copy.deepcopy(net).to(torch.bfloat16)


def distances(module: Any, groups: list[Group], heat: float = 1.0) -> list[float]:
    return [
        abs(a - b)
        for group in groups
        for sample, plain in zip(group.samples, plainly(module, group, heat), strict=True)
        for a, b in zip(sample.logprobs, plain, strict=True)
    ]


@pytest.mark.parametrize("heat", [1.0, 0.6])
def test_recorded_log_probs_are_those_of_a_bfloat16_module(heat: float) -> None:
    """By transformers itself, in bfloat16. Both round each logit to 2^-8 of it; logits here are up
    to 10 or so, and errors of the layers before are of that order. Off the float32 module's they
    are further, or the copy would not be in bfloat16."""
    net = tiny.rambling()
    groups = sampled(own(net), heat=heat)
    half = in_half(net)
    off, from_float = distances(half, groups, heat), distances(net, groups, heat)
    assert len(off) > 200
    assert np.mean(off) < 10 * ROUNDING / heat
    assert np.mean(from_float) > 1e-4
    assert max(off) < 100 * ROUNDING / heat
    assert net.dtype == torch.float32


def test_a_copy_in_float32_records_the_modules_own() -> None:
    net = tiny.rambling()
    assert max(distances(net, sampled(own(net, torch.float32)))) < 1e-4


def test_a_copy_in_float32_of_rounded_weights_rounds_nothing_more() -> None:
    """On a CPU that is slow in bfloat16, say. It is as far from the module as that from it."""
    half = in_half(tiny.rambling())
    groups = sampled(own(half, torch.float32))
    assert max(distances(copy.deepcopy(half).float(), groups)) < 1e-4
    assert np.mean(distances(half, groups)) > 1e-3


def test_completions_follow_the_bfloat16_policy() -> None:
    """Two tokens of one prompt: frequencies against all that a bfloat16 module can say."""
    net, n = tiny.rambling(), 6000
    for parameter in net.parameters():
        parameter.data.mul_(1.6 if parameter.dim() > 1 else 1)  # few likely completions
    params = SamplingParams(max_tokens=2)
    sampler = own(net)
    sampler._batch = 512
    (group,) = dict(ask(sampler, requests(["1+2="], n, params))).values()
    half = in_half(net)
    size, prompt = len(tiny.tokenizer()), list(group.prompt_ids)
    with torch.no_grad():
        first = half(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        ids = torch.tensor([[*prompt, token] for token in range(size)])
        second = half(ids).logits[:, -1].double().softmax(-1)
    expected: dict[tuple[int, ...], float] = {(0,): float(first[0])}
    expected |= {
        (a, b): float(first[a] * second[a, b]) for a in range(1, size) for b in range(size)
    }
    counts = dict.fromkeys(expected, 0)
    for sample in group.samples:
        counts[sample.token_ids] += 1
    common = [key for key, p in expected.items() if p * n > 8]
    assert len(common) > 20
    seen = [counts[key] for key in common]
    wanted = [expected[key] * n for key in common]
    seen.append(n - sum(seen))
    wanted.append(n - sum(wanted))
    assert stats.chisquare(seen, wanted).pvalue > 0.001


ENGINES: tuple[dict[str, Any], ...] = ({}, {"lora": {"rank": 4}}, {"dtype": "bfloat16"})


def moved(engine: LocalEngine) -> None:
    """An update at a rate that changes what is sampled."""
    learner = engine.learner(local.plan(lr=0.02))
    groups = [
        group.with_(
            scores=(Score(1.0),) * len(group.samples),
            outcomes=(Outcome(True, ""),) * len(group.samples),
            advantages=tuple((-1.0) ** i for i in range(len(group.samples))),
        )
        for group in sampled(engine.sampler(SamplingConfig()), n=6)
    ]
    local.step(learner, groups, ALGORITHMS["grpo"].terms)
    learner.close()


def merged(engine: LocalEngine, folder: Path) -> Any:
    """The present weights as a plain module, by way of a checkpoint."""
    engine.save(folder, merged=True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def says_the_same(sampler: LocalSampler, engine: LocalEngine, folder: Path) -> bool:
    """Whether what it samples is what a copy made anew of a plain model would, bit for bit."""
    again = own(merged(engine, folder))
    return [g.samples for g in sampled(sampler)] == [
        tuple(replace(sample, policy_version=sampler.version) for sample in g.samples)
        for g in sampled(again)
    ]


Change = Callable[[LocalEngine], None]


def restarted(engine: LocalEngine) -> None:
    learner = engine.learner(local.plan())
    learner.restart(START)
    learner.close()


CHANGES: dict[str, Change] = {
    "update": moved,
    "restore": lambda engine: engine.restore(START),
    "average": lambda engine: engine.average(START, 0.5),
    "restart": restarted,
}


@pytest.mark.parametrize("settings", ENGINES, ids=["whole", "lora", "bfloat16"])
def test_whoever_samples_after_weights_changed_has_the_new_ones(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Compared with a copy of a plain model that was saved with the present weights."""
    engine = local.engine(tiny_model, sampling={"dtype": "bfloat16"}, **settings)
    engine.snapshot(START)
    sampler = engine.sampler(SamplingConfig(dtype="bfloat16"))
    sampler.load(engine.publish(0))
    before = [group.samples for group in sampled(sampler)]
    assert says_the_same(sampler, engine, tmp_path / "0")
    order = ["update", "restore", "update", "average", "update", "restart"]
    for number, name in enumerate(order, start=1):
        CHANGES[name](engine)
        sampler.load(engine.publish(number))
        now = sampled(sampler)
        assert {one.policy_version for group in now for one in group.samples} == {number}
        assert says_the_same(sampler, engine, tmp_path / str(number)), name
        if name == "update":
            assert [g.samples for g in now] != before
    moved(engine)
    fresh = engine.sampler(SamplingConfig(dtype="bfloat16"))  # one that nobody gave new weights
    assert says_the_same(fresh, engine, tmp_path / "fresh")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_copy_of_a_module_that_computes_activations_again_is_its_own(
    tiny_model: Path, tmp_path: Path, dtype: Any
) -> None:
    """The learner is there first, as in a run; its blocks are not the copy's."""
    engine = local.engine(tiny_model, engine={"activation_checkpointing": True})
    sampler = engine.sampler(SamplingConfig(dtype=dtype))
    learner = engine.learner(local.plan())
    made = sampled(sampler)
    models: Any = AutoModelForCausalLM
    engine.save(tmp_path / "plain")
    again = own(models.from_pretrained(tmp_path / "plain"), getattr(torch, dtype))
    assert [g.samples for g in made] == [g.samples for g in sampled(again)]
    learner.close()
    with torch.no_grad():
        for weight in engine.trained():
            weight.zero_()
    assert [g.samples for g in sampled(sampler)] == [g.samples for g in made]  # nobody told it


def test_other_weights_held_for_log_probs_do_not_reach_the_copy(
    tiny_model: Path, tmp_path: Path
) -> None:
    engine = local.engine(tiny_model, sampling={"dtype": "bfloat16"})
    engine.snapshot("first", aside=True)
    moved(engine)
    sampler = engine.sampler(SamplingConfig(dtype="bfloat16"))
    sampler.load(engine.publish(1))
    groups = sampled(sampler)
    (now,), (then,) = (engine.logprobs(groups[:1], 1.0, of) for of in (PRESENT, "first"))
    assert max(abs(a - b) for a, b in zip(now, then, strict=True)) > 0.01
    assert [g.samples for g in sampled(sampler)] == [g.samples for g in groups]
    assert says_the_same(sampler, engine, tmp_path / "now")


def test_keys_and_values_are_read_where_they_are(monkeypatch) -> None:
    """A product in bfloat16 copies what is not in one piece, at every step: rows leave and come."""
    seen: list[tuple[bool, int]] = []

    def watched(query: Any, key: Any, value: Any, *rest: Any) -> Any:
        if query.shape[2] < 8:  # a token's, not a prompt's
            seen.append((key.is_contiguous() and value.is_contiguous(), key.shape[2]))
        return low_attention(query, key, value, *rest)

    monkeypatch.setattr(tree_attention, "low_attention", watched)
    sampler = own(tiny.model(0))
    asked = requests(PROMPTS, 12, SamplingParams(max_tokens=80, stop=("7",)))
    found = dict(ask(sampler, asked))
    assert len({len(s.token_ids) for group in found.values() for s in group.samples}) > 3
    assert seen
    assert all(whole for whole, _ in seen)
    assert len({length for _, length in seen}) < 6  # a kernel is made for each


def test_an_engine_that_was_closed_copies_anew(tiny_model: Path) -> None:
    engine = local.engine(tiny_model, sampling={"dtype": "bfloat16"})
    sampler = engine.sampler(SamplingConfig(dtype="bfloat16"))
    before = [g.samples for g in sampled(sampler)]
    moved(engine)
    engine.close()
    assert [g.samples for g in sampled(sampler)] == before  # read again


def test_the_learner_and_its_module_are_left_as_they_are(tiny_model: Path) -> None:
    engine = local.engine(tiny_model, sampling={"dtype": "bfloat16"})
    plain = local.engine(tiny_model)
    sampler = engine.sampler(SamplingConfig(dtype="bfloat16"))
    sampled(sampler)
    for one, other in zip(engine.trained(), plain.trained(), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad
    assert not any("forward" in vars(layer) for layer in engine.module().modules())
    made = sampled(plain.sampler(SamplingConfig()))
    assert [g.samples for g in sampled(engine.sampler(SamplingConfig()))] == [
        g.samples for g in made
    ]
    assert engine.notes() == ["samples come from a copy of its weights in bfloat16"]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_biases_tied_heads_and_layers_that_are_not_linear(kind: str, tied: bool) -> None:
    torch.manual_seed(1)
    size = len(tiny.tokenizer())
    config: Any = (
        Qwen2Config(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
            eos_token_id=0, pad_token_id=0, bos_token_id=None,
        )
        if kind == "qwen2"
        else GPT2Config(
            vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=128,
            tie_word_embeddings=tied, eos_token_id=0, bos_token_id=None,
        )
    )  # fmt: skip
    models: Any = AutoModelForCausalLM
    net = models.from_config(config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sampler = own(net)
    for _ in range(2):
        half = in_half(net)
        assert np.mean(distances(half, sampled(sampler))) < 10 * ROUNDING
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        sampler.load(WeightsRef(1, PRESENT))


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "gptj", "mamba", "rwkv"])
def test_what_is_shared_is_what_the_module_shares(name: str) -> None:
    """In bfloat16 a probe of small numbers sees nothing: GPT-J and RWKV would pass it."""
    net = architectures.build(name, torch.float32, std=0.2)
    policy = PolicyForward(net)
    made = OwnCopy(lambda: policy, torch.bfloat16)
    assert made.forward().shares_prefix == policy.shares_prefix == (name in architectures.WINDOWED)
    assert (made.token_bytes() is None) == (not policy.shares_prefix)
    requested = [Request(Prompt("0", "1+2"), 3, 0, SamplingParams(max_tokens=6))]
    sampler = LocalSampler(made.forward, tiny.tokenizer(), 8, probed=made.token_bytes)
    ((_, group),) = ask(sampler, requested)
    assert np.mean(distances(in_half(net), [group])) < 10 * ROUNDING


def test_a_copy_that_says_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_copy, "_copy_all", lambda *_: None)  # weights that were never written
    with pytest.raises(UserError, match=r"^sampling\.dtype: a copy in bfloat16 is of no use: it "):
        sampled(own(tiny.rambling()))
