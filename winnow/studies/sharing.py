"""Whether variants of one seed share what is random: read from the samples, not assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from winnow.config.recipe import load_folder
from winnow.errors import UserError
from winnow.rollouts.inputs import flat
from winnow.storage.parquet import UNREADABLE
from winnow.storage.paths import shown
from winnow.storage.rollouts import rollout_file, rollout_files
from winnow.storage.schema import read_written

_DECIDES = {
    "held_out": ("prompts", "eval", "samples_file"),
    "order": ("prompts", "eval", "prompts_per_step", "algorithm.refill", "algorithm.resample"),
    "samples": (
        *("model", "samples_from", "dtype", "lora", "prompts", "eval", "prompts_per_step"),
        *("samples_per_prompt", "sampling", "engine", "algorithm.refill", "algorithm.resample"),
        *("reference", "samples_file"),
    ),
}
"""The settings that may decide each, or tables of them."""
WHAT = {
    "held_out": "held-out prompts",
    "order": "prompts and their order",
    "samples": "samples of the first step",
}


@dataclass(frozen=True)
class Sharing:
    """What a variant shares with another at the same seeds.

    Attributes:
        held_out, order, samples: At how many of them; of `order`, the prompts of all steps as far
            as the shorter run goes; of `samples`, all token ids of the first step.
        seeds: How many were looked at.
        why: Of what is not shared, the settings that may be the cause.
    """

    variant: str
    other: str
    seeds: int
    held_out: int
    order: int
    samples: int
    why: Mapping[str, Sequence[str]]

    @property
    def sentence(self) -> str:
        """For a person."""
        same = [WHAT[key] for key in WHAT if getattr(self, key) == self.seeds]
        said = [f"share {_listed(same)}"] if same else []
        for key in WHAT:
            count = getattr(self, key)
            if count < self.seeds:
                often = f" at {self.seeds - count} of {self.seeds} seeds" if count else ""
                causes = self.why.get(key) or ()
                why = f" ({', '.join(causes)} differ)" if len(causes) > 1 else ""
                why = f" ({causes[0]} differs)" if len(causes) == 1 else why
                why = why or " (no setting says why)"
                said.append(f"other {WHAT[key]}{often}{why}")
        return f"{self.variant} and {self.other}: {'; '.join(said)}"


def sharing_of(variant: str, other: str, folders: Sequence[tuple[Path, Path]]) -> Sharing:
    """What two variants share.

    Args:
        folders: For each seed the folder of the variant's run and of the other's.

    Raises:
        UserError: a file of samples is damaged.
    """
    counts = dict.fromkeys(WHAT, 0)
    for own, its in folders:
        counts["held_out"] += _held_out(own) == _held_out(its)
        counts["order"] += _alike(_order(own), _order(its))
        counts["samples"] += _first(own) == _first(its)
    missing = [key for key in WHAT if counts[key] < len(folders)]
    changed = _changed(*folders[0]) if missing and folders else []
    why = {
        key: [c for c in changed if any(c == d or c.startswith(f"{d}.") for d in _DECIDES[key])]
        for key in missing
    }
    return Sharing(variant, other, len(folders), **counts, why=why)


def _held_out(folder: Path) -> list[Any]:
    path = rollout_file(folder, "eval", 0)
    return _read(path, ["group", "sample", "prompt_id", "prompt"]) if path.is_file() else []


def _order(folder: Path) -> list[Any]:
    """The prompts of all steps, one after another, whatever steps they are divided into."""
    files = [path for _, _, path in rollout_files(folder, "train")]
    return [
        (row["prompt_id"], row["prompt"])
        for path in files
        for row in _read(path, ["group", "sample", "prompt_id", "prompt"])
        if row["sample"] == 0
    ]


def _first(folder: Path) -> list[Any]:
    path = rollout_file(folder, "train", 1)
    return _read(path, ["group", "sample", "prompt_id", "token_ids"]) if path.is_file() else []


def _alike(one: list[Any], other: list[Any]) -> bool:
    shorter = min(len(one), len(other))
    return shorter > 0 and one[:shorter] == other[:shorter]


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        table = read_written(path, columns)
    except UNREADABLE as error:
        raise UserError("", f"{shown(path)} is damaged ({error})", "restore it") from error
    if "sample" in columns and "token_ids" not in columns:
        table = table.filter(pc.equal(table["sample"], 0))
    rows: list[dict[str, Any]] = table.sort_by(
        [("group", "ascending"), ("sample", "ascending")]
    ).to_pylist()
    return rows


def _changed(own: Path, its: Path) -> list[str]:
    """Settings that differ between two runs."""
    one, other = (flat(load_folder(f).model_dump(exclude_none=True)) for f in (own, its))
    return [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
