"""A reward that fails is named with its commonest error, before a model is loaded if it can be."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import winnow
from tests import tiny
from winnow.config.schema import Config
from winnow.errors import UserError
from winnow.rewards.factory import make_reward
from winnow.rewards.in_process import InProcessReward
from winnow.rollouts.reward_errors import failures, probe
from winnow.rollouts.scoring import reward_for
from winnow.types import Prompt, Score

HAS = ", ".join(Prompt.__dataclass_fields__)
TYPO = "def score(prompt, completion):\n    return completion == prompt.answr\n"
NOT_THERE = (
    "reward: AttributeError: 'Prompt' object has no attribute 'answr' ({}.py:2): the reward failed "
    "on 3 of 3 plain completions of prompt '0'; a prompt has " + HAS
)
HOW = {"sampling": {"max_tokens": 3, "stop": []}, "quiet": True, "out": "runs/a"}


def test_the_commonest_error_is_told_with_its_count() -> None:
    """By type and line: the values that messages name differ."""
    said = ["ValueError: 'a' (r.py:3)", "KeyError: 'x' (r.py:2)", "ValueError: 'b' (r.py:3)"]
    one = "ValueError: 'a' (r.py:3): the reward failed on 3 of 8 samples, on 2 of them by this"
    assert failures(said, 8) == one
    assert failures(said[1:2], 1) == (
        f"KeyError: 'x' (r.py:2): the reward failed on 1 of 1 samples; a prompt has {HAS}"
    )
    assert failures([], 8) is None
    assert {"text", "answer", "difficulty", "data"} <= {f.name for f in dataclasses.fields(Prompt)}


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_a_typo_ends_every_command_before_there_is_a_model(command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"typo_{command}"
    (tmp_path / f"{module}.py").write_text(TYPO)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")  # there, and cannot be loaded
    with pytest.raises(UserError) as caught:
        getattr(winnow, command)(
            model="model",
            prompts=tiny.problems(),
            reward=f"{module}:score",
            eval={"size": 5},
            **HOW,
        )
    told = re.sub(r"prompt '\d+'", "prompt '0'", str(caught.value))
    assert told.startswith(NOT_THERE.format(module))
    assert caught.value.exit_code == 2
    assert not (tmp_path / "runs" / "a").exists()


@pytest.mark.parametrize("takes", ["7", "", "The answer is 7."])
def test_a_verifier_that_takes_any_plain_completion_passes(takes) -> None:
    def score(prompt: Prompt, completion: str) -> float:
        if completion != takes:
            raise ValueError
        return 0.0

    reward = make_reward(score)
    probe(reward, Prompt("x", "3 + 4 =", "7"))
    reward.close()
    reward = make_reward(fails)
    with pytest.raises(UserError, match=r"ValueError.*; fix it or, .* reward\.probe = false$"):
        probe(reward, Prompt("x", "3 + 4 =", "7"))
    reward.close()


def needs_answer(prompt: Prompt, completion: str) -> float:
    assert prompt.answer is None or prompt.answer.strip()
    return float(completion == prompt.answer.strip())


@pytest.mark.parametrize("reward", ["exact", "math", needs_answer])
def test_without_a_column_of_answers_that_is_what_is_told(reward, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n} + 1 =", "solution": str(n + 1)} for n in range(10)]
    with pytest.raises(UserError) as caught:
        winnow.train(**HOW, prompts=rows, reward=reward)
    assert str(caught.value) == (
        "prompts: the prompts have no column 'answer' (available: prompt, solution); "
        "set prompts.answer_column to the one that holds it"
    )
    made = make_reward(needs_answer)
    with pytest.raises(UserError, match=r"^reward: AttributeError"):
        probe(made, Prompt("p", "1 + 1 =", data={"answer": None}))
    made.close()


@pytest.mark.parametrize("command", [winnow.train, winnow.sample, winnow.evaluate])
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "1 + 1 =", "solution": "2"}], "prompts: the prompts have no column 'answer' "),
        ([{"prompt": "1 + 1 =", "answer": "two"}], "reward: 'number' cannot read the answers of "),
    ],
)
def test_every_command_reads_the_answers_before_the_verifier(
    command, rows, said, tmp_path, monkeypatch
) -> None:
    """Which fails on the first of them too, and cannot say what is to be done."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        command(**HOW, prompts=[{**rows[0], "prompt": f"{n} = "} for n in range(10)])
    assert str(caught.value).startswith(said)


def trl(prompts: list[str], completions: list[str], **rest: object) -> list[float]:
    return [1.0]


def one(completion: str) -> float:
    return 1.0


@pytest.mark.parametrize("reward", [trl, one])
def test_a_reward_of_another_trainers_kind_is_told_what_ours_is(reward) -> None:
    with pytest.raises(UserError) as caught, reward_for(Config(), reward, Prompt("p", "?", "1")):
        raise AssertionError
    assert "; a reward scores one completion: def f(prompt, completion) -> float" in str(
        caught.value
    )


def test_what_may_be_dear_is_not_asked() -> None:
    class Judge:
        name = "judge"

        def score(self, items: object) -> list[Score]:
            raise AssertionError

        def close(self) -> None: ...

    probe(Judge(), Prompt("x", ""))


def fails(prompt: Prompt, completion: str) -> float:
    raise ValueError(f"no {completion}")


