"""Rows that join, part and leave: what is sampled must not depend on any of it."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from winnow.engines.base import Request, SamplingParams
from winnow.engines.local import kv_cache
from winnow.engines.local.decoding import _Partial, part
from winnow.engines.local.kv_cache import Slots, token_bytes
from winnow.engines.local.other_caches import Padded
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.forward import PolicyForward
from winnow.rollouts import generate
from winnow.types import Prompt

PROMPTS = ["1+2=", "a", "what is 3 + 4, and why is it not 5", "what is 3 + 5", "2*3=\n7-1=", "1+2="]


@pytest.fixture(scope="module")
def forward() -> PolicyForward:
    return PolicyForward(tiny.rambling())


def ask(n: int = 5, **params) -> list[Request]:
    params = SamplingParams(**{"max_tokens": 30, "stop": ("7",), **params})
    return [Request(Prompt(id=str(i), text=p), n, i, params) for i, p in enumerate(PROMPTS)]


def answers(sampler: LocalSampler, requests: list[Request]) -> list[list[tuple[int, ...]]]:
    sampled = dict(generate.ask(sampler, requests))
    assert sorted(sampled) == list(range(len(requests)))
    return [[sample.token_ids for sample in sampled[i].samples] for i in range(len(requests))]


def one_by_one(forward: PolicyForward, requests: list[Request]) -> list[list[tuple[int, ...]]]:
    """Each answer alone: no batch, no cache, its next token by the plain inversion of its CDF."""
    out = []
    for request in requests:
        generator = torch.Generator().manual_seed(request.seed)
        params = request.params
        shape = (request.n, params.max_tokens)
        table = torch.rand(shape, generator=generator, dtype=torch.float64)
        prompt = tiny.tokenizer().encode(request.prompt.text)
        group = []
        for row in table:
            tokens: list[int] = []
            while len(tokens) < params.max_tokens:
                ids = torch.tensor([[*prompt, *tokens]])
                with torch.no_grad():
                    logits = forward.module(input_ids=ids).logits[0, -1]
                running = (logits.double() / params.temperature).softmax(-1).cumsum(-1)
                tokens.append(int(torch.searchsorted(running, row[len(tokens)], right=True)))
                text = tiny.tokenizer().decode(tokens, skip_special_tokens=True)
                if tokens[-1] == 0 or any(stop in text for stop in params.stop):
                    break
            group.append(tuple(tokens))
        out.append(group)
    return out


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("batch", [1, 3, 8, 64])
@pytest.mark.parametrize("steps_to_pack", [1, 1000])
def test_samples_are_those_of_each_answer_alone(
    forward, batch, temperature, steps_to_pack, monkeypatch
):
    """At .3 samples stay together long, at 1 they part at once; small batches make them wait."""
    monkeypatch.setattr("winnow.engines.local.packed_linears._STEPS", steps_to_pack)
    sampler = LocalSampler(lambda: forward, tiny.tokenizer(), batch)
    assert sampler._token_bytes
    requests = ask(temperature=temperature)
    assert answers(sampler, requests) == one_by_one(forward, requests)


def test_the_other_memory_samples_the_same(forward, monkeypatch):
    """What architectures get that slots cannot serve: prompts padded, of one length, no cache."""
    expected = one_by_one(forward, ask())
    for pads in (True, False, None):
        sampler = LocalSampler(lambda: forward, tiny.tokenizer(), 7)
        monkeypatch.setattr(sampler, "_token_bytes", None)
        monkeypatch.setattr(sampler, "_pads", pads)
        assert answers(sampler, ask()) == expected


def test_slots_grow_with_their_answers(forward, monkeypatch):
    expected = one_by_one(forward, ask())
    monkeypatch.setattr(kv_cache, "_GROW", 2)
    monkeypatch.setattr(kv_cache, "_PREFILL", 5)
    assert answers(LocalSampler(lambda: forward, tiny.tokenizer(), 9), ask()) == expected


def test_a_small_cache_means_few_at_a_time_and_the_same_samples(forward):
    rows = []
    hook = forward.module.register_forward_pre_hook(
        lambda _, __, kwargs: rows.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    token = token_bytes(forward)
    rows.clear()
    longest = max(len(p) for p in PROMPTS) + 30
    sampler = LocalSampler(
        lambda: forward, tiny.tokenizer(), 64, cache_gib=3.5 * token * longest / 2**30
    )
    rows.clear()
    got = answers(sampler, ask())
    hook.remove()
    assert max(rows) == 3
    assert got == answers(LocalSampler(lambda: forward, tiny.tokenizer(), 64), ask())


def test_the_size_of_a_token_is_that_of_its_keys_and_values(forward):
    config = forward.module.config
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    assert token_bytes(forward) == 2 * config.num_hidden_layers * heads * width * 4


def test_what_is_the_same_is_read_once(forward):
    """Equal histories share a row; each prompt, and what prompts begin with, is read once."""
    steps, reads = [], []
    module = forward.module
    whole = module.register_forward_pre_hook(
        lambda _, __, kwargs: steps.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    body = module.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: reads.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    sampler = LocalSampler(lambda: forward, tiny.tokenizer(), 64)
    assert sampler._token_bytes  # it has looked at the model
    steps.clear()
    reads.clear()
    requests = ask(temperature=0.1)
    sampled = answers(sampler, requests)
    whole.remove()
    body.remove()
    histories = {
        (tuple(tiny.tokenizer().encode(PROMPTS[i])), i, tokens[:length])
        for i, group in enumerate(sampled)
        for tokens in group
        for length in range(1, len(tokens))
    }
    assert sum(steps) == len(histories)
    sampled_tokens = sum(len(tokens) - 1 for group in sampled for tokens in group)
    assert len(histories) < sampled_tokens  # so there was something to share
    beginnings = {
        tuple(ids[:n])
        for ids in map(tiny.tokenizer().encode, PROMPTS)
        for n in range(1, len(ids) + 1)
    }
    assert reads[0][0] == 1
    assert len(beginnings) <= reads[0][1] <= len(beginnings) + 1
    assert all(shape[1] == 1 for shape in reads[1:])


def test_requests_of_other_parameters_are_sampled_apart(forward):
    requests = [*ask(n=2), *ask(n=2, temperature=0.3, max_tokens=4)]
    got = answers(LocalSampler(lambda: forward, tiny.tokenizer(), 64), requests)
    assert got == one_by_one(forward, requests)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6), max_size=6
    )
)
def test_rows_part_by_token_and_move_as_little_as_can_be(table):
    rows = []
    for number, row in enumerate(table):
        rows.append([_Partial(number, i, np.zeros(1), tokens=[t]) for i, (t, _) in enumerate(row)])
        for answer, (_, ended) in zip(rows[-1], row, strict=True):
            answer.reason = "length" if ended else None
    sources, after = part(rows)
    wanted = sorted(
        (number, token, i)
        for number, row in enumerate(table)
        for i, (token, ended) in enumerate(row)
        if not ended
    )
    got = [
        (source, answer.tokens[-1], answer.number)
        for source, row in zip(sources, after, strict=True)
        for answer in row
    ]
    assert sorted(got) == wanted
    keys = [
        {(source, answer.tokens[-1]) for answer in row}
        for source, row in zip(sources, after, strict=True)
    ]
    assert all(len(key) == 1 for key in keys)
    assert len(set().union(*keys)) == len(keys)  # one row for each history
    alive = {number for number, row in enumerate(table) if any(not ended for _, ended in row)}
    stays = sum(source == i for i, source in enumerate(sources))
    assert stays == sum(number < len(sources) for number in alive)


def test_memories_say_what_may_be_placed_together(forward):
    prompts = [[1, 2], [3], [4, 5]]
    slots = Slots(forward, prompts, room=2, capacity=2)
    assert slots.kind(0) == slots.kind(1)
    padded = Padded(forward.module, prompts, pads=False, capacity=2)
    assert padded.kind(0) == padded.kind(2) != padded.kind(1)


def test_slots_go_back_after_sampling(forward, monkeypatch):
    """In each layer, once where they are made and once where they grow."""
    blocks = []
    monkeypatch.setattr(kv_cache, "for_a_while", lambda: blocks.append(1) or nullcontext())
    slots = Slots(forward, [[1, 2, 3]], room=200, capacity=2)
    slots.place([0, 0])
    layers = forward.module.config.num_hidden_layers
    assert len(blocks) == layers
    for _ in range(70):
        slots.step(torch.tensor([1, 2]))
    assert len(blocks) == 2 * layers
