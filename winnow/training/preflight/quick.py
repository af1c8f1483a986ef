"""The checks that a run makes before its first step: none needs a pass of the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from winnow.config.schema import Config
from winnow.engines.base import Engine
from winnow.errors import DiskError, UserError
from winnow.prompts.loading import PromptSet
from winnow.training.needs import Needs
from winnow.training.preflight.check import Check
from winnow.training.preflight.machine import disk_check, memory_check
from winnow.training.preflight.model import conventions_checks
from winnow.training.preflight.prompts import repeats


def enough(need: Needs, room: tuple[int, int] | None, device: str, out: Path) -> list[str]:
    """Whether memory and disk are, as sentences; told where they may not be.

    Args:
        room: Bytes of memory that were free before the model was read, and all.

    Raises:
        UserError: there is less memory than a run cannot do without.
        DiskError: no checkpoint would fit on the disk, which is as good as full.
    """
    notes = told([memory_check(need.memory, room, device)])
    disk = disk_check(need.disk, out)
    if disk.status == "failed":
        raise DiskError(f"{disk.name}: {disk.text}; {disk.remedy}")
    return [*notes, *told([disk])]


def suited(engine: Engine, config: Config, prompts: PromptSet) -> list[str]:
    """What a person should know of the model's conventions and of the prompts, in sentences.

    Raises:
        UserError: what ruins a run.
    """
    checks = conventions_checks(engine.conventions(), config, prompts.every)
    return told([*checks, *repeats(prompts)])


def told(checks: Iterable[Check]) -> list[str]:
    """The warnings among checks as sentences.

    Raises:
        UserError: a check failed.
    """
    found = []
    for check in checks:
        if check.status == "failed":
            raise UserError("", f"{check.name}: {check.text}", check.remedy)
        if check.status == "warned":
            found.append(f"{check.name}: {check.text}; {check.remedy}")
    return found
