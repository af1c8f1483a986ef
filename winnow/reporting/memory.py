"""How much memory this process has used, and how much there is."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MACHINE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


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


def host_memory() -> tuple[int, int] | None:
    """Bytes of memory that this process may still take, and all that it may ever have, swap
    included; ``None`` if unknown.

    On Linux MemAvailable and the totals of /proc/meminfo, or what the limit of a container (cgroup
    v2) leaves, if that is less.
    """
    if not _MACHINE.is_file():
        return None
    told = {}
    for line in _MACHINE.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.strip():
            told[name] = int(value.split()[0]) * 1024  # it is in KiB
    if "MemAvailable" not in told or "MemTotal" not in told:
        return None
    free = told["MemAvailable"] + told.get("SwapFree", 0)
    total = told["MemTotal"] + told.get("SwapTotal", 0)
    limit, taken = (_number(_GROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None:
        total, free = min(total, limit), min(free, max(0, limit - (taken or 0)))
    return free, total


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None
