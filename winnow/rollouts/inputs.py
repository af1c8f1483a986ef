"""What a folder was begun with, its settings and data, and what has changed when it is resumed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.config.schema import Config
from winnow.config.schema.alarms import AlarmsConfig
from winnow.errors import UserError
from winnow.storage.atomic import write_text
from winnow.storage.digests import Damaged, read_signed, signed
from winnow.storage.reading import has_file
from winnow.types import Prompt

INPUTS = "inputs.json"
"""A folder's file that tells it: every setting, and digests of the data."""

_FREE = frozenset(
    {
        "device",
        "threads",
        "trackers",
        "report",
        "sampling.batch",
        "sampling.cache_gib",
        "checkpoint.every",
        "checkpoint.keep",
        "checkpoint.keep_optimizer",
        "reward.time_limit",
        "reward.import_seconds",
        "reward.memory_gib",
        "reward.workers",
        "reward.probe",
        *(f"reward.options.{key}" for key in ("url", "concurrency", "requests_per_minute")),
        *(f"reward.options.{key}" for key in ("timeout", "retries", "key_env")),
        "engine.learner",
        "engine.activation_checkpointing",
        "engine.cpu_offload",
        "engine.url",
        "engine.concurrency",
        "engine.requests_per_minute",
        "engine.timeout",
        "engine.retries",
        "engine.key_env",
        "engine.urls",
        "engine.servers",
        "engine.transfer_dir",
        "engine.start_timeout",
        *(f"engine.vllm_{key}" for key in ("python", "memory", "port", "devices")),
        "prompts.source",
        "eval.source",
        "anchor.source",
        "samples_file",
        *(f"alarms.{key}" for key in AlarmsConfig.model_fields),
    }
)
"""Settings that say where and how the work is done; of sources, what is in them counts."""
_SINCE = re.compile(r".* of the test prompts")
"""Data of which earlier versions recorded nothing."""
_PLACES = "ray."
"""How settings begin that say where the work is done."""
_PART = re.compile(r"^reward\.parts\.\d+\.")
"""What stands before the settings of one of several rewards."""


def inputs_of(
    settings: Mapping[str, Any],
    prompts: Mapping[str, Sequence[Prompt]],
    files: Iterable[Path] = (),
) -> dict[str, Any]:
    """What is recorded of settings and data, as JSON reads it back.

    Args:
        prompts: Sets of prompts by what they are called in messages.
        files: Files of samples.
    """
    data = {
        f"{part} of the {name}": digest
        for name, some in prompts.items()
        if some
        for part, digest in _digests(some).items()
    }
    paths = sorted(set(files))
    data |= {f"file of samples {number}": _digest(p) for number, p in enumerate(paths, start=1)}
    made: dict[str, Any] = json.loads(json.dumps({"settings": flat(settings), "data": data}))
    return made


def text_of(inputs: Mapping[str, Any]) -> str:
    """The text of the file, with a digest of itself."""
    return signed(inputs)


def check_inputs(
    folder: Path,
    present: Mapping[str, Any],
    *,
    accept: bool,
    extends: Collection[str] = (),
) -> list[str]:
    """Compare what a folder was begun with and what it would be resumed with; record what is new.

    Raises:
        UserError: as `compared`, which has the arguments too.
    """
    found = compared(folder, present, accept=accept, extends=extends)
    record(folder, found.text)
    return found.notes


@dataclass(frozen=True)
class Compared:
    """What a folder was begun with, compared with what it would be resumed with.

    Attributes:
        notes: On what has changed.
        text: What is to be recorded when it is resumed, if anything is.
        other: Whether something has changed that changes what comes out.
    """

    notes: list[str]
    text: str | None = None
    other: bool = False


def record(folder: Path, text: str | None) -> None:
    """Write what `compared` gave to be written."""
    if text is not None:
        write_text(folder / INPUTS, text)


