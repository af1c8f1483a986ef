"""Adam's averages: zeros of the weights' shapes, which take memory when they are written to."""

from __future__ import annotations

import subprocess
import sys

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
