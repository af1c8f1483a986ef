"""Preference pairs of a selection: who is chosen over whom, and the lines that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import group
from winnow.algorithms.selection import best_and_worst
from winnow.rollouts.select import select
from winnow.storage.schema import write_groups
from winnow.types import Group, Prompt

NUMBERS = st.sampled_from([0.0, 0.1, 0.5, 1.0, -3.0])


@given(
    st.lists(st.tuples(NUMBERS, st.sampled_from("bwo")), min_size=1, max_size=8),
    st.integers(0, 9),
)
def test_a_pair_is_the_best_of_some_over_the_worst_of_others(sampled, seed) -> None:
    rewards, sides = [r for r, _ in sampled], [s for _, s in sampled]
    pair = best_and_worst(
        group(rewards),
        [s == "b" for s in sides],
        [s == "w" for s in sides],
        np.random.default_rng(seed),
    )
    better = [r for r, s in sampled if s == "b"]
    worse = [r for r, s in sampled if s == "w"]
    if not better or not worse or max(better) <= min(worse):
        assert pair is None
    else:
        assert pair is not None
        assert (sides[pair[0]], sides[pair[1]]) == ("b", "w")
        assert (rewards[pair[0]], rewards[pair[1]]) == (max(better), min(worse))


def exported(folder: Path, groups: list[Group], rules: list[str], **how: Any) -> list[dict]:
    write_groups(folder / "in.parquet", "sample", 0, groups)
    out = folder / f"{len(list(folder.iterdir()))}.jsonl"
    selected = select(folder / "in.parquet", rules, out=out, form="preference", **how)
    lines = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert any(note.startswith(f"{len(lines)} pairs of ") for note in selected.notes)
    return lines


def test_survivors_are_chosen_over_what_was_rejected_with_less(tmp_path) -> None:
    """p: the survivor of `best` over the worst; an error is neither. q: all are equal. r: as p."""
    groups = [
        group([0.5, 1, None, 0.2, 1.0], texts=["a", "b", "c", "d", "e"], name="p"),
        group([0.5, 0.5], name="q"),
        group([0, 1], texts=["f\u2028", "g"], name="r"),
    ]
    lines = exported(tmp_path, groups, ["best"])
    first = lines[0].pop("chosen")
    assert first in ("b", "e")  # a tie, broken at random
    shared = {"score_chosen": 1.0, "answer": None}
    assert lines == [
        {"prompt": "p", "rejected": "d", "score_rejected": 0.2, "prompt_id": "p", **shared},
        {
            "prompt": "r",
            "chosen": "g",
            "rejected": "f\u2028",
            "score_rejected": 0.0,
            "prompt_id": "r",
            **shared,
        },
    ]


def test_what_a_rule_rejects_is_never_chosen(tmp_path) -> None:
    """The best is too long: the pair is of what survives, over what has less."""
    sampled = group([1.0, 0.5, 0.7, 0.0], lengths=[9, 2, 9, 2], texts=["a", "b", "c", "d"])
    (line,) = exported(tmp_path, [sampled], ["length(1, 5)", "best"])
    assert (line["chosen"], line["rejected"]) == ("b", "d")


def test_a_survivor_is_never_rejected(tmp_path) -> None:
    """The worst of all survives; nothing below the other survivor was rejected but c."""
    sampled = group([1.0, 0.2, 0.5], lengths=[2, 2, 9], texts=["a", "b", "c"])
    (line,) = exported(tmp_path, [sampled], ["length(1, 5)"])
    assert (line["chosen"], line["rejected"]) == ("a", "c")


def test_best_worst_gives_its_own_pair(tmp_path) -> None:
    """Of the two that survive, whatever lies below them among the rejected."""
    sampled = group([1.0, 0.5, 0.0], lengths=[2, 2, 9], texts=["a", "b", "c"])
    (line,) = exported(tmp_path, [sampled], ["length(1, 5)", "best-worst"])
    assert (line["chosen"], line["rejected"]) == ("a", "b")
    assert (line["score_chosen"], line["score_rejected"]) == (1.0, 0.5)


def test_conversations_are_messages_in_all_lines(tmp_path) -> None:
    system = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2?"})
    talk = group([1, 0], texts=["yes", "no"]).with_(prompt=Prompt("t", "2?", "4", messages=system))
    one, other = exported(tmp_path, [talk, group([0, 1], texts=["x", "y"], name="p")], ["correct"])
    assert one["prompt"] == [*system]
    assert one["chosen"] == [{"role": "assistant", "content": "yes"}]
    assert one["rejected"] == [{"role": "assistant", "content": "no"}]
    assert (one["prompt_id"], one["answer"]) == ("t", "4")
    assert other["prompt"] == [{"role": "user", "content": "p"}]
    assert other["chosen"] == [{"role": "assistant", "content": "y"}]


def test_new_scores_decide(tmp_path) -> None:
    sampled = group([1, 0], texts=["a", "bb"])
    (line,) = exported(tmp_path, [sampled], ["best"], rescore_with=lambda _, text: len(text))
    assert (line["chosen"], line["score_chosen"], line["score_rejected"]) == ("bb", 2.0, 1.0)


@pytest.mark.parametrize("rules", [["correct"], ["best"], ["best-worst"]])
def test_a_seed_gives_the_same_pairs(tmp_path, rules) -> None:
    groups = [group([0, 1, 0, 1, 1, 0], name=f"p{i}") for i in range(12)]
    one, same, other = (exported(tmp_path, groups, rules, seed=seed) for seed in (3, 3, 4))
    assert one == same != other
