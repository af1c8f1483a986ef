"""Names of the files of samples in a run folder: `rollouts/train-000012.parquet`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast, get_args

from winnow.storage.reading import has_file, has_folder, listed
from winnow.types import Split

FOLDER = "rollouts"
_NAMED = re.compile(rf"({'|'.join(get_args(Split))})-(\d{{6,12}})\.parquet")


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run, which it stays without its checkpoints."""
    return (
        has_folder(folder / "checkpoints")
        or has_file(folder / "metrics.jsonl")
        or bool(rollout_files(folder, "train"))
    )


def rollout_file(folder: Path, split: Split, step: int) -> Path:
    """Where a run folder has the samples of a step."""
    return folder / FOLDER / f"{split}-{step:06d}.parquet"


def rollout_of(path: Path) -> tuple[int, Split] | None:
    """The step and the split of a file of samples; ``None`` of a file of any other name."""
    named = _NAMED.fullmatch(path.name)
    return None if named is None else (int(named[2]), cast(Split, named[1]))


def rollout_files(folder: Path, split: Split | None = None) -> list[tuple[int, Split, Path]]:
    """Step, split and path of each file of samples of a run folder, by step; others are passed by.

    Args:
        split: Default: all of them, those of one step by name.
    """
    there = [(rollout_of(path), path) for path in listed(folder / FOLDER, "*.parquet")]
    found = [(*named, path) for named, path in there if named is not None]
    chosen = [one for one in found if split in (None, one[1])]
    return sorted(chosen)