def compared(
    folder: Path,
    present: Mapping[str, Any],
    *,
    accept: bool,
    extends: Collection[str] = (),
) -> Compared:
    """Compare what a folder was begun with and what it would be resumed with.

    Args:
        accept: Whether changes are accepted that change what comes out.
        extends: Settings that only make the work longer where they are raised.

    Raises:
        UserError: something has changed that is not accepted; names all of it.
    """
    path = folder / INPUTS
    if not has_file(path, "resume"):
        note = (
            f"{folder} has no {INPUTS} (an earlier version wrote it): its settings and data "
            "may have changed since it was begun"
        )
        return Compared([note], text_of(present))
    begun = _read(path)
    changed = _changed(begun["settings"], present["settings"])
    of_data = [f"the {name}" for name in sorted(_other(begun["data"], present["data"]))]
    free = {
        key
        for key, (old, new) in changed.items()
        if _PART.sub("reward.", key) in _FREE
        or key.startswith(_PLACES)
        or (key in extends and _raised(key, old, new))
    }
    shown = {key: f"{key} {worded(old)} -> {worded(new)}" for key, (old, new) in changed.items()}
    serious = [text for key, text in shown.items() if key not in free] + of_data
    if serious and not accept:
        raise UserError(
            "resume",
            f"{folder} was begun with other settings or data ({', '.join(serious)})",
            "restore them, or resume with the changes (--accept-changes)",
        )
    said = [*shown.values(), *of_data]
    if not said:
        return Compared([])
    text = text_of({**present, "changes": [*begun.get("changes", ()), said]})
    note = f"changed since {folder} was begun: {', '.join(said)}"
    return Compared([note], text, bool(serious))


def _read(path: Path) -> dict[str, Any]:
    try:
        told = read_signed(path)
    except Damaged:
        told = {}
    if all(isinstance(told.get(k), dict) for k in ("settings", "data")):
        return told
    problem = f"{path} is damaged"
    remedy = "remove it, if settings and data are those that the folder was begun with"
    raise UserError("resume", problem, remedy)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ; what this version has added is at its default."""
    default = json.loads(json.dumps(flat(Config().model_dump(exclude_none=True))))
    return {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key, default.get(key)) != new.get(key)
    }


def _other(old: Mapping[str, Any], new: Mapping[str, Any]) -> set[str]:
    return {
        key
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key) and not (key not in old and _SINCE.fullmatch(key))
    }


def _raised(key: str, old: object, new: object) -> bool:
    """Whether a setting only makes the work longer; a 0 is no budget, and no patience."""
    if not (isinstance(old, int | float) and isinstance(new, int | float)):
        return False
    if key.startswith("budget."):
        return old > 0 and (new == 0 or new > old)
    return new > old and (old > 0 or key != "eval.patience")


def worded(value: object) -> str:
    """The value of a setting, for a message."""
    return "unset" if value is None else f"{json.dumps(value):.60}"


def flat(values: Any, above: str = "") -> dict[str, Any]:
    """Nested tables, and lists of tables by number, as one: `phases.2.optimizer.lr`."""
    if isinstance(values, Mapping):
        parts = {str(key): value for key, value in values.items()}
    elif isinstance(values, list) and values and all(isinstance(v, Mapping) for v in values):
        parts = {str(number): value for number, value in enumerate(values, start=1)}
    else:
        return {above: values}
    found: dict[str, Any] = {}
    for key, value in parts.items():
        found |= flat(value, f"{above}.{key}" if above else key)
    return found


def _digests(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Digests of prompts by what a change in them would be called."""
    parts = {
        "texts": [(p.text, p.messages) for p in prompts],
        "answers": [p.answer for p in prompts],
        "names and other columns": [(p.id, p.difficulty, dict(p.data)) for p in prompts],
    }
    return {
        name: hashlib.sha256(
            json.dumps(part, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
        ).hexdigest()
        for name, part in parts.items()
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
