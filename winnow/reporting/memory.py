"""How much memory this process has used."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_host_gib() -> float | None:
    """The most memory that this process has had in RAM so far, in GiB; ``None`` if unknown.

    On Linux the kernel's VmHWM (`man 5 proc`): `getrusage` would count what the process was started
    from. Elsewhere `getrusage`, whose unit is the byte on macOS.
    """
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "VmHWM":
                return round(int(value.split()[0]) / 2**20, 3)  # it is in KiB
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)
