"""Where the files and folders of a config are: beside its recipe, or in the working folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from winnow import user_code
from winnow.config.schema import SHORT, Config, from_dict
from winnow.errors import UserError
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
    ("engine", "vllm_python"),
    ("engine", "transfer_dir"),
    ("reward", "name"),
    *(("algorithm", c) for c in ("select", "advantage", "loss", "denominator", "kl", "critic")),
)
"""Settings that may name a file, a folder or a user's function; in a phase too."""
_MODEL = "model:"
"""Before the folder of a reward model."""
_WORDS = (Config().model, Config().prompts.source, "start", "phase")
"""What these settings may say that names no file, whatever files there are."""
_ELSEWHERE = ("hub:", "gym:", "ema(")
"""How values begin that name a file only if there is one of that very name."""


Found = Callable[[str, str], str]
"""A value and the setting that has it -> the value with the path that it stands for."""


def located_config(config: Config) -> Config:
    """The same config with `~` expanded and paths absolute, where they name what is there.

    `module:function` of a file in the working folder becomes the file's path and `:function`.

    Raises:
        UserError: a path that is not in UTF-8, or the working folder is gone.
    """
    values = config.model_dump(exclude_none=True) | {"phases": config.phases}
    return from_dict(_each(values, _in_working_folder)).looked_beside(config.beside)


def beside_recipe(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a recipe, where they name what is in its folder by absolute paths.

    Raises:
        UserError: a path that is not in UTF-8, or the working folder is gone.
    """
    place = str(located(folder, "recipe"))
    return _each(values, lambda value, setting: _in_folder(value, setting, place))


def found_nowhere(values: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Settings, with their values, that would name something in a folder if it were there."""
    missing = set()

    def look(value: str, setting: str) -> str:
        if _may_miss(value, setting) and _in_folder(value, setting, "") == value:
            missing.add((setting, value))
        return value

    _each(values, look)
    return missing


@contextmanager
def naming_places(config: Config | None) -> Iterator[None]:
    """In the block, an error about what is neither beside the recipe nor here names both places."""
    try:
        yield
    except UserError as error:
        beside = {} if config is None else config.beside
        setting = error.setting
        if setting.startswith("phases.") and setting not in beside:
            setting = setting.split(".", 2)[-1]  # it has the one that is above the phases
        folder = beside.get(setting) or beside.get(f"{setting}.name")
        if folder is not None and folder != (here := str(located(".", setting))):
            beside_it = f"the recipe's folder, {folder}"
            told = error.problem.endswith(f" in {here}")
            error.add_note(
                f"nor in {beside_it}" if told else f"looked in {beside_it}, and in {here}"
            )
        raise


def _each(values: Mapping[str, Any], found: Found, above: str = "") -> dict[str, Any]:
    """The settings, those that may name a file as `found` has them; each phase's too."""
    made = {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()}
    for path in _PATHS:
        table: Any = made
        setting = above + ".".join(path)
        if len(path) == 2 and SHORT.get(path[0]) == path[1] and isinstance(made.get(path[0]), str):
            path = path[:1]
        for name in path[:-1]:
            table = table.get(name)
        if isinstance(table, dict) and path[-1] in table:
            value = table[path[-1]]
            if isinstance(value, str):
                table[path[-1]] = found(value, setting)
            elif isinstance(value, list):
                table[path[-1]] = [found(v, setting) if isinstance(v, str) else v for v in value]
    _each_part(made, found, above)
    phases = made.get("phases")
    if isinstance(phases, list):
        made["phases"] = [
            _each(phase, found, f"phases.{number}.") if isinstance(phase, Mapping) else phase
            for number, phase in enumerate(phases, start=1)
        ]
    return made


def _each_part(made: dict[str, Any], found: Found, above: str) -> None:
    """Likewise the names of several rewards, in place."""
    reward = made.get("reward")
    listed = reward.get("parts") if isinstance(reward, dict) else reward
    if not isinstance(listed, list | tuple):
        return
    parts: list[Any] = []
    for number, part in enumerate(listed, start=1):
        setting = f"{above}reward.parts.{number}.name"
        if isinstance(part, str):
            part = found(part, setting)
        elif isinstance(part, Mapping) and isinstance(part.get("name"), str):
            part = {**part, "name": found(part["name"], setting)}
        parts.append(part)
    made["reward"] = {**reward, "parts": parts} if isinstance(reward, dict) else parts


def _in_working_folder(value: str, setting: str) -> str:
    return _in_folder(value, setting, "")


def _in_folder(value: str, setting: str, folder: str) -> str:
    """The value with its path absolute if that is in the folder, or has a `~`; else as it is."""
    before = _MODEL if value.startswith(_MODEL) else ""
    name = value.removeprefix(before)
    if value in _WORDS:
        return value
    if _is_code(setting) and not before:
        if not user_code.names_function(value):
            return value
        return user_code.in_folder(value, folder or str(located(".", setting))) or value
    path = name if name.startswith("~") else os.path.join(folder, name)
    return before + str(located(path, setting)) if path[:1] == "~" or _exists(path) else value


def _is_code(setting: str) -> bool:
    return setting.endswith("reward.name") or "algorithm." in setting or "reward.parts." in setting


def _may_miss(value: str, setting: str) -> bool:
    """Whether it can only be found in a folder: it is no word, and has no place of its own."""
    name = value.removeprefix(_MODEL)
    if _is_code(setting) and name == value and not user_code.names_function(value):
        return False
    return not (name in _WORDS or name.startswith(_ELSEWHERE) or os.path.isabs(name))


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False
