"""Requests wait in a sampler, are sampled a set at a time, and can be forgotten."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests import tiny
from winnow.engines.base import Request, SamplingParams, WeightsRef
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.forward import PolicyForward
from winnow.engines.queueing import QueuedSampler
from winnow.errors import WinnowError
from winnow.rollouts.generate import ask, sample
from winnow.types import Group, Prompt


def request(name: str) -> Request:
    return Request(Prompt(name, name), 1, 0, SamplingParams(max_tokens=3))


class Sampler(QueuedSampler):
    """The last of a set finishes first; remembers the sets, and which were ended."""

    def __init__(self) -> None:
        super().__init__()
        self.sets: list[str] = []
        self.ended: list[str] = []

    def _sample(self, requests):
        names = "".join(request.prompt.id for request in requests)
        self.sets.append(names)
        try:
            for place in reversed(range(len(requests))):
                yield place, Group(requests[place].prompt, (), ())
        finally:
            self.ended.append(names)


def test_what_comes_while_a_set_is_sampled_is_the_next_set() -> None:
    sampler = Sampler()
    assert sampler.submit([request("a"), request("b")]) == 0
    found = []
    for number, group in sampler.results():
        if number == 1:
            assert sampler.submit([request("c")]) == 2
        found.append((number, group.prompt.id))
    assert found == [(1, "b"), (0, "a"), (2, "c")]
    assert sampler.sets == sampler.ended == ["ab", "c"]
    assert list(sampler.results()) == []


def test_what_is_cancelled_is_forgotten() -> None:
    sampler = Sampler()
    sampler.submit([request("a"), request("b")])
    results = sampler.results()
    assert next(results)[0] == 1
    sampler.submit([request("c")])
    sampler.cancel()
    assert sampler.ended == ["ab"]
    assert list(results) == []
    assert list(sampler.results()) == []
    assert [place for place, _ in ask(sampler, [request("d")])] == [0]
    assert sampler.sets == ["ab", "d"]


def test_results_that_were_abandoned_end_no_other_set() -> None:
    sampler = Sampler()
    sampler.submit([request("a"), request("b")])
    old = sampler.results()
    next(old)
    sampler.cancel()
    sampler.submit([request("c"), request("d")])
    new = sampler.results()
    assert next(new)[0] == 3
    old.close()
    assert [number for number, _ in new] == [2]


@pytest.mark.parametrize("how", ["closed", "raised"])
def test_whoever_stops_asking_leaves_nothing_behind(how) -> None:
    sampler = Sampler()
    if how == "closed":
        with closing(ask(sampler, [request("a"), request("b")])) as groups:
            next(groups)
    else:

        def progress(stage: str, done: int, total: int) -> None:
            if done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sample(sampler, [request("a"), request("b")], "m", progress)
    assert sampler.ended == ["ab"]
    assert [group.prompt.id for group in sample(sampler, [request("c")], "m", lambda *_: None)] == [
        "c"
    ]


def test_weights_do_not_change_while_samples_are_under_way() -> None:
    forward = PolicyForward(tiny.model())
    sampler = LocalSampler(lambda: forward, tiny.tokenizer(), 1)
    sampler.load(WeightsRef(1, "present"))
    with closing(ask(sampler, [request("1+1="), request("2+2=")])) as groups:
        assert next(groups)[1].samples[0].policy_version == 1
        with pytest.raises(WinnowError, match="changed while samples were under way"):
            sampler.load(WeightsRef(2, "present"))
    sampler.load(WeightsRef(2, "present"))
    assert next(ask(sampler, [request("1+1=")]))[1].samples[0].policy_version == 2


@pytest.mark.parametrize("where", [WeightsRef(1, tiny.WEIGHTS.parent), WeightsRef(1, "x", "0f")])
def test_a_local_sampler_takes_no_copies(where) -> None:
    sampler = LocalSampler(lambda: pytest.fail("not needed"), tiny.tokenizer(), 1)
    with pytest.raises(WinnowError, match="from the module that its learner trains"):
        sampler.load(where)
