"""Prompts chosen by how hard they are: rows that make the same prompts again, and a control."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.build import group
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.prompts.loading import load_prompts, read
from winnow.rewards.reasoning_gym import gym
from winnow.rollouts.select import select
from winnow.storage.schema import write_groups
from winnow.types import Prompt

RATES = [[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, None, 0], [1, 1, 1, 1], [None] * 4]
"""Rewards of five prompts; the rates among valid samples are 0, 1/4, 2/3 and 1."""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def sampled(folder: Path, prompts: Sequence[Prompt]) -> Path:
    groups = [group(RATES[i % len(RATES)]).with_(prompt=prompt) for i, prompt in enumerate(prompts)]
    write_groups(folder / "in.parquet", "sample", 0, groups)
    return folder / "in.parquet"


def of_file(folder: Path, rows: list[dict], **settings: object) -> list[Prompt]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"source": str(folder / "rows.jsonl"), **settings}
    return read(from_dict({"prompts": source}).prompts, 0)


TALK = [{"role": "user", "content": "2?"}]
SETTINGS = {
    "a column": ([{"prompt": f"q {i}", "answer": i} for i in range(5)], {}),
    "other columns": (
        [{"q": f"q {i}", "solution": {"x": i}, "level": i % 2} for i in range(5)],
        {"prompt_column": "q", "answer_column": "solution.x", "difficulty_column": "level"},
    ),
    "a template": (
        [{"a": i, "b": 2, "answer": "x", "id": f"n{i}"} for i in range(5)],
        {"template": "{a} + {b} ="},
    ),
    "a conversation": (
        [{"prompt": [*TALK, {"role": "user", "content": str(i)}]} for i in range(5)],
        {},
    ),
    "the chat template": (
        [{"prompt": f"q {i}"} for i in range(5)],
        {"chat": True, "system": "Be brief."},
    ),
    "arithmetic": (None, {"source": "arithmetic", "size": 5}),
    "arithmetic, by a template": (
        None,
        {"source": "arithmetic", "size": 5, "template": "What is {a} {op} {b}?"},
    ),
    "arithmetic, chat": (None, {"source": "arithmetic", "size": 5, "chat": True}),
    "gym": (None, {"source": "gym:leg_counting", "size": 5}),
    "gym, by a template": (
        None,
        {"source": "gym:leg_counting", "size": 5, "template": "Q: {question}"},
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_the_rows_make_the_same_prompts_with_the_same_settings(tmp_path, case) -> None:
    rows, settings = SETTINGS[case]
    if rows is None:
        prompts = read(from_dict({"prompts": settings}).prompts, 3)
    else:
        prompts = of_file(tmp_path, rows, **settings)
    select(sampled(tmp_path, prompts), ["band(0.2, 0.8)"], prompts=tmp_path / "hard.jsonl")
    again = {k: v for k, v in settings.items() if k not in ("source", "size")}
    config = from_dict({"prompts": {**again, "source": str(tmp_path / "hard.jsonl")}})
    made = read(config.prompts, 0)
    wanted = [prompts[1], prompts[2]]
    what = lambda p: (p.id, p.text, p.answer, p.messages)  # noqa: E731
    assert list(map(what, made)) == list(map(what, wanted))
    if "difficulty_column" in settings:
        assert [p.difficulty for p in made] == [p.difficulty for p in wanted]
    added = [(row["pass_rate"], row["n"], row["filter"]) for row in lines(tmp_path / "hard.jsonl")]
    rules = "band(low=0.2, high=0.8)"
    assert added == [(0.25, 4, rules), (2 / 3, 3, rules)]
    if case.startswith("gym"):
        assert gym(made[0], str(made[0].answer)) == 1.0
    if rows is not None:
        by_name = {key: row for row in lines(tmp_path / "hard.jsonl") for key in [row["id"]]}
        assert by_name[prompts[2].id].items() >= rows[2].items()


def test_a_control_is_as_many_of_all_prompts_with_their_rates(tmp_path) -> None:
    prompts = of_file(tmp_path, [{"prompt": f"q {i}"} for i in range(10)])
    hard = tmp_path / "new" / "hard.jsonl"
    selected = select(
        sampled(tmp_path, prompts), ["correct", "band(0.2, 0.8)"], prompts=hard, control=True
    )
    assert selected.prompts_left == 4
    control = lines(hard.with_name("hard.control.jsonl"))
    assert len(control) == len(lines(hard)) == 4
    assert len({row["id"] for row in control}) == 4
    rates = [0.0, 0.25, 2 / 3, 1.0, None]
    for row in control:
        number = int(row["id"])
        assert row["prompt"] == f"q {number}"
        assert (row["pass_rate"], row["n"]) == (rates[number % 5], (4, 4, 3, 4, 0)[number % 5])
        assert row["filter"] == "none: 4 of 10 prompts at random, seed 0"


def test_every_prompt_is_as_likely_in_the_control(tmp_path) -> None:
    """4 of 10 in 150 controls: 60 times each in the mean, deviation sqrt(150 x 0.4 x 0.6) = 6."""
    prompts = of_file(tmp_path, [{"prompt": f"q {i}"} for i in range(10)])
    path = sampled(tmp_path, prompts)
    counts: Counter[str] = Counter()
    for seed in range(150):
        hard = tmp_path / f"{seed}.jsonl"
        select(path, ["band(0.2, 0.8)"], prompts=hard, control=True, seed=seed)
        counts.update(row["id"] for row in lines(tmp_path / f"{seed}.control.jsonl"))
    assert sum(counts.values()) == 600
    assert all(abs(counts[str(i)] - 60) < 4.5 * 6 for i in range(10))
    again = tmp_path / "again.jsonl"
    select(path, ["band(0.2, 0.8)"], prompts=again, control=True, seed=7)
    assert lines(tmp_path / "again.control.jsonl") == lines(tmp_path / "7.control.jsonl")


def test_what_was_filtered_can_be_filtered_again(tmp_path) -> None:
    """The columns of an earlier selection are written over; a column of one's own is not."""
    rows = [{"prompt": f"q {i}", "pass_rate": 1.0, "n": 9, "filter": "old"} for i in range(5)]
    path = sampled(tmp_path, of_file(tmp_path, rows))
    select(path, ["correct"], prompts=tmp_path / "right.jsonl", right_at=0.5)
    assert [row["n"] for row in lines(tmp_path / "right.jsonl")] == [4, 3, 4]
    path = sampled(tmp_path, of_file(tmp_path, [{"prompt": f"q {i}", "n": 7} for i in range(5)]))
    with pytest.raises(UserError, match=r"^prompts: the row of prompt '1' has a column 'n' of its"):
        select(path, ["correct"], prompts=tmp_path / "no.jsonl", control=True)
    assert not list(tmp_path.glob("no*"))


