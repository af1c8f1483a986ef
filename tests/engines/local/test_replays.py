"""Decode steps of rounded shapes, as on a GPU, without one: a graph is faked by running anew."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from tests import tiny
from tests.engines.local.test_decoding import answers, ask, one_by_one
from tests.engines.models.architectures import build
from winnow.engines.local import kv_cache, replays, sampler
from winnow.engines.local.replays import Replays, rounded_length, rounded_rows
from winnow.engines.models.forward import PolicyForward


@pytest.fixture(scope="module")
def forward() -> PolicyForward:
    return PolicyForward(tiny.rambling())


class Graph:
    """Runs what a captured graph holds: one step, with what its input says now."""

    def __init__(self, run, given, length, logits):
        self.replayed = 0
        self._all = run, given, length, logits

    def replay(self):
        self.replayed += 1
        run, given, length, logits = self._all
        logits.copy_(run(given[0], given[1], length))


@pytest.fixture
def replayed(monkeypatch):
    """Steps are rounded, captured and replayed; the graphs that were."""
    graphs = []

    def capture(self, given, length, logits):
        graphs.append(Graph(self._run, given, length, logits))
        self._captured[given.shape[1], length] = replays._Captured(graphs[-1], given, logits)

    class Rounded(kv_cache.Slots):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._replays = Replays(self._step, self._grow, self.capacity, self._forward.agree)
            self._replays._captures = True

    monkeypatch.setattr(Replays, "_capture", capture)
    monkeypatch.setattr(sampler, "Slots", Rounded)
    monkeypatch.setattr(kv_cache, "_GROW", 4)
    monkeypatch.setattr(replays, "_UNIT", 8)
    return graphs


@pytest.mark.parametrize("capacity", [1, 3, 7, 64])
def test_rounded_steps_and_replayed_ones_change_no_sample(forward, replayed, capacity):
    made = sampler.LocalSampler(lambda: forward, tiny.tokenizer(), capacity)
    requests = ask(n=3)
    assert answers(made, requests) == one_by_one(forward, requests)
    assert sum(graph.replayed for graph in replayed) > 10


def test_windows_and_sinks_are_rounded_and_replayed_too(replayed):
    forward = PolicyForward(build("gpt_oss"))
    made = sampler.LocalSampler(lambda: forward, tiny.tokenizer(), 7)
    assert made._token_bytes
    requests = ask(n=3)
    assert answers(made, requests) == one_by_one(forward, requests)
    assert sum(graph.replayed for graph in replayed) > 10


def test_where_capturing_fails_steps_are_run_one_by_one(monkeypatch):
    def run(tokens, places, length):
        return (tokens + places)[:, None].float()

    def broken(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", broken)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    made = Replays(run, lambda length: None, 4, torch.equal)
    made._captures = True
    for place in range(5):
        logits = made.step(torch.tensor([5, 6, 7]), [place, 2, 3], 100)
        assert logits.tolist() == [[5.0 + place], [8], [10]]
    assert not made._captures


def test_few_shapes_are_met():
    assert [rounded_rows(n, 100) for n in (1, 2, 3, 33, 64, 65, 100)] == [1, 2, 4, 64, 64, 100, 100]
    lengths = [rounded_length(n) for n in range(1, 5000)]
    assert all(n <= m <= max(n + 63, 1.25 * n) for n, m in enumerate(lengths, 1))
    assert len(set(lengths)) < 30
