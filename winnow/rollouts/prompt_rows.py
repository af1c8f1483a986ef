"""Prompts of a selection as a source of prompts: the rows that they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from winnow.errors import UserError
from winnow.rollouts.selected import Selected
from winnow.storage.atomic import disk, write_text
from winnow.storage.sample_table import SampleTable
from winnow.types import Prompt

RATE, NUMBER, FILTER = "pass_rate", "n", "filter"
"""Columns that are added: the share of right samples, of how many with a score, and the rules."""
OF_ROW = ("prompt", "prompt_id", "messages", "answer", "difficulty", "data")
"""Columns of a file of samples that a row is made of."""


def control_of(path: Path) -> Path:
    """Where the control of a file of prompts is written: beside it."""
    return path.with_suffix(f".control{path.suffix}")


def surviving(table: SampleTable, selected: Selected) -> list[int]:
    """Numbers of the prompts of which some sample survived."""
    return [n for n in range(len(table)) if selected.survived[table.rows_of(n)].any()]


def at_random(table: SampleTable, size: int, seed: int) -> list[int]:
    """Numbers of so many of all prompts, each set of them as likely, in the order of the file."""
    chosen = np.random.default_rng([seed, size]).choice(len(table), size, replace=False)
    return sorted(chosen.tolist())


def text_of(table: SampleTable, selected: Selected, numbers: Sequence[int], rules: str) -> str:
    """The rows of prompts as lines of JSON, ready to be a recipe's `prompts.source`.

    Args:
        numbers: Of the prompts.
        rules: What the column `filter` says: how they were chosen.

    Raises:
        UserError: a row has a column of its own with a name that is added.
    """
    rows = (_rated(table, selected, number, rules) for number in numbers)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, text: str) -> None:
    """Write a file of prompts, and the folders above it."""
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def row_of(prompt: Prompt) -> dict[str, Any]:
    """The row that a prompt was made from, with what a source must have to make it again.

    A row without an id is named by its place in its file, which another file changes. What a
    generator made has no column with the whole prompt; a template's columns are the row's own.
    """
    row = dict(prompt.data)
    entry = row.get("entry")
    if "gym" in row and isinstance(entry, Mapping):  # what a template may fill in
        row = {**{k: entry[k] for k in ("question", "answer") if k in entry}, **row}
    asked = prompt.text if row or prompt.messages is None else [*prompt.messages]
    made = {"prompt": asked, "answer": prompt.answer, "difficulty": prompt.difficulty}
    row |= {name: value for name, value in made.items() if name not in row and value is not None}
    if row.get("id") is None:
        row["id"] = prompt.id
    return row


def _rated(table: SampleTable, selected: Selected, number: int, rules: str) -> dict[str, Any]:
    group = selected.group(table, number)
    row, valid = row_of(group.prompt), sum(group.valid)
    added = {RATE: sum(group.right) / valid if valid else None, NUMBER: valid, FILTER: rules}
    own = [name for name in added if name in row]
    if own and len(own) < len(added):  # all of them are of an earlier selection
        problem = f"the row of prompt {group.prompt.id!r:.60} has a column {own[0]!r} of its own"
        raise UserError("prompts", problem, "rename it in the prompts' source, and sample again")
    return {**row, **added}