def test_new_scores_are_what_counts(tmp_path) -> None:
    path = sampled(tmp_path, of_file(tmp_path, [{"prompt": f"q {i}"} for i in range(5)]))
    last = lambda prompt, text: float(text == "answer 3" and prompt.text == "q 4")  # noqa: E731
    select(path, ["correct"], prompts=tmp_path / "p.jsonl", rescore_with=last)
    (row,) = lines(tmp_path / "p.jsonl")
    assert (row["id"], row["pass_rate"], row["n"]) == ("4", 0.25, 4)


def test_a_recipe_trains_on_the_rows(tmp_path) -> None:
    """With held-out prompts of the same recipe, written the same way."""
    original = from_dict({"prompts": {"size": 60}, "eval": {"size": 10}})
    found = load_prompts(original.prompts, original.eval, 0)
    for name, prompts, rule in (
        ("hard", found.train, "band(0.2, 0.8)"),
        ("held", found.held_out, "everything"),
    ):
        select(sampled(tmp_path, prompts), [rule], prompts=tmp_path / f"{name}.jsonl")
    sources = {
        "prompts": {"source": str(tmp_path / "hard.jsonl")},
        "eval": {"source": str(tmp_path / "held.jsonl"), "size": 10},
    }
    config = from_dict(sources)
    made = load_prompts(config.prompts, config.eval, 0)
    chosen = {prompt.id for i, prompt in enumerate(found.train) if i % 5 in (1, 2)}
    assert {prompt.id for prompt in made.train} == chosen
    errors = {prompt.id for i, prompt in enumerate(found.held_out) if i % 5 == 4}
    assert {p.id for p in made.held_out} == {p.id for p in found.held_out} - errors
