"""Adam's averages: zeros of the weights' shapes, which take memory when they are written to."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from winnow.engines.learning.optimizer import zeros_like_each


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeros_have_the_shapes_of_the_weights_and_may_be_written_to(dtype) -> None:
    like = [torch.ones(3, 5, dtype=dtype), torch.ones(7, dtype=dtype), torch.ones((), dtype=dtype)]
    made = list(zeros_like_each(like))
    assert [(w.shape, w.dtype) for w in made] == [(w.shape, w.dtype) for w in like]
    assert not any(w.any() for w in made)
    for number, each in enumerate(made):
        each += number + 1
    assert [float(w.sum()) for w in made] == [15.0, 14.0, 3.0], "one is not another's memory"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_zeros_take_no_memory_before_they_are_written_to() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    large = torch.empty(2**26)  # 256 MiB that nobody touches
    before = resident()
    (made,) = zeros_like_each([large])
    assert resident() - before < 2**26
    made += 1
    assert resident() - before > 2**27
