"""What passes take of memory, against what autograd keeps and what a GPU was measured to hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engines.models.autograd import kept_bytes
from tests.training.scale.test_shapes import KINDS, module_of
from winnow.config.phases import phases_of
from winnow.config.recipe import load
from winnow.engines.models import forward as forward_module
from winnow.engines.models import made_again
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.training.forecast import memory
from winnow.training.scale import held as held_module
from winnow.training.scale.devices import DEVICES
from winnow.training.scale.held import Stages, kept, read, server, stages
from winnow.training.scale.shapes import KNOWN, Shape
from winnow.training.scale.step import Lengths, step_of
from winnow.training.scale.times import Update, updates

FSDP = (Path(__file__).parents[3] / "docs" / "fsdp.md").read_text()
GIB = 2**30
BENCH = ["steps=1", "prompts_per_step=32", "samples_per_prompt=8", "microbatch_tokens=16384"]
"""What `bench/learners.py` trains on: prompts and samples of 128 tokens, one update a step."""


def saved(forward: PolicyForward, pieces: list[Piece]) -> int:
    """Bytes that autograd keeps of a pass, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in forward.module.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    held = []
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held.append(forward.contexts(pieces))  # alive, so that no place is used twice
        return sum(found.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_what_autograd_keeps(
    kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More layers keep more: their difference is that of the layers alone."""
    monkeypatch.setattr(made_again, "_LEAST", 1)
    item = 2 if dtype == "bfloat16" else 4
    assert kept(KINDS[kind], item) == pytest.approx(of_a_layer(KINDS[kind], dtype, few))
    monkeypatch.setattr(forward_module, "made_again", nullcontext)
    # All queries are one block here, so keys and values are held once, not twice as they are at
    # most: that much less is read.
    once = 2 * KINDS[kind].keys * item
    assert read(KINDS[kind], item) - once == pytest.approx(of_a_layer(KINDS[kind], dtype, saved))


def few(forward: PolicyForward, pieces: list[Piece]) -> int:
    return kept_bytes(lambda: forward.contexts(pieces), list(forward.module.parameters()))


def of_a_layer(
    small: Shape, dtype: str, counted: Callable[[PolicyForward, list[Piece]], int]
) -> float:
    """Bytes of a position, counted of models of some layers and of more."""
    pieces = [Piece(list(range(1, 20)), [list(range(30, 50)), list(range(50, 70))])]
    positions = 19 + 2 * 19  # of the last tokens nothing is predicted
    found = []
    for layers in (2, 6):
        shape = Shape(**{**vars(small), "layers": layers})
        module = module_of(shape, "cpu").to(getattr(torch, dtype))
        forward = PolicyForward(module)
        assert forward.shares_prefix
        found.append(counted(forward, pieces))
    return (found[1] - found[0]) / 4 / positions


def test_what_is_held_adds_up() -> None:
    """Of P parameters a rank of R holds 16 P / R bytes: weights, gradients, two averages."""
    shape = KNOWN["meta-llama/llama-3.2-1b-instruct"]
    held, _ = of_bench(shape, "bfloat16", ranks=4, recompute=True)
    assert held.held + held.gradients == pytest.approx(16 * shape.parameters / 4, rel=1e-6)
    assert held.sending == pytest.approx(held.held + 2 * shape.parameters, rel=1e-6)
    assert held.sampling == held.held
    assert held.most == max(held.update, held.sending)


def of_bench(shape: Shape, dtype: str, *, ranks: int = 1, recompute: bool) -> tuple[Stages, Update]:
    """What is calculated of an update of `bench/learners.py` on H200s."""
    config = load(None, [*BENCH, f"dtype={dtype}"]).model_copy(update={"minibatch_prompts": 32})
    (phase,) = phases_of(config)
    lengths = Lengths(128, 128, 128)
    step = step_of(phase, lengths, ranks)
    size = shape.size(dtype, config.lora, ranks)
    held = replace(memory(size, config, [phase], longest=128, start=False), cache=0)
    item = 2 if dtype == "bfloat16" else 4
    return (
        stages(held, shape, step, 256, item=item, recompute=recompute),
        updates(shape, DEVICES["h200"], step, lengths, ranks, item=item, recompute=recompute),
    )


MEASURED = (
    ("meta-llama/llama-3.2-1b-instruct", "bfloat16", "fsdp, 1 rank", 1),
    ("meta-llama/llama-3.2-1b-instruct", "bfloat16", "fsdp, 1 rank, checkpointing", 1),
    ("smollm2-135m", "float32", "fsdp, 1 rank", 2),
)


def as_measured(shape: Shape, dtype: str, *, recompute: bool) -> tuple[Stages, Update]:
    """`of_bench` where all that a block's backward pass reads is kept, as it was at that time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_module, "kept", held_module.read)
        return of_bench(shape, dtype, recompute=recompute)


def row(side: str, place: int) -> tuple[float, float]:
    """Seconds and GiB in the table of docs/fsdp.md, which a GPU printed."""
    rows = re.findall(rf"\| {re.escape(side)} \| ([\d.]+) \| ([\d.]+) \|", FSDP)
    seconds, gib = rows[place - 1]
    return float(seconds), float(gib)


@pytest.mark.parametrize(("model", "dtype", "side", "place"), MEASURED)
def test_memory_is_about_what_a_gpu_held(model: str, dtype: str, side: str, place: int) -> None:
    _, gib = row(side, place)
    held, _ = as_measured(KNOWN[model], dtype, recompute="checkpointing" in side)
    assert 0.85 < held.update / GIB / gib < 1.15


@pytest.mark.parametrize(("model", "dtype", "side", "place"), MEASURED[:2])
def test_an_update_takes_about_what_a_gpu_took(
    model: str, dtype: str, side: str, place: int
) -> None:
    seconds, _ = row(side, place)
    _, told = of_bench(KNOWN[model], dtype, recompute="checkpointing" in side)
    assert 0.85 < told.total / seconds < 1.15
    assert told.network == 0


def test_a_server_has_room_for_what_its_weights_leave() -> None:
    """By hand: 80 GB x 0.9 - 6,425,499,648 B of weights; 114,688 B a token; 1000 tokens each."""
    found = server(KNOWN["meta-llama/llama-3.2-3b-instruct"], 72e9, 2, 1000)
    assert found.weights == 2 * 3_212_749_824
    assert found.cache == 72_000_000_000 - 6_425_499_648
    assert found.sequences == int(found.cache / (28 * 2 * 8 * 128 * 2 * 1000))
    assert server(KNOWN["qwen/qwen2.5-math-7b"], 10e9, 2, 1000).sequences == 0
