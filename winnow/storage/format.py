"""The version of the files that Winnow writes; earlier ones, from 1 on, are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winnow.errors import UserError

FORMAT = 1
ENVIRONMENT = "environment.json"
"""A folder's file that tells the version of everything in it."""
METADATA: Mapping[bytes, bytes] = {b"winnow.format": str(FORMAT).encode()}
"""Of Parquet files, which may leave their folders."""


def check_folder(setting: str, folder: Path) -> None:
    """Raise a `UserError` for a folder of a later format. One that tells none has format 1."""
    try:
        told: Any = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    _check(setting, folder / ENVIRONMENT, told.get("format") if isinstance(told, dict) else None)


def check_file(setting: str, path: Path, metadata: Mapping[bytes, bytes] | None) -> None:
    """Raise a `UserError` for a Parquet file of a later format, by its schema's metadata."""
    text = (metadata or {}).get(b"winnow.format", b"").decode("ascii", "replace")
    _check(setting, path, int(text) if text.isdecimal() else None)


def _check(setting: str, path: Path, found: object) -> None:
    if isinstance(found, int) and found > FORMAT:
        problem = f"{path} has format {found}, and this version of Winnow reads up to {FORMAT}"
        raise UserError(setting, problem, "use the Winnow that wrote it, or a later one")
