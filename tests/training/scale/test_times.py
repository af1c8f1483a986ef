"""Seconds by the roofline, against derivations by hand and counted FLOPs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests import build
from tests.training.scale.test_shapes import SMALL, module_of
from winnow.algorithms.objective import totals
from winnow.algorithms.table import ALGORITHMS
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.models.forward import PolicyForward
from winnow.training.scale.devices import ASSUMED, DEVICES, PER_HOST, device_named
from winnow.training.scale.shapes import KNOWN
from winnow.training.scale.step import Lengths, Spread, Step
from winnow.training.scale.times import exchanged, sampling, update_flops, updates, wire
from winnow.types import Group

QWEN, H100 = KNOWN["qwen/qwen2.5-math-7b"], DEVICES["h100"]
LENGTHS = Lengths(256, 1000, 3072)
STEP = Step(1024, 4096, 2, 1, busiest=1, microbatches=1, positions=1)
PLAIN = replace(ASSUMED, update=1.0, prefill=1.0, decode=1.0, network=1.0)


def served(servers: int, slots: int = 256, step: Step = STEP, lengths: Lengths = LENGTHS):
    spread = Spread(4, servers)
    return sampling(QWEN, H100, step, lengths, spread, slots=slots, item=2, assumed=PLAIN)


def test_all_tokens_are_decoded_whatever_the_number_of_servers() -> None:
    for servers in (1, 4, 32, 64, 512):
        found = served(servers)
        assert found.steps * found.batch * servers == pytest.approx(4096 * 1000)
        assert found.steps >= LENGTHS.most
        assert found.batch <= 256


def test_a_decode_step_reads_weights_and_keys() -> None:
    """4 servers: 1024 samples each, 256 at a time: 4 x 1000 steps. Each reads 15.23 GB of weights
    and, of 256 completions with 256 + 500 tokens, 57,344 B a token (28 x 2 x 4 x 128 x 2):
    11.10 GB. At 3.35 TB/s that is 7.86 ms; the products, 2 x 7.07e9 x 256 and attention, take
    less."""
    found = served(4)
    assert found.steps == 4000
    read = 2 * 7_615_616_512 + 256 * 756 * 57_344
    assert found.decode == pytest.approx(4000 * read / 3.35e12)
    assert found.weights == pytest.approx(2 * 7_615_616_512 / read)


def test_many_servers_wait_for_the_longest_completion() -> None:
    """Beyond some number another server gains almost nothing: 3072 steps x 4.55 ms remain."""
    times = [served(servers).total for servers in (4, 8, 16, 64, 256, 1024)]
    assert times == sorted(times, reverse=True)
    least = 3072 * 2 * 7_615_616_512 / 3.35e12
    assert times[-1] > least
    assert times[-1] == pytest.approx(least, rel=0.03)
    # two GPUs a server halve what one completion takes
    spread = Spread(4, 512, 2)
    halved = sampling(QWEN, H100, STEP, LENGTHS, spread, slots=256, item=2, assumed=PLAIN)
    assert halved.floor == pytest.approx(served(512).floor / 2)


def test_a_large_batch_is_bound_by_flops() -> None:
    """A million completions with contexts of one token: 2 FLOPs a weight and token."""
    short, step = Lengths(1, 1, 1), replace(STEP, prompts=10**6, samples=10**6)
    found = served(1, slots=10**6, step=step, lengths=short)
    products = 10**6 * (2 * (28 * QWEN.multiplied + QWEN.head_weights) + 4 * 28 * 3584 * 1.5)
    assert found.decode == pytest.approx(products / 989e12)
    assert found.prefill == pytest.approx(products / 989e12, rel=1e-4)


def test_the_network_moves_weights_twice_and_gradients_once() -> None:
    """A rank of four lacks three quarters: 2 + 2 bytes of each weight, 4 of each gradient."""
    assert exchanged(QWEN, 2, 4) == 0.75 * 8 * 7_615_616_512
    assert exchanged(QWEN, 2, 1) == 0
    assert wire(H100, PER_HOST) == 450e9
    assert wire(H100, PER_HOST + 1) == 400e9
    step = replace(STEP, busiest=1024, microbatches=3, updates=2)
    found = updates(QWEN, H100, step, LENGTHS, 4, item=2, recompute=True, assumed=PLAIN)
    assert found.network == pytest.approx(2 * 3 * 0.75 * 8 * 7_615_616_512 / 450e9)
    assert found.total == found.network > found.compute


def groups() -> list[Group]:
    """Two prompts of 12 tokens with 2 completions of 8; no two begin alike."""
    found = []
    for place in range(2):
        prompt = tuple(range(1 + 15 * place, 13 + 15 * place))
        first = 40 + 20 * place
        samples = [build.sample(tokens=range(n, n + 8)) for n in (first, first + 8)]
        scored = build.group([0.0, 1.0], lengths=[8, 8], name=str(place))
        found.append(replace(scored, prompt_ids=prompt, samples=tuple(samples)))
    return found


def test_flops_of_an_update_are_those_that_are_counted() -> None:
    """The trees of both groups go through as one row, of which every pair is multiplied.

    Per group 12 tokens of the prompt and 7 of each completion: 26 nodes, and 52 in all. Each
    completion token is predicted by a node of its own, but the first ones of a group by one: 15 a
    group. The head's sum into the features' gradient is in place, which the counter leaves out.
    """
    algorithm = ALGORITHMS["grpo"]
    forward = PolicyForward(module_of(SMALL, "cpu"))
    assert forward.shares_prefix
    made = build.with_advantages(groups(), algorithm)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        accumulate(Models(forward), made, algorithm.terms, totals(made), 1.0, 4096)
    told = update_flops(SMALL, 52, 30, 26, recompute=False)
    assert counter.get_total_flops() + 2 * SMALL.head_weights * 30 == told


def test_checkpointing_computes_blocks_once_more() -> None:
    """3 passes become 4; the head is computed again in any case."""
    head = 4 * 2 * SMALL.head_weights * 30
    plain, again = (update_flops(SMALL, 52, 30, 20, recompute=r) for r in (False, True))
    assert (again - head) / (plain - head) == pytest.approx(4 / 3)


def test_devices_are_found_in_any_case() -> None:
    assert device_named("H100") is H100
    # of the data sheets: 8 GPUs' links together are not slower than the network of their host
    for one in DEVICES.values():
        assert one.network <= 8 * one.link
        assert one.source
