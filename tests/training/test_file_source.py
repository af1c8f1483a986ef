"""Training on a file of samples: sampled elsewhere, selected and learned from here."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

import winnow
from tests import kills, tiny
from winnow.config.schema import from_dict
from winnow.errors import UserError
from winnow.storage.sample_table import read_samples
from winnow.training import file_source

SETTINGS = {
    "prompts_per_step": 4,
    "minibatch_prompts": 2,
    "optimizer": {"lr": 1e-3},
    "sampling": {"max_tokens": 4},
    "eval": {"size": 0},
    "checkpoint": {"every": 100},
    "reward": "exact",
}


@pytest.fixture(scope="module")
def samples(tiny_model, tmp_path_factory) -> Path:
    """Ten prompts x 16 scored samples of the tiny model."""
    folder = tmp_path_factory.mktemp("samples") / "sampled"
    winnow.sample(
        model=str(tiny_model),
        prompts=tiny.problems()[:10],
        reward="exact",
        n=16,
        sampling={"max_tokens": 4},
        out=folder,
        quiet=True,
    )
    return folder


def rows_of(folder: Path) -> list[dict]:
    return pq.read_table(folder).to_pylist()


def changed(samples: Path, to: Path, **columns) -> Path:
    """The samples as one file, with columns replaced (by a function of the row) or left out."""
    rows = rows_of(samples / "samples")
    for name, value in columns.items():
        for row in rows:
            if value is None:
                del row[name]
            else:
                row[name] = value(row)
    pq.write_table(pa.Table.from_pylist(rows), to)
    return to


def train(model: Path, samples: Path, out: Path, **settings):
    return winnow.train(
        model=str(model), samples_file=str(samples), out=out, quiet=True, **{**SETTINGS, **settings}
    )


def differs(one: Path, other: Path) -> bool:
    return not kills.same(kills.weights(one), kills.weights(other))


def test_every_pass_sees_every_prompt_once(tiny_model, samples, tmp_path) -> None:
    result = train(tiny_model, samples, tmp_path / "run", algorithm={"name": "rft", "epochs": 2})
    assert [row["prompts"] for row in result.metrics] == [4, 4, 2] * 2
    assert {row["tokens_sampled"] for row in result.metrics} == {0}
    seen = rows_of(result.folder / "rollouts")  # the first pass, as it was trained on
    sampled = rows_of(samples / "samples")
    key = lambda row: (row["prompt"], tuple(row["token_ids"]), row["reward"])  # noqa: E731
    assert Counter(map(key, seen)) == Counter(map(key, sampled))
    assert differs(result.checkpoint, tiny_model)


def test_selection_and_weights_are_the_algorithms(tiny_model, samples, tmp_path) -> None:
    row = {"name": "grpo", "select": ["mixed"]}
    result = train(tiny_model, samples, tmp_path / "run", algorithm=row)
    by_prompt: dict[str, list[dict]] = {}
    for sample in rows_of(result.folder / "rollouts"):
        by_prompt.setdefault(sample["prompt"], []).append(sample)
    for group in by_prompt.values():
        rewards = np.array([sample["reward"] for sample in group])
        mixed = 0 < rewards.sum() < len(rewards)
        expected = (rewards - rewards.mean()) / rewards.std(ddof=1) if mixed else 0 * rewards
        assert [sample["advantage"] for sample in group] == pytest.approx(expected.tolist())
        assert {sample["survived"] for sample in group} == {mixed}


def test_samples_that_nobody_has_judged_pass_as_recorded_with_a_note(samples, tmp_path) -> None:
    """All 160 of `winnow sample`, right or wrong; none of them where each has an outcome."""
    config = from_dict({"samples_file": str(samples), "algorithm": {"name": "rft"}})
    recorded = config.algorithm.build().with_cells({"select": ["as-recorded"]})
    told = "as-recorded: 160 samples have no outcome in the file and pass"
    assert told in file_source.open_file(config, recorded).notes
    assert told not in file_source.open_file(config, config.algorithm.build()).notes
    winnow.select(samples, ["correct"], out=tmp_path / "all.parquet", rejected=True)
    judged = from_dict({"samples_file": str(tmp_path / "all.parquet")})
    assert not any("no outcome" in note for note in file_source.open_file(judged, recorded).notes)


RANDOM = [
    ["at-most(2)"],
    ["best(1)"],  # rewards are 0 or 1: mostly ties
    ["gibbs(0.5)"],
    ["gibbs(1, 1)", "at-most(1)"],
    ["rso(0.5, 3)"],
    ["best-worst"],
]


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("rules", RANDOM, ids=str)
def test_a_file_is_selected_as_winnow_select_does(
    tiny_model, samples, tmp_path, rules, seed
) -> None:
    """One seed, one set of survivors, however often and in how many pieces the file is read."""
    selected = winnow.select(samples, rules, seed=seed)
    table = read_samples([samples], ["text", "reward"], why="here")
    algorithm = from_dict({"algorithm": {"name": "rft", "select": rules}}).algorithm.build()
    judged, _ = file_source.select_all(table, algorithm, seed)
    kept = np.zeros(table.rows, dtype=bool)
    for number, one in enumerate(judged):
        kept[table.rows_of(number)] = [outcome.survived for outcome in one.outcomes]
    assert kept.tolist() == selected.survived.tolist()
    assert 0 < kept.sum() < len(kept)

    pieces = []
    rows = rows_of(samples / "samples")
    for first in range(0, len(rows), 56):  # in the midst of a prompt's samples
        pieces.append(tmp_path / f"{first}.parquet")
        pq.write_table(pa.Table.from_pylist(rows[first : first + 56]), pieces[-1])
    assert winnow.select(pieces, rules, seed=seed).survived.tolist() == kept.tolist()


def test_what_is_trained_on_is_what_winnow_select_keeps(tiny_model, samples, tmp_path) -> None:
    rules = ["gibbs(1)", "at-most(2)"]
    row = {"name": "rft", "select": rules}
    result = train(tiny_model, samples, tmp_path / "run", algorithm=row, seed=3)
    winnow.select(samples, rules, out=tmp_path / "kept.parquet", seed=3)
    sampled = [(row["prompt"], row["sample"]) for row in rows_of(tmp_path / "kept.parquet")]
    trained = [
        (row["prompt"], row["sample"])
        for row in rows_of(result.folder / "rollouts")
        if row["advantage"]
    ]
    assert sorted(trained) == sorted(sampled)
    assert len(sampled) == 20


def test_what_is_right_is_what_the_file_says(tiny_model, samples, tmp_path) -> None:
    """From 0 on, where the file says so: every sample; from 1 on where the recipe says so."""
    lenient = changed(samples, tmp_path / "lenient.parquet", right_at=lambda row: 0.0)
    assert winnow.select(lenient, ["correct"]).survivors == 160
    right = winnow.select(samples, ["correct"]).survivors
    algorithm = {"name": "rft", "select": "correct"}
    for name, bound, expected in [("file", {}, 160), ("recipe", {"right_at": 1.0}, right)]:
        reward = {"name": "exact", **bound}
        source = {"model": str(tiny_model), "samples_file": str(lenient), "algorithm": algorithm}
        config = from_dict({**SETTINGS, **source, "reward": reward})
        result = kills.go(config, tmp_path / name)
        assert sum(row["survived"] for row in rows_of(result.folder / "rollouts")) == expected


def test_pairs_of_a_file(tiny_model, samples, tmp_path) -> None:
    """DPO: best against worst of each prompt that has both; only they meet the reference."""
    result = train(
        tiny_model,
        samples,
        tmp_path / "run",
        algorithm={"name": "dpo", "epochs": 8},
        minibatch_prompts=4,
        optimizer={"lr": 1e-3},
    )
    pairs = 0
    for step in (1, 2, 3):
        by_prompt: dict[str, list[dict]] = {}
        path = result.folder / "rollouts" / f"train-{step:06d}.parquet"
        for sample in pq.read_table(path).to_pylist():
            by_prompt.setdefault(sample["prompt"], []).append(sample)
        for group in by_prompt.values():
            kept = [sample for sample in group if sample["survived"]]
            assert sorted(sample["advantage"] for sample in kept) == ([-1, 1] if kept else [])
            assert all(sample["reward"] == (sample["advantage"] > 0) for sample in kept)
            assert len(kept) == 2 * (len({sample["reward"] for sample in group}) > 1)
            pairs += len(kept) // 2
            for sample in group:
                assert (sample["ref_logprobs"] is not None) == sample["survived"]
                if (
                    sample["survived"] and step == 1
                ):  # sampled by the reference itself, at temperature 1
                    assert sample["ref_logprobs"] == pytest.approx(sample["logprobs"], abs=1e-4)
    first, last = result.metrics[0], result.metrics[-1]
    assert pairs > 4
    assert first["preference_margin"] == pytest.approx(0, abs=1e-4)  # before the first update
    assert last["preference_margin"] > 0.1
    assert last["preference_accuracy"] == 1


def test_fresh_samples_are_not_stale(tiny_model, samples, tmp_path) -> None:
    """The model that sampled: ratios are 1, every sample counts in full."""
    result = train(
        tiny_model,
        samples,
        tmp_path / "run",
        algorithm={"name": "raft++", "select": ["everything"]},
        prompts_per_step=10,
        minibatch_prompts=10,
    )
    (row,) = result.metrics
    assert row["ess"] == pytest.approx(1, abs=1e-6)
    assert list(row["ratio_quantiles"].values()) == pytest.approx([1, 1, 1], abs=1e-4)


def test_stale_samples_are_shown_to_be(tiny_model, samples, tmp_path) -> None:
    """Another model: ESS and quantiles are those of its ratios, computed one sample at a time."""
    torch.manual_seed(0)
    other = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.3 * torch.randn_like(weight) * weight.std()
    other.save_pretrained(tmp_path / "other")
    tiny.tokenizer().save_pretrained(tmp_path / "other")
    result = train(
        tmp_path / "other",
        samples,
        tmp_path / "run",
        algorithm={"name": "raft++", "loss": "capped(1.2)", "select": ["everything"]},
        prompts_per_step=10,
        minibatch_prompts=10,
    )
    ratios, whole = [], []
    for row in rows_of(samples / "samples"):
        ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        with torch.no_grad():
            logp = other(input_ids=ids).logits[0].double().log_softmax(-1)
        first = len(row["prompt_ids"])
        own = [float(logp[first - 1 + i, t]) for i, t in enumerate(row["token_ids"])]
        difference = np.array(own) - np.array(row["logprobs"])
        ratios += np.exp(difference).tolist()
        whole.append(np.exp(difference.sum()))
    whole = np.array(whole)
    (shown,) = result.metrics
    assert shown["ess"] == pytest.approx(whole.sum() ** 2 / (whole**2).sum() / len(whole), rel=1e-3)
    assert shown["ess"] < 0.99
    expected = np.quantile(ratios, [0.01, 0.5, 0.99])
    assert list(shown["ratio_quantiles"].values()) == pytest.approx(expected, rel=1e-3)


def test_no_learning_rate_no_change(tiny_model, samples, tmp_path) -> None:
    result = train(tiny_model, samples, tmp_path / "run", optimizer={"lr": 0.0}, algorithm="rft")
    assert not differs(result.checkpoint, tiny_model)


def test_a_resumed_run_is_the_unbroken_run(tiny_model, samples, tmp_path, monkeypatch) -> None:
    how = {"algorithm": {"name": "rft", "epochs": 2}, "checkpoint": {"every": 2}}
    whole = train(tiny_model, samples, tmp_path / "whole", **how)
    from winnow.engines.local.engine import LocalLearner

    step, count = LocalLearner.step, 0

    def stops(self, *args):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(LocalLearner, "step", stops)
    with pytest.raises(winnow.WinnowError, match="--resume"):
        train(tiny_model, samples, tmp_path / "broken", **how)
    monkeypatch.undo()
    resumed = winnow.train(resume=tmp_path / "broken", quiet=True)
    assert not differs(whole.checkpoint, resumed.checkpoint)
    strip = lambda row: {k: v for k, v in row.items() if k not in kills.OF_THE_CLOCK}  # noqa: E731
    assert list(map(strip, whole.metrics)) == list(map(strip, resumed.metrics))


def test_what_was_rejected_before_stays_out(tiny_model, samples, tmp_path) -> None:
    file = tmp_path / "judged.parquet"
    winnow.select(samples, ["correct", "at-most(1)"], out=file, rejected=True)
    result = train(tiny_model, file, tmp_path / "run", algorithm="raft++")
    sampled = rows_of(result.folder / "rollouts")
    assert len(sampled) == 160  # the rejected ones are still there to be counted
    before = {(row["prompt"], row["sample"]): row["survived"] for row in rows_of(file)}
    assert {(row["prompt"], row["sample"]): row["survived"] for row in sampled} == before
    assert {row["reason"] for row in sampled if not row["survived"]} == {"wrong", "more than 1"}


class TestTextAlone:
    """Samples of a server, or of another model: text, prompt and reward are all there is."""

    FOREIGN = ("prompt_ids", "token_ids", "logprobs", "entropies", "tokens", "model")

    def test_tokens_are_made_of_the_text(self, tiny_model, samples, tmp_path) -> None:
        file = changed(samples, tmp_path / "text.parquet", **dict.fromkeys(self.FOREIGN))
        result = train(tiny_model, file, tmp_path / "run", algorithm="rft")
        made = {(r["prompt"], r["sample"]): r for r in rows_of(result.folder / "rollouts")}
        for row in rows_of(samples / "samples"):
            # one token a character, so that text and end say what was sampled
            assert made[row["prompt"], row["sample"]]["token_ids"] == row["token_ids"]
            assert made[row["prompt"], row["sample"]]["prompt_ids"] == row["prompt_ids"]

    def test_it_trains_as_the_tokens_do(self, tiny_model, samples, tmp_path) -> None:
        file = changed(samples, tmp_path / "text.parquet", **dict.fromkeys(self.FOREIGN))
        one = train(tiny_model, file, tmp_path / "text", algorithm="rft")
        other = train(tiny_model, samples, tmp_path / "tokens", algorithm="rft")
        assert not differs(one.checkpoint, other.checkpoint)

    @pytest.mark.parametrize(
        ("column", "what"), [("logprobs", "log-probs"), ("token_ids", "token ids")]
    )
    def test_no_ratio_without(self, tiny_model, samples, tmp_path, column, what) -> None:
        """A server may tell log-probs, but they are not those of tokens that are known here."""
        file = changed(samples, tmp_path / "text.parquet", **{column: None})
        said = rf"^samples_file: .*lacks the {what}.* without a ratio \(rft, .*, iterative-dpo\)"
        with pytest.raises(UserError, match=said):
            train(tiny_model, file, tmp_path / "run", algorithm="raft++")
        assert not (tmp_path / "run").exists()

    def test_another_vocabulary(self, tiny_model, samples, tmp_path) -> None:
        file = changed(samples, tmp_path / "other.parquet", prompt_ids=lambda row: [9, 9, 9])
        with pytest.raises(UserError, match=r"^samples_file: .*another vocabulary"):
            train(tiny_model, file, tmp_path / "run", algorithm="raft++")
        result = train(tiny_model, file, tmp_path / "run", algorithm="rft")
        assert [9, 9, 9] not in [row["prompt_ids"] for row in rows_of(result.folder / "rollouts")]
        # the texts' own tokens are the same, as their recorded ends show
        assert {row["retokenised_rate"] for row in result.metrics} == {0.0}

    def test_nothing_to_learn_from(self, tiny_model, samples, tmp_path) -> None:
        empty = {"text": lambda row: "", "finish_reason": lambda row: "length"}
        left = dict.fromkeys(("token_ids", "logprobs", "entropies"))
        file = changed(samples, tmp_path / "empty.parquet", **empty, **left)
        with pytest.raises(UserError, match=r"^samples_file: an answer to prompt .* is empty"):
            train(tiny_model, file, tmp_path / "run", algorithm="rft")


class Notes(winnow.reporting.observer.Observer):
    def __init__(self) -> None:
        self.found: list[str] = []

    def on_note(self, note) -> None:
        self.found.append(note.text)


def test_pairs_of_equal_texts_are_said(tiny_model, tmp_path) -> None:
    """Two of the three pairs are of two equal texts: -log sigmoid(0) whatever the policy is."""
    texts = [("1", "1"), ("2", "3"), ("3", "3")]
    rows = [
        {"prompt": f"{place}+1=", "text": text, "reward": float(number == 0)}
        for place, pair in enumerate(texts)
        for number, text in enumerate(pair)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    heard = Notes()
    train(
        tiny_model,
        tmp_path / "pairs.parquet",
        tmp_path / "run",
        algorithm="dpo",
        callbacks=[heard],
    )
    (said,) = [note for note in heard.found if "one text" in note]
    assert "2 of 3 prompts have one text with different rewards, such as '0+1=': '1'" in said
    for row in rows:
        row["reward"] = 1.0 if row["text"] == "1" else 0.1 + 0.2 * (row["prompt"] == "1+1=")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "other.parquet")
    assert read_samples([tmp_path / "other.parquet"], ["text"], why="x").clashes() == []


class TestRefused:
    def refused(self, model, file, tmp_path, match, **settings) -> None:
        with pytest.raises(UserError, match=match) as error:
            train(model, file, tmp_path / "run", **settings)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()

    def test_unscored(self, tiny_model, samples, tmp_path) -> None:
        unscored = {"reward": lambda row: None if row["sample"] == 3 else row["reward"]}
        file = changed(samples, tmp_path / "d.parquet", **unscored)
        self.refused(tiny_model, file, tmp_path, r"10 of 160 samples have no score.*--rescore")

    def test_no_reward_at_all(self, tiny_model, samples, tmp_path) -> None:
        file = changed(samples, tmp_path / "d.parquet", reward=None)
        self.refused(tiny_model, file, tmp_path, r"has no column reward, which training needs")

    def test_another_temperature(self, tiny_model, samples, tmp_path) -> None:
        file = changed(samples, tmp_path / "d.parquet", temperature=lambda row: 0.7)
        self.refused(
            tiny_model,
            file,
            tmp_path,
            r"sampled at temperature 0\.7.*set sampling\.temperature = 0\.7",
        )
        train(tiny_model, file, tmp_path / "run", algorithm="rft")  # likelihood has no ratio

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
    def test_logprobs_that_are_no_numbers(self, tiny_model, samples, tmp_path, value) -> None:
        """They would make the loss NaN, and the learning rate would get the blame."""
        spoilt = {"logprobs": lambda row: [value] * row["tokens"] if row["sample"] == 3 else [-1.0]}
        spoilt["tokens"] = lambda row: len(row["token_ids"])
        file = changed(samples, tmp_path / "d.parquet", **spoilt)
        match = r"^samples_file: .* has log-probs that are NaN or infinite"
        self.refused(tiny_model, file, tmp_path, match)

    def test_a_sample_without_a_text(self, tiny_model, samples, tmp_path) -> None:
        failed = {"text": lambda row: None if row["sample"] == 3 else row["text"]}
        file = changed(samples, tmp_path / "d.parquet", **failed)
        match = r"^samples_file: .*d\.parquet: row 4 and 9 more have a null in column text; leave"
        self.refused(tiny_model, file, tmp_path, match, algorithm="dpo")

    def test_a_prompt_without_a_text(self, tiny_model, samples, tmp_path) -> None:
        none = {"prompt": lambda row: None if row["prompt_id"] == "0" else row["prompt"]}
        file = changed(samples, tmp_path / "d.parquet", **none)
        match = r"^samples_file: .*have a null in column prompt; fill it in"
        self.refused(tiny_model, file, tmp_path, match, algorithm="rft")

    def test_a_conversation_that_the_template_does_not_take(
        self, tiny_model, samples, tmp_path
    ) -> None:
        turns = json.dumps([{"role": "user", "content": "1"}])
        file = changed(samples, tmp_path / "d.parquet", messages=lambda row: turns, prompt_ids=None)
        match = r"^samples_file: .*no chat template, and prompt '\d+' is a conversation"
        with pytest.raises(UserError, match=match):
            train(tiny_model, file, tmp_path / "run", algorithm="rft")

    def test_truncated(self, tiny_model, samples, tmp_path) -> None:
        file = changed(samples, tmp_path / "d.parquet", truncated=lambda row: row["sample"] == 0)
        self.refused(tiny_model, file, tmp_path, r"sampled with top-k or top-p")

    @pytest.mark.parametrize("row", ["gibbs", "snis"])
    def test_several_policies(self, tiny_model, samples, tmp_path, row) -> None:
        mixed = {"model": lambda row: "abc"[row["sample"] % 3]}
        file = changed(samples, tmp_path / "d.parquet", **mixed)
        self.refused(tiny_model, file, tmp_path, r"3 policies \(a .*; b .*; c .*\)", algorithm=row)
        train(tiny_model, file, tmp_path / "run", algorithm="rft")  # a pool, as in RFT's paper

    def test_held_out_prompts(self, tiny_model, samples, tmp_path) -> None:
        rows = tmp_path / "rows.jsonl"
        rows.write_text('{"prompt": "0+1=", "answer": "1"}\n{"prompt": "0+7=", "answer": "7"}\n')
        own = {"eval": {"size": 2}, "prompts": str(rows)}
        self.refused(
            tiny_model, samples, tmp_path, r"samples of a held-out prompt \('0\+1='\)", **own
        )

    def test_too_long_for_the_model(self, tiny_model, samples, tmp_path) -> None:
        def longer(name: str):
            return lambda row: row[name] * 100

        lists = ("token_ids", "logprobs", "entropies")
        file = changed(
            samples,
            tmp_path / "d.parquet",
            tokens=lambda row: row["tokens"] * 100,
            **{name: longer(name) for name in lists},
        )
        with pytest.raises(
            UserError, match=r"^samples_file: .*model's context of 128.*length\(high="
        ):
            train(tiny_model, file, tmp_path / "run", algorithm="rft")

    def test_samples_from_beside_a_file(self, tiny_model, samples, tmp_path) -> None:
        how = {"algorithm": "rft", "samples_from": str(tiny_model)}
        self.refused(
            tiny_model, samples, tmp_path, r"^samples_from: samples come from a file", **how
        )

    def test_a_server(self, tiny_model, tmp_path) -> None:
        with pytest.raises(UserError, match=r"^engine\.sampler: training needs the model itself"):
            winnow.train(
                model=str(tiny_model),
                prompts=tiny.problems(),
                engine={"sampler": "openai", "url": "http://localhost:1/v1"},
                out=tmp_path / "run",
                quiet=True,
            )
