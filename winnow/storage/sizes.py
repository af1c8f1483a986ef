"""What a folder takes on the disk, and how that is said."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def measured(folder: Path) -> int:
    """Bytes of all files in a folder, or of a file; what vanishes meanwhile counts nothing."""
    found = 0
    for path in [folder, *folder.rglob("*")]:
        with suppress(OSError):
            if path.is_symlink() or path.is_file():
                found += os.lstat(path).st_size
    return found


def human(number: float) -> str:
    """`1.6 GB`: two digits at least, in powers of 1000."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop(0)
    unit = units[0]
    return f"{number:.0f} {unit}" if unit == "B" or number >= 9.95 else f"{number:.1f} {unit}"


def told(folder: Path) -> str:
    """What a run has taken on the disk, by its parts."""
    checkpoints = sorted((folder / "checkpoints").glob("step-*"))
    of_checkpoints = sum(map(measured, checkpoints))
    others = sum(measured(folder / name) for name in ("final", "base"))
    samples = sum(measured(folder / name) for name in ("rollouts", "superseded", "skipped"))
    number = f"{len(checkpoints)} checkpoint{'s' if len(checkpoints) != 1 else ''}"
    parts = [f"{number} {human(of_checkpoints)}"]
    parts += [f"other models {human(others)}"] if others else []
    return f"{human(measured(folder))} ({', '.join(parts)}, samples {human(samples)})"
