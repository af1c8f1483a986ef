"""What a row of metrics says of memory, by other ways to ask the kernel."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import pytest

from winnow.reporting import memory
from winnow.reporting.memory import host_memory, peak_host_gib


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


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (60 + 30, 100 + 40)),
        ({"memory.max": "max", "memory.swap.max": "max"}, (60 + 30, 100 + 40)),
        # 50 KiB, of which 20 are taken, swap without a limit
        ({"memory.max": 50, "memory.current": 20}, (30 + 30, 50 + 40)),
        ({"memory.max": 50, "memory.current": 60}, (0 + 30, 50 + 40)),
        # of the 45 taken, 35 are files that may be dropped
        ({"memory.max": 50, "memory.current": 45, "memory.stat": 35}, (40 + 30, 50 + 40)),
        ({"memory.max": 50, "memory.swap.max": 0, "memory.swap.current": 0}, (50, 50)),
        ({"memory.swap.max": 10, "memory.swap.current": 4}, (60 + 6, 100 + 10)),
    ],
)
def test_memory_that_is_free(tmp_path, monkeypatch, limits, expected) -> None:
    """By hand, in KiB, of a machine with 100 of memory and 40 of swap."""
    machine = tmp_path / "meminfo"
    machine.write_text(
        "MemTotal: 100 kB\nMemFree: 5 kB\nMemAvailable: 60 kB\nSwapTotal: 40 kB\nSwapFree: 30 kB\n"
    )
    for name, value in limits.items():
        text = str(value if isinstance(value, str) else 1024 * value)
        lines = f"anon 1\nactive_file 2\ninactive_file {text}" if name == "memory.stat" else text
        (tmp_path / name).write_text(f"{lines}\n")
    monkeypatch.setattr(memory, "_MACHINE", machine)
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert host_memory() == tuple(1024 * number for number in expected)
    machine.unlink()
    assert host_memory() is None
