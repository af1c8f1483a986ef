"""Several rewards from a recipe or Python to metrics, files, selection and a resumed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import winnow
from tests.kills import KillAt, Killed
from tests.training.faked import settings
from winnow.config.located import located_config
from winnow.config.recipe import dumps, load, load_folder
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.rollouts.rewards import reward_for
from winnow.training.run import run
from winnow.types import Prompt, Sample, Score

FORM = """
def even(prompt, completion):
    if completion == "9":
        raise ValueError("nine")
    return float(int(completion) % 2 == 0)
"""
PARTS: list[Any] = [
    {"name": "exact"},
    {"name": "form.py:even", "weight": 0.25},
    {"name": "length", "weight": 0.5, "options": {"max": 2, "cache": 2}},
]


def by_hand(text: str) -> tuple[float | None, list[tuple[str, float]]]:
    """Of a digit, where 7 is right and a sample has one token: -1/2 of the way to two."""
    parts = [("exact", float(text == "7")), ("even", float(int(text) % 2 == 0)), ("length", -0.5)]
    if text == "9":
        return None, [parts[0], parts[2]]
    return parts[0][1] + 0.25 * parts[1][1] - 0.25, parts


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "form.py").write_text(FORM)
    monkeypatch.chdir(tmp_path)
    made = settings(tmp_path, monkeypatch)
    return {**made, "reward": PARTS, "optimizer": {"lr": 0.1}, "algorithm": "raft"}


def rows_of(folder: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / "rollouts" / f"{name}.parquet").to_pylist()
    return rows


def test_a_run_keeps_what_each_gave(given, tmp_path) -> None:
    folder = run(from_dict(given), out=tmp_path / "run", observers=KillAt()).folder
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    for step, line in enumerate(lines, start=1):
        rows = rows_of(folder, f"train-{step:06d}")
        for row in rows:
            value, parts = by_hand(row["text"])
            assert (row["reward"], row["reward_parts"]) == (pytest.approx(value), parts)
            assert row["right_by"] == (None if value is None else parts[0][1])
            assert row["right"] == (None if value is None else row["text"] == "7")
            assert row["error"] == (None if value else row["error"])
            if value is None:
                assert row["error"].startswith("part 'even': ValueError: nine (form.py:4)")
        valid = [row for row in rows if row["reward"] is not None]
        metrics = json.loads(line)
        assert metrics["errors"] == len(rows) - len(valid)
        assert metrics["reward_parts"] == {
            label: pytest.approx(np.mean([dict(row["reward_parts"])[label] for row in valid]))
            for label in ("exact", "even", "length")
        }
        assert metrics["right_rate"] == np.mean([row["text"] == "7" for row in valid])
        # raft learns from right samples alone, whatever their form
        assert {row["text"] for row in rows if row["survived"]} <= {"7"}
    evals = [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
    assert all(row["reward_parts"].keys() == {"exact", "even", "length"} for row in evals)
    config = load_folder(folder)
    assert config.reward.parts[1].name == str(tmp_path / "form.py") + ":even"
    assert "number" not in (folder / "config.toml").read_text()


@pytest.mark.parametrize("at", [20, 45])
def test_a_run_that_is_killed_resumes_to_the_same(given, tmp_path, at) -> None:
    whole = run(from_dict(given), out=tmp_path / "whole", observers=KillAt()).folder
    with pytest.raises(Killed):
        run(from_dict(given), out=tmp_path / "cut", observers=KillAt(at))
    resumed = run(resume=tmp_path / "cut", observers=KillAt()).folder
    for path in sorted((whole / "rollouts").iterdir()):
        assert pq.read_table(resumed / "rollouts" / path.name).equals(pq.read_table(path))


def test_samples_are_scored_anew_by_several(given, tmp_path) -> None:
    given = {**given, "reward": "exact"}
    folder = run(from_dict(given), out=tmp_path / "run", observers=KillAt()).folder
    before = rows_of(folder, "train-000001")
    assert {row["reward_parts"] for row in before} == {None}
    out = tmp_path / "new.parquet"
    winnow.select(folder, ["everything"], rescore_with=PARTS, out=out, rejected=True, pool=True)
    rows = pq.read_table(out).to_pylist()
    assert len(rows) > len(before)
    for row in rows:
        value, parts = by_hand(row["text"])
        assert (row["reward"], row["reward_parts"]) == (pytest.approx(value), parts)
        assert row["right"] == (None if value is None else row["text"] == "7")
    # by another bound alone: 0 is enough for `exact`, though most sums are below it
    again = tmp_path / "again.parquet"
    winnow.select(out, ["correct"], right_at=0.0, out=again, rejected=True, pool=True)
    for row in pq.read_table(again).to_pylist():
        assert row["survived"] == (row["text"] != "9") == (row["right"] is True)
    # and back to one reward, which leaves none of the parts
    plain = tmp_path / "plain.parquet"
    winnow.select(out, ["everything"], rescore_with="exact", out=plain, pool=True)
    assert {row["reward_parts"] for row in pq.read_table(plain).to_pylist()} == {None}
    assert {row["right_by"] for row in pq.read_table(plain).to_pylist()} == {None}


def test_length_cannot_be_guessed(given, tmp_path) -> None:
    run(from_dict({**given, "reward": "exact"}), out=tmp_path / "run", observers=KillAt())
    with pytest.raises(UserError, match=r"^reward\.parts\.2\.options\.max: length needs this opt"):
        winnow.select(tmp_path / "run", rescore_with=["exact", "length"], pool=True)
    pq.write_table(
        pq.read_table(tmp_path / "run/rollouts/train-000001.parquet").drop(["tokens"]), "x.parquet"
    )
    how = {"name": "length", "options": {"max": 4}}
    with pytest.raises(UserError, match="tokens"):
        winnow.select("x.parquet", rescore_with=how)


# what a reward may be given as


def even(prompt: Prompt, completion: str) -> float:
    return float(int(completion) % 2 == 0)


even.__module__ = "__main__"  # or a worker would import this module, and torch with it


@pytest.mark.parametrize(
    "reward",
    [
        ["exact", (even, 0.25)],
        ("exact", {"name": even, "weight": 0.25}),
        [{"name": "exact", "weight": 1}, {"name": even, "weight": 0.25, "label": "even"}],
        {"parts": ["exact", (even, 0.25)], "right_by": "exact"},
    ],
)
def test_forms_in_python_are_one(reward, given, tmp_path) -> None:
    del given["reward"]
    result = winnow.train(**{**given, "steps": 2}, reward=reward, out=tmp_path / "run", quiet=True)
    rows = rows_of(result.folder, "train-000001")
    for row in rows:
        parts = [("exact", float(row["text"] == "7")), ("even", even(Prompt("", ""), row["text"]))]
        assert row["reward_parts"] == parts
        assert row["reward"] == parts[0][1] + 0.25 * parts[1][1]
    assert load_folder(result.folder).reward.parts[1].called == "even"


def test_a_resumed_run_is_given_as_many(given, tmp_path) -> None:
    run(from_dict({**given, "steps": 2}), out=tmp_path / "run", observers=KillAt())
    with pytest.raises(UserError, match=r"^reward: 2 given, where the settings have 3; give as"):
        winnow.train(resume=tmp_path / "run", reward=["exact", even], quiet=True)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (["exact", 3], "reward: one of several is 3; give a name, a function, (either, weight)"),
        ([("exact", "much")], "reward.parts.1.weight: must be a float (got 'much')"),
        (["exact", "exact"], "reward.parts: has two parts called 'exact'; give one a label"),
        (["exact", {"name": "exakt"}], "reward.parts.2: unknown reward 'exakt'; did you mean 'ex"),
        (
            ["exact", {"name": "regex", "options": {"pattern": "("}}],
            "reward.parts.2.options.pattern: '(' is not a regular expression",
        ),
        (
            ["exact", {"name": "length", "options": {"most": 3}}],
            "reward.parts.2.options: unknown option 'most' of length; available: max, cache",
        ),
        (
            ["exact", {"name": "length", "options": {"cache": 9}}],
            "reward.parts.2.options.cache: must be from 1 to max, which is 4 (got 9)",
        ),
        (
            ["exact", {"name": "length", "options": {"max": True}}],
            "reward.parts.2.options.max: must be an int from 1 on (got True)",
        ),
        (["exact", "gym"], "reward.parts.2: 'gym' scores gym tasks, but prompt"),
        (["length"], None),
    ],
)
def test_what_is_wrong_with_one_names_it(reward, message, given, tmp_path) -> None:
    del given["reward"]
    given = {**given, "steps": 1, "checkpoint": {}, "out": tmp_path / "run", "quiet": True}
    if message is None:
        assert not rows_of(winnow.train(**given, reward=reward).folder, "train-000001")[0]["right"]
        return
    with pytest.raises(UserError) as caught:
        winnow.train(**given, reward=reward)
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_the_length_is_up_to_where_samples_are_cut_off() -> None:
    config = from_dict({"reward": ["length"], "sampling": {"max_tokens": 10}})
    samples = [Sample((), (), "", "length", length=n) for n in (8, 9, 10)]
    with reward_for(config) as reward:
        scores = reward.score_samples([(Prompt("", ""), sample) for sample in samples])  # type: ignore[union-attr]
    assert [score.value for score in scores] == [0, -0.5, -1]


def test_parts_are_beside_their_recipe(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "form.py").write_text(FORM)
    (tmp_path / "a" / "r.toml").write_text(
        '[[reward]]\nname = "math"\n[[reward]]\nname = "form:even"\n'
    )
    monkeypatch.chdir(tmp_path)
    config = located_config(load("a/r.toml"))
    assert [part.name for part in config.reward.parts] == ["math", f"{tmp_path}/a/form.py:even"]
    assert [part.called for part in config.reward.parts] == ["math", "even"]
    (tmp_path / "copy.toml").write_text(dumps(config))
    assert load("copy.toml").reward == config.reward


@pytest.mark.parametrize(
    ("sets", "parts", "name"),
    [
        (["reward=exact"], [], "exact"),
        (["reward.probe=false"], ["math", "length"], "number"),
        (["reward.parts="], [], "number"),
        (['reward=["exact"]'], ["exact"], "number"),
    ],
)
def test_settings_over_a_list(sets, parts, name, tmp_path) -> None:
    (tmp_path / "r.toml").write_text('reward = ["math", "length"]\n')
    reward = load(str(tmp_path / "r.toml"), sets).reward
    assert ([part.name for part in reward.parts], reward.name) == (parts, name)


def test_scores_of_an_earlier_journal_are_read() -> None:
    from winnow.storage.sample_folder import _listed, _score

    for score in (Score(1.0), Score.failed("x"), Score(0.5, None, (("a", 0.1), ("b", 2.0)), 0.1)):
        assert _score(json.loads(json.dumps(_listed(score)))) == score
    assert _listed(Score(1.0)) == [1.0, None]  # as ever
