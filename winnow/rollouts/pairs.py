"""Preference pairs of a selection: survivors are chosen over what was rejected with lower rewards.

A pair a prompt, the best against the worst, as a row that learns from pairs makes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from winnow.algorithms.selection import best_and_worst
from winnow.errors import UserError
from winnow.rollouts.export import asked_as, has_conversations, said_as, tools_beside
from winnow.rollouts.selected import Selected
from winnow.storage.atomic import disk, whole
from winnow.storage.sample_table import SampleTable
from winnow.types import Group, Prompt


@dataclass(frozen=True)
class Pair:
    """The number of a group among those of a file, and of two of its samples."""

    group: int
    chosen: int
    rejected: int


def pairs_of(
    table: SampleTable, selected: Selected, *, of_survivors: bool, seed: int
) -> list[Pair]:
    """A pair of each prompt that has one, in the order of the file.

    Args:
        of_survivors: Whether both samples of a pair survived, as a rule that leaves pairs has it;
            else the best survivor is chosen over the worst sample that was rejected with a lower
            reward. One without a score is neither.
        seed: For ties.
    """
    found = []
    for number in range(len(table)):
        survived = selected.survived[table.rows_of(number)]
        if not survived.any():
            continue
        group = selected.group(table, number)
        others = survived if of_survivors else np.array(group.valid) & ~survived
        rng = np.random.default_rng([seed, number, 1])  # not the rules' numbers
        pair = best_and_worst(group, survived.tolist(), others.tolist(), rng)
        if pair is not None:
            found.append(Pair(number, *pair))
    return found


def export_pairs(table: SampleTable, selected: Selected, pairs: Sequence[Pair], path: Path) -> None:
    """Write pairs as lines of JSON with prompt, chosen, rejected and their scores.

    All as texts, or all as messages where some prompt was a conversation.

    Raises:
        UserError: a prompt that is null, or tools that are none.
    """
    talk = has_conversations(table)
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8") as file:
            for pair in pairs:
                written = _line(selected.group(table, pair.group), pair, talk)
                file.write(json.dumps(written, ensure_ascii=False) + "\n")

    whole(path, write)


def remark(pairs: Sequence[Pair], selected: Selected) -> str:
    """How many pairs there are, and why no more."""
    without = selected.prompts_left - len(pairs)
    return f"{len(pairs)} pairs of {selected.prompts_left} prompts with survivors" + (
        f"; the other {without} have no rejected sample with a lower reward" if without else ""
    )


def _line(group: Group, pair: Pair, talk: bool) -> dict[str, Any]:
    prompt = group.prompt
    if not prompt.text and prompt.messages is None:
        problem = f"a prompt is empty or null (prompt_id {prompt.id!r:.60})"
        raise UserError("samples", problem, "fix the file")
    return {
        "prompt": asked_as(prompt, talk),
        "chosen": said_as(group.samples[pair.chosen].text, talk),
        "rejected": said_as(group.samples[pair.rejected].text, talk),
        **_tools(prompt),
        "score_chosen": group.scores[pair.chosen].value,
        "score_rejected": group.scores[pair.rejected].value,
        "prompt_id": prompt.id,
        "answer": prompt.answer,
    }


def _tools(prompt: Prompt) -> dict[str, Any]:
    try:
        return tools_beside(prompt)
    except ValueError as error:
        problem = f"prompt {prompt.id!r:.60} {error}"
        raise UserError("samples", problem, "fix the file") from error
