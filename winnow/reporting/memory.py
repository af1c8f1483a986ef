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

    On Linux MemAvailable and the totals of /proc/meminfo, or what the limits of a container (cgroup
    v2) leave, if that is less. Files that the kernel drops when it needs room (`inactive_file`) are
    not counted as taken.
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
    dropped = _number(_GROUP / "memory.stat", "inactive_file") or 0
    own = _limited(told["MemAvailable"], told["MemTotal"], "memory", dropped)
    swap = _limited(told.get("SwapFree", 0), told.get("SwapTotal", 0), "memory.swap")
    return own[0] + swap[0], own[1] + swap[1]


def _limited(free: int, total: int, kind: str, dropped: int = 0) -> tuple[int, int]:
    """What is left of these by the container's limit of that kind."""
    limit, taken = (_number(_GROUP / f"{kind}.{name}") for name in ("max", "current"))
    if limit is None:
        return free, total
    return min(free, max(0, limit - max(0, (taken or 0) - dropped))), min(total, limit)


def _number(path: Path, name: str = "") -> int | None:
    """The number in a file of the kernel, or the one behind a name in it."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [line.removeprefix(name).strip() for line in lines if line.startswith(name)]
    return int(found[0]) if found and found[0].isdigit() else None
