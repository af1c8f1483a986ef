"""Where Adam's averages and gradients lie in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest
import torch
from torch import nn

from tests import local
from tests.engines.models.test_forward import GROUPS, TERMS, build
from winnow.algorithms.objective import totals
from winnow.engines.learning import gradients
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.learning.optimizer import side_by_side, zeros_like_each
from winnow.engines.models.forward import PolicyForward


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_have_the_shapes_of_the_weights_and_may_be_written_to(dtype) -> None:
    like = [torch.ones(3, 5, dtype=dtype), torch.ones(7, dtype=dtype), torch.ones((), dtype=dtype)]
    made = list(zeros_like_each(like))
    assert [(w.shape, w.dtype) for w in made] == [(w.shape, w.dtype) for w in like]
    assert not any(w.any() for w in made)
    for number, each in enumerate(made):
        each += number + 1
    assert [float(w.sum()) for w in made] == [15.0, 14.0, 3.0], "one is not another's memory"


FRESH = """
import os
from pathlib import Path
import torch
from winnow.engines.learning.optimizer import zeros_like_each

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

large = torch.empty(2**26)  # 256 MiB that nobody touches
before = resident()
(made,) = zeros_like_each([large])
asked = resident()
made += 1
print(asked - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_zeros_take_no_memory_before_they_are_written_to() -> None:
    """In a process of its own: one that has run much has memory to use again."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    asked, written = map(int, done.stdout.split())
    assert asked < 2**26
    assert written > 2**27


def test_gradients_are_moved_into_one_block_as_they_are() -> None:
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 5), (7,), (), (4, 2))]
    gradients_ = [torch.randn(w.shape) for w in weights]
    gradients_[1][:2] = torch.tensor([-0.0, torch.nan])
    for weight, gradient in zip(weights, gradients_, strict=True):
        weight.grad = gradient.clone()
    weights.append(nn.Parameter(torch.zeros(2)))  # nothing was learned of it
    side_by_side(weights)
    assert weights.pop().grad is None
    assert one_block(weights)
    for weight, gradient in zip(weights, gradients_, strict=True):
        assert weight.grad.view(torch.int32).equal(gradient.view(torch.int32))
    side_by_side(weights[:0])


def test_gradients_that_are_not_plain_numbers_in_a_row_stay_where_they_are() -> None:
    sideways = nn.Parameter(torch.zeros(3, 5))
    sideways.grad = torch.randn(5, 3).t()
    sparse = nn.Parameter(torch.zeros(3, 5))
    sparse.grad = torch.eye(3, 5).to_sparse()
    double = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    double.grad = torch.ones(2, dtype=torch.float64)
    before = [w.grad for w in (sideways, sparse, double)]
    side_by_side([sideways, sparse, double])
    assert all(w.grad is x for w, x in zip((sideways, sparse, double), before, strict=True))


def one_block(weights: Iterable[torch.Tensor]) -> bool:
    return len({w.grad.untyped_storage().data_ptr() for w in weights}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(("limit", "moved"), [(1000, False), (20, True)])
def test_gradients_of_several_micro_batches_lie_together_and_are_the_same(
    limit: int, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit those that stay where they were made; of one micro-batch they do stay."""
    found = []
    for how in (side_by_side, lambda stepped: None):
        monkeypatch.setattr(gradients, "side_by_side", how)
        net = build("llama", torch.float32)
        weights = list(net.parameters())
        models = Models(PolicyForward(net), stepped=weights)
        accumulate(models, GROUPS, TERMS, totals(GROUPS), 1.0, limit)
        assert one_block(weights) is (moved and how is side_by_side)
        found.append([w.grad.clone() for w in weights])
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, "float32"), (torch.bfloat16, "float32"), (torch.float32, "mixed")],
)
def test_a_learner_moves_what_it_steps_but_not_in_mixed_precision(
    dtype: torch.dtype, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[list[torch.Tensor]] = []
    monkeypatch.setattr(gradients, "side_by_side", lambda stepped: moved.append(list(stepped)))
    net = build("llama", dtype)
    learner = local.learner(PolicyForward(net), tokens=20, precision=precision)
    learner.step(GROUPS, TERMS, totals(GROUPS), 1.0)
    assert moved, "one micro-batch"
    count = 0 if precision == "mixed" else len(list(net.parameters()))
    assert [len(stepped) for stepped in moved] == [count]
    assert all(w.dtype == torch.float32 for stepped in moved for w in stepped)


def test_what_lies_in_one_block_is_not_moved_again() -> None:
    weights = [nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.ones(3)
    side_by_side(weights)
    before = [w.grad for w in weights]
    side_by_side(weights)
    assert all(w.grad is x for w, x in zip(weights, before, strict=True))
