"""Held-out accuracy after training on filtered prompts, and on their control."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from winnow.theory.intervals import paired_difference


def right(run: Path) -> np.ndarray:
    """Whether the last sample of each held-out prompt is right, by the prompts' ids."""
    last = max((run / "rollouts").glob("eval-*.parquet"))
    rows = sorted(pq.read_table(last).to_pylist(), key=lambda row: row["prompt_id"])
    return np.array([bool(row["right"]) for row in rows], dtype=float)


def show(name: str, control: np.ndarray, hard: np.ndarray, seeds: int) -> None:
    """Accuracies, and their difference with its 95 % interval over prompts."""
    value, low, high = paired_difference(control, hard, (seeds, seeds))
    print(
        f"{name}: filtered {hard.mean():.1%}, control {control.mean():.1%}: "
        f"{100 * value:+.1f} points [{100 * (low or 0):+.1f}, {100 * (high or 0):+.1f}]"
    )


def main(folder: Path, seeds: list[str]) -> None:
    """Print a line a seed, and one for all."""
    both = [(right(folder / f"hard.control-{s}"), right(folder / f"hard-{s}")) for s in seeds]
    for seed, (control, hard) in zip(seeds, both, strict=True):
        show(f"seed {seed}", control, hard, 1)
    control, hard = (np.mean(side, axis=0) for side in zip(*both, strict=True))
    show("all seeds", control, hard, len(seeds))


main(Path(sys.argv[1]), sys.argv[2:])
