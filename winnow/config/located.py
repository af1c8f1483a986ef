"""A config whose files and folders are found from wherever the run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from winnow.config.schema import Config, from_dict
from winnow.storage.paths import located

_PATHS = (
    ("model",),
    ("samples_from",),
    ("samples_file",),
    ("reference",),
    ("prompts", "source"),
    ("eval", "source"),
    ("anchor", "source"),
    ("anchor",),
    ("reward", "name"),
)
"""Settings that may name a file or a folder; in a phase too."""
_MODEL = "model:"
"""Before the folder of a reward model."""
_WORDS = (Config().model, Config().prompts.source, "start", "phase")
"""What these settings may say that names no file, whatever files there are."""


def located_config(config: Config) -> Config:
    """The same config with `~` expanded and paths absolute, where they name what is there.

    Raises:
        UserError: a path that is not in UTF-8, or the working folder is gone.
    """
    values = _located(config.model_dump(exclude_none=True))
    values["phases"] = [_located(phase) for phase in config.phases]
    return from_dict(values)


def _located(values: Mapping[str, Any]) -> dict[str, Any]:
    made = {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()}
    for *above, key in _PATHS:
        table: Any = made
        for name in above:
            table = table.get(name)
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = _path(table[key], ".".join([*above, key]))
    return made


def _path(value: str, setting: str) -> str:
    before = _MODEL if value.startswith(_MODEL) else ""
    name = value.removeprefix(before)
    if value in _WORDS or (setting == "reward.name" and not before):
        return value
    if name.startswith("~") or _exists(name):
        return before + str(located(name, setting))
    return value


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False
