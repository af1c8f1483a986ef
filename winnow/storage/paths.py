"""One path or several, as a command is given them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Paths = str | Path | Sequence[str | Path]
"""One file or folder, or several."""


def paths_of(given: Paths) -> list[Path]:
    """One path or several as a list."""
    return [Path(path) for path in ([given] if isinstance(given, str | Path) else given)]
