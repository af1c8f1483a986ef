"""What a row of metrics says of memory, by other ways to ask the kernel."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

from winnow.reporting.memory import peak_host_gib


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's files tell it")
def test_the_peak_of_memory_is_what_the_kernel_counts() -> None:
    taken = bytearray(b"x" * 2**26)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    peak = peak_host_gib()
    del taken
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    assert peak is not None
    assert 0.98 * resident <= peak * 2**30 <= 1.02 * most
    assert (peak_host_gib() or 0) >= peak
