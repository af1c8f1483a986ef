"""From scored samples to a reward model, and the reward model at work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests import tiny
from tests.build import sample
from tests.cli.test_main import Case, check_line, contents, in_process
from winnow import api
from winnow.engines.reward_models import trainer
from winnow.engines.reward_models.fit import fit_reward
from winnow.engines.reward_models.preferences import Pair
from winnow.evaluation.best_of import best_of
from winnow.storage.schema import write_groups
from winnow.types import Group, Prompt, Score


def answers(prompts: int = 25, number: int = 8) -> list[Group]:
    """Answers of one digit, the higher the better; right from 5 on. One score is an error."""
    rng = np.random.default_rng(0)
    made = []
    for place, row in enumerate(tiny.problems()[:prompts]):
        digits = rng.integers(0, 10, number)
        scores = [Score(digit / 9) for digit in digits]
        if place == 0:
            scores[0] = Score.failed("it broke")
        prompt = Prompt(f"p{place}", row["prompt"], row["answer"])
        texts = tuple(sample(str(digit)) for digit in digits)
        made.append(Group(prompt, (1,), texts, tuple(scores), right_at=0.5))
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("preferring") / "samples.parquet"
    write_groups(path, "sample", 0, answers())
    return path


HOW = {"lr": 3e-3, "epochs": 3, "per_prompt": 8, "batch_pairs": 8, "layers": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def fitted(file, tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("judge") / "judge"
    return fit_reward(file, out=out, model=str(tiny_model), **HOW)


def test_it_learns_what_is_better(fitted) -> None:
    assert fitted.first_loss == pytest.approx(np.log(2), abs=1e-3)
    assert fitted.last_loss < 0.3
    assert fitted.held_out_accuracy > 0.85
    assert fitted.held_out_low <= fitted.held_out_accuracy <= fitted.held_out_high + 1e-9
    assert (fitted.left_out, fitted.steps) == (0, 3 * -(-fitted.pairs // 8))


class Spied:
    """In the place of the training: what it would have been given."""

    def __init__(self, monkeypatch) -> None:
        self.train: list[Pair] = []
        self.held_out: list[Pair] = []
        monkeypatch.setattr(trainer, "fit_reward_model", self)

    def __call__(self, model, pairs, how, *, held_out, **_) -> None:
        self.train, self.held_out = list(pairs), list(held_out)

    @property
    def prompts(self) -> tuple[set[str], set[str]]:
        train, away = ({p.prompt.text for p in part} for part in (self.train, self.held_out))
        return train, away


class TestPairs:
    @pytest.mark.parametrize(
        ("how", "trained", "away"),
        [
            ({}, 20, 5),
            ({"held_out": 0.0}, 25, 0),
            ({"held_out": 0.01}, 24, 1),  # above 0: one at least
            ({"held_out": 0.99}, 1, 24),
            ({"prompts": 10}, 8, 2),
            ({"prompts": 1}, 1, 0),
            ({"prompts": 99, "per_prompt": 1}, 20, 5),
        ],
    )
    def test_no_prompt_is_on_both_sides(self, file, monkeypatch, how, trained, away) -> None:
        for seed in range(5):
            spied = Spied(monkeypatch)
            fit_reward(file, out=file.with_name("none"), seed=seed, **how)
            left, right = spied.prompts
            assert not left & right
            assert (len(left), len(right)) == (trained, away)

    def test_they_are_what_the_scores_say(self, file, monkeypatch) -> None:
        spied = Spied(monkeypatch)
        fit_reward(file, out=file.with_name("none"), per_prompt=3)
        sampled: dict[str, set[str]] = {}
        for row in pq.read_table(file).to_pylist():
            if row["error"] is None:
                sampled.setdefault(row["prompt"], set()).add(row["text"])
        found = [*spied.train, *spied.held_out]
        assert len(found) == 25 * 3
        for pair in found:
            assert {pair.better, pair.worse} <= sampled[pair.prompt.text]
            assert int(pair.better) > int(pair.worse)

    def test_seeds(self, file, monkeypatch) -> None:
        def made(seed: int) -> tuple[list[Pair], list[Pair]]:
            spied = Spied(monkeypatch)
            fit_reward(file, out=file.with_name("none"), seed=seed, prompts=10)
            return spied.train, spied.held_out

        assert made(0) == made(0)
        assert {p.prompt.text for p in made(0)[1]} != {p.prompt.text for p in made(1)[1]}
        assert {p.prompt.text for p in made(0)[0]} != {p.prompt.text for p in made(1)[0]}

    def test_one_text_under_two_names_is_one_prompt(self, tmp_path, monkeypatch) -> None:
        made = answers(6)
        twins = [g.with_(prompt=Prompt(f"again {g.prompt.id}", g.prompt.text)) for g in made]
        write_groups(tmp_path / "d.parquet", "sample", 0, [*made, *twins])
        for seed in range(8):
            spied = Spied(monkeypatch)
            fit_reward(tmp_path / "d.parquet", out=tmp_path / "none", held_out=0.5, seed=seed)
            assert [len(side) for side in spied.prompts] == [3, 3]
            assert not spied.prompts[0] & spied.prompts[1]

    def test_equal_scores_make_no_pair(self, tmp_path, monkeypatch) -> None:
        made = answers(6)
        made[0] = made[0].with_(scores=(Score(1.0),) * 8)
        write_groups(tmp_path / "d.parquet", "sample", 0, made)
        spied = Spied(monkeypatch)
        fit_reward(tmp_path / "d.parquet", out=tmp_path / "none", held_out=0.2)
        assert [len(side) for side in spied.prompts] == [4, 1]
        assert made[0].prompt.text not in spied.prompts[0] | spied.prompts[1]


def plain_score(folder: Path, text: str) -> float:
    """What transformers alone makes of it."""
    net = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return float(net(**words(text, return_tensors="pt")).logits[0, 0])


class TestAtWork:
    """`model:FOLDER` chooses, rescores and trains."""

    def test_it_chooses_the_best(self, file, fitted, tmp_path) -> None:
        out = tmp_path / "won.parquet"
        made = best_of(file, by=f"model:{fitted.folder}", out=out)
        assert made.accuracy[0] > 0.95  # right from 5 on: one answer is so half of the time
        assert made.accuracy[0] > made.first[0] + 0.2
        rows = pq.read_table(file).to_pylist()
        won = {row["prompt_id"]: row for row in pq.read_table(out).to_pylist()}
        for name in ("p1", "p2"):
            own = [row for row in rows if row["prompt_id"] == name]
            scores = {r["text"]: plain_score(fitted.folder, r["prompt"] + r["text"]) for r in own}
            assert scores[won[name]["text"]] == max(scores.values())

    def test_select_rescores(self, file, fitted, tmp_path, monkeypatch, capsys) -> None:
        out = tmp_path / "kept.parquet"
        args = ["select", str(file), "--rescore", f"model:{fitted.folder}", "--rule", "best(1)"]
        code, _, err = in_process(monkeypatch, capsys, *args, "--out", str(out))
        assert (code, err) == (0, "")
        rows = pq.read_table(out).to_pylist()
        assert len(rows) == 25
        for row in rows[:3]:
            expected = plain_score(fitted.folder, row["prompt"] + row["text"])
            assert row["reward"] == pytest.approx(expected, abs=1e-4)

    def test_it_trains(self, fitted, tiny_model, tmp_path) -> None:
        result = api.train(
            model=str(tiny_model),
            prompts=[row for row in tiny.problems() if int(row["answer"]) < 5],
            reward=f"model:{fitted.folder}",
            algorithm="grpo",
            steps=2,
            out=tmp_path / "run",
            quiet=True,
            prompts_per_step=4,
            minibatch_prompts=4,
            samples_per_prompt=4,
            sampling={"max_tokens": 2},
            eval={"size": 1, "every": 0},
            device="cpu",
        )
        assert len(result.metrics) == 2
        rows = pq.read_table(tmp_path / "run/rollouts/train-000001.parquet").to_pylist()
        for row in rows[:3]:
            expected = plain_score(fitted.folder, row["prompt"] + row["text"])
            assert row["reward"] == pytest.approx(expected, abs=1e-4)


class TestCommand:
    def test_what_it_prints(self, file, tiny_model, tmp_path, monkeypatch, capsys) -> None:
        args = ["fit-reward", str(file), "--model", str(tiny_model), "--layers", "1"]
        args += ["--prompts", "5", "--device", "cpu", "--out"]
        code, out, err = in_process(monkeypatch, capsys, *args, str(tmp_path / "a"))
        assert (code, err) == (0, "")
        assert "16 pairs, 1 updates: loss 0.693 -> 0.693;" in out
        assert "held out: 4 pairs, " in out
        assert out.endswith(f"model:  {tmp_path / 'a'}\n")
        code, out, err = in_process(monkeypatch, capsys, *args, str(tmp_path / "b"), "--json")
        assert (code, err) == (0, "")
        found = json.loads(out, parse_constant=pytest.fail)
        assert found["folder"] == str(tmp_path / "b")
        assert (found["pairs"], found["held_out"], found["steps"]) == (16, 4, 1)
        none = [*args, str(tmp_path / "c"), "--held-out", "0", "--json"]
        code, out, _ = in_process(monkeypatch, capsys, *none)
        assert json.loads(out, parse_constant=pytest.fail)["held_out_accuracy"] is None

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            ("d.parquet", "missing option '--out'"),
            ("d.parquet --out d.parquet", "out: d.parquet exists already"),
            ("d.parquet --out j --held-out 1", "held_out: must be a share from 0 to below 1"),
            ("d.parquet --out j --per-prompt 0", "per_prompt: must be at least 1"),
            ("d.parquet --out j --prompts 0", "prompts: must be at least 1"),
            ("d.parquet --out j --dtype int8", "dtype: must be 'float32' or 'bfloat16'"),
            ("d.parquet --out j --model none", "model: 'none' is not a folder"),
            ("d.parquet --out j --epochs 0", "epochs: must be at least 1"),
            ("d.parquet --out j --device tpu9", "device: unknown device 'tpu9'"),
            ("raw.parquet --out j", "samples: 16 of 16 samples have no score"),
            ("equal.parquet --out j", "pairs: a reward model is fitted to at least 2"),
            ("no.parquet --out j", "samples: no file or folder no.parquet"),
        ],
    )
    def test_a_mistake_is_one_clear_line(self, tmp_path, monkeypatch, capsys, args, says) -> None:
        monkeypatch.chdir(tmp_path)
        made = answers(2)
        write_groups(Path("d.parquet"), "sample", 0, made)
        write_groups(Path("raw.parquet"), "sample", 0, [g.with_(scores=()) for g in made])
        equal = [g.with_(scores=(Score(1.0),) * 8) for g in made]
        write_groups(Path("equal.parquet"), "sample", 0, equal)
        before = contents(tmp_path)
        done = in_process(monkeypatch, capsys, "fit-reward", *args.split())
        check_line(Case(args, says), *done)
        assert contents(tmp_path).keys() == before.keys()
