"""Names of files of samples: written and read by one module, foreign files passed by."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from winnow.storage.rollouts import rollout_file, rollout_files, rollout_of
from winnow.types import Split


@given(st.sampled_from(get_args(Split)), st.integers(0, 10**9))
def test_a_name_says_what_it_was_made_of(split: Split, step: int) -> None:
    assert rollout_of(rollout_file(Path("run"), split, step)) == (step, split)


@pytest.mark.parametrize(
    "name",
    ["train-x.parquet", "train-1.parquet", "old-000001.parquet", "train-000001-copy.parquet",
     "train-000001.parquet.partial", "train-000001.csv", "my train-000001.parquet"],
)  # fmt: skip
def test_other_names_are_of_no_step(name: str, tmp_path: Path) -> None:
    assert rollout_of(Path(name)) is None
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / name).touch()
    assert rollout_files(tmp_path) == []


def test_files_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    made: list[tuple[int, Split]] = [(0, "eval"), (2, "eval"), (2, "train"), (1_000_000, "train")]
    for step, split in reversed(made):
        rollout_file(tmp_path, split, step).touch()
    assert [(step, split) for step, split, _ in rollout_files(tmp_path)] == made
    assert [step for step, _, _ in rollout_files(tmp_path, "train")] == [2, 1_000_000]
    assert [path.name for _, _, path in rollout_files(tmp_path, "eval")][1] == "eval-000002.parquet"