SMALL = {"steps": 3, "prompts_per_step": 4, "minibatch_prompts": 4, "samples_per_prompt": 4}


def run(command: str, model: object, **how: object) -> object:
    given = {**HOW, "model": str(model), "prompts": tiny.problems(), **how}
    if command != "evaluate":
        given |= SMALL if command == "train" else {"n": 4}
        given["eval"] = {"size": 0}
    return getattr(winnow, command)(**given)


@pytest.mark.parametrize("command", ["train", "sample", "evaluate"])
def test_scores_that_are_all_errors_end_the_command_and_lose_nothing(
    command, tiny_model, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("winnow.rollouts.collect._PATIENCE", 10**6)
    monkeypatch.setattr("winnow.rollouts.rewards.probe", lambda *_: None)  # as reward.probe = false
    with pytest.raises(UserError) as caught:
        run(command, tiny_model, reward=fails)
    text = str(caught.value)
    count = {"train": 16, "sample": 4 * len(tiny.problems())}.get(command)
    assert f"the reward failed on {count or ''}" in text
    assert "ValueError: no" in text
    assert "(test_reward_errors.py:" in text
    assert (tmp_path / "runs" / "a" / "config.toml").is_file()
    if command == "train":
        assert "step 1: " in text
        done = winnow.train(resume="runs/a", reward=right, quiet=True)
        assert len(done.metrics) == 3
        assert not any(row["errors"] for row in done.metrics)
    if command == "sample":
        done = winnow.sample(resume="runs/a", reward=right, quiet=True)
        assert (done.sampled.made, done.sampled.scored, done.sampled.errors) == (0, count, 0)


right = InProcessReward("right", lambda prompt, text: float(text == prompt.answer))


def sometimes(prompt: Prompt, completion: str) -> float:
    if prompt.id.endswith(("0", "5")):
        raise ValueError(f"no {completion}")
    return 1.0


in_process = InProcessReward("sometimes", sometimes)


def test_some_errors_are_told_alike_by_every_command(tiny_model, tmp_path, monkeypatch) -> None:
    """Two prompts of ten, four samples each: 8 of 40, whoever scores them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("winnow.rollouts.rewards.probe", lambda *_: None)  # any prompt may be first
    rows = [{**row, "id": str(number)} for number, row in enumerate(tiny.problems()[:10])]
    told = re.compile(r"ValueError: no .*: the reward failed on 8 of 40 samples")
    notes = Notes()
    how = {**HOW, "model": str(tiny_model), "callbacks": [notes]}
    none = {"eval": {"size": 0}, "n": 4, "prompts": rows}
    winnow.sample(**{**how, **none, "out": "a"}, reward=sometimes)
    assert next(text for text in notes.texts if "failed" in text and told.match(text))
    winnow.evaluate(**{**how, "out": "b"}, prompts=rows, reward=in_process, eval={"samples": 4})
    evaluation = [
        text.removeprefix("evaluation: ") for text in notes.texts if text[:10] == "evaluation"
    ]
    assert [bool(told.match(text)) for text in evaluation] == [True]
    winnow.sample(**{**how, **none, "out": "c"}, reward=right)
    selected = winnow.select("c", ["everything"], rescore_with=in_process)
    assert told.match(selected.notes[0])
    assert not any("failed" in note for note in winnow.select("c", ["everything"]).notes)


def test_samples_cut_off_are_told_at_the_end(tiny_model, tmp_path, monkeypatch) -> None:
    """As many as the files say; nothing where they are a quarter or fewer."""
    monkeypatch.chdir(tmp_path)
    notes = Notes()
    how = {**HOW, "model": str(tiny_model), "callbacks": [notes], "reward": right}
    given = {"prompts": tiny.problems(), "sampling": {"max_tokens": 1, "stop": []}}
    winnow.sample(**{**how, **given, "out": "a", "n": 2, "eval": {"size": 0}})
    winnow.evaluate(**{**how, **given, "out": "b"})
    told = [text for text in notes.texts if "cut off" in text]
    parts = [*Path("a").rglob("*.parquet")], [*Path("b").rglob("*.parquet")]
    for said, files in zip(told, parts, strict=True):
        ends = [end for file in files for end in pq.read_table(file)["finish_reason"].to_pylist()]
        assert ends.count("length") > 0.25 * len(ends)
        count = f"{ends.count('length')} of {len(ends)} samples were cut off at sampling."
        assert said.startswith(f"{count}max_tokens = 1; raise it")


class Notes(winnow.Observer):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, note: winnow.Note) -> None:
        self.texts.append(note.text)


def test_a_verifier_that_forgot_to_return_is_told_before_anything(tmp_path: Path) -> None:
    """Its score of the answer is a number; one that only fails on an empty text passes."""
    prompt = Prompt("p", "1 + 1 =", "2")

    def forgets(_: Prompt, completion: str) -> float | None:
        return 1.0 if completion == "2" else None

    def first_letter(_: Prompt, completion: str) -> float:
        return float(completion[0] == "2")

    with pytest.raises(UserError, match=r"returned None.* failed on 1 of 2 plain completions"):
        probe(InProcessReward("forgets", forgets), prompt)
    probe(InProcessReward("first_letter", first_letter), prompt)
