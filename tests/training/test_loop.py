"""Whole runs of the loop on the tiny model."""

from __future__ import annotations

import json
import shutil
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import winnow
import winnow.reporting.observer
from tests import kills, tiny
from tests.kills import FIRST, same, weights
from tests.kills import samples as rows
from winnow.config.schema import Config
from winnow.engines.learning import learner
from winnow.engines.local import engine
from winnow.engines.local.learner import LocalLearner
from winnow.engines.models.forward import PolicyForward
from winnow.rewards.in_process import InProcessReward
from winnow.training.updates import minibatches
from winnow.types import Score

SMALL = {**kills.SMALL, "minibatch_prompts": 2}


def train(model: Path, out: Path, **settings) -> winnow.Result:
    given = {"prompts": tiny.problems(), "quiet": True}
    return winnow.train(model=str(model), out=out, **{**SMALL, **given, **settings})


@pytest.mark.parametrize("algorithm", ["raft++", "grpo", "reinforce-rej"])
def test_learning_rate_zero_changes_nothing(tiny_model, tmp_path, algorithm):
    result = train(tiny_model, tmp_path / "run", algorithm=algorithm, optimizer={"lr": 0.0})
    assert same(weights(tiny_model), weights(result.checkpoint))
    assert sum(row["updates"] for row in result.metrics) > 5
    for row in result.metrics:
        assert row["ratio_max_deviation"] < 1e-4
        assert row["clip_fraction"] == 0
        assert row["logprob_gap"] < 1e-5  # float32
        assert row["ratio_mean"] == pytest.approx(1, abs=1e-5)
        assert abs(row["kl_to_sampling_policy"]) < 1e-6


def test_every_sample_is_found_again(tiny_model, tmp_path):
    """With its text, tokens, log-probs, reward and the reason it was kept or not."""
    result = train(tiny_model, tmp_path / "run", algorithm="raft", steps=2)
    found = rows(result.folder)
    assert len(found) == 2 * 6 * 6
    words = tiny.tokenizer()
    for row in found:
        assert row["prompt_ids"] == words.encode(row["prompt"])
        ended = row["finish_reason"] == "eos"
        assert words.decode(row["token_ids"][: -1 if ended else None]) == row["text"]
        assert len(row["logprobs"]) == len(row["token_ids"]) == len(row["entropies"])
        right = row["text"] == row["answer"]
        assert row["reward"] == float(right)
        assert row["survived"] is right
        assert row["reason"] == ("survived" if right else "wrong")
        assert row["advantage"] == float(right)
    assert {row["policy_version"] for row in found if row["step"] == 1} == {0}
    updates = result.metrics[0]["updates"]
    assert {row["policy_version"] for row in found if row["step"] == 2} == {updates}
    first, second = result.metrics
    assert first.keys() == second.keys()
    assert first["survivors"] == sum(row["survived"] for row in found if row["step"] == 1)
    assert first["tokens_sampled"] == sum(len(r["token_ids"]) for r in found if r["step"] == 1)
    assert first["tokens_trained"] == sum(
        len(r["token_ids"]) for r in found if r["step"] == 1 and r["survived"]
    )


def test_the_checkpoint_is_an_ordinary_model(tiny_model, tmp_path):
    result = train(tiny_model, tmp_path / "run", steps=1)
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    words = AutoTokenizer.from_pretrained(result.checkpoint)
    ids = torch.tensor([words.encode("1+1=")])
    answer = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert len(words.decode(answer[0])) > len("1+1=")
    assert (result.checkpoint / "optimizer.pt").is_file()


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


class KillAt(winnow.reporting.observer.Observers):
    """Dies at the n-th event that it hears of."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.heard = at, 0

    def progress(self, stage, done, total):
        self.heard += 1
        if self.heard == self.at:
            raise Killed


def strip(metrics: list[dict]) -> list[dict]:
    """Without what a clock says."""
    return [{k: v for k, v in row.items() if k not in kills.OF_THE_CLOCK} for row in metrics]


@pytest.mark.parametrize("algorithm", ["raft++", "rft"])
def test_a_resumed_run_is_the_unbroken_run(tiny_model, tmp_path, algorithm):
    """Killed again and again at different places, it ends with the same samples and weights."""
    from winnow.config.schema import from_dict
    from winnow.training.run import run

    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in tiny.problems()))
    config = from_dict(
        {
            **SMALL,
            "model": str(tiny_model),
            "prompts": str(source),
            "reward": "exact",
            "steps": 4,
            "algorithm": algorithm,
            "checkpoint": {"every": 3, "keep": 1},
            "eval": {"size": 5, "every": 2},
        }
    )
    whole = run(config, out=tmp_path / "whole", observers=winnow.reporting.observer.Observers())
    broken, kills = tmp_path / "broken", 0
    with pytest.raises(Killed):
        run(config, out=broken, observers=KillAt(9))
    for at in (4, 14, 21, 17, 26):
        try:
            run(resume=broken, observers=KillAt(at))
        except Killed:
            kills += 1
    assert kills >= 3
    result = run(resume=broken, observers=winnow.reporting.observer.Observers())
    assert strip(result.metrics) == strip(whole.metrics)
    assert same(weights(result.checkpoint), weights(whole.checkpoint))
    assert rows(broken) == rows(tmp_path / "whole")
    assert rows(broken, "eval") == rows(tmp_path / "whole", "eval")
    assert {row["reason"] for row in rows(broken, "eval")} == {"held out"}
    evals = [
        winnow.storage.run_folder.RunStore(f).lines("evals.jsonl")
        for f in (broken, tmp_path / "whole")
    ]
    assert strip(evals[0]) == strip(evals[1])
    assert len(evals[0]) == len({row["step"] for row in evals[0]})


def test_where_nothing_survives_there_is_no_update(tiny_model, tmp_path):
    class Listener(winnow.reporting.observer.Observers):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text):
            self.notes.append(text)

    from winnow.config.schema import from_dict
    from winnow.training.run import run

    source = tmp_path / "p.jsonl"
    source.write_text('{"prompt": "1+1=", "answer": "never"}\n')
    config = from_dict(
        {**SMALL, "model": str(tiny_model), "prompts": str(source), "reward": "exact", "steps": 2}
    )
    listener = Listener()
    result = run(config, out=tmp_path / "run", observers=listener)
    assert same(weights(tiny_model), weights(result.checkpoint))
    said = [note.split(":")[0] for note in listener.notes]
    assert said == ["disk", "step 1", "step 2", "no step had an update"]
    for row in result.metrics:
        assert (row["updates"], row["minibatches_empty"], row["survivors"]) == (0, 3, 0)
        assert row["loss"] is row["largest_prompt_share"] is row["clip_fraction"] is None
        assert row["prompts_all_wrong"] == 6


def test_a_kill_while_scoring_loses_no_sample(tiny_model, tmp_path):
    class Dies:
        name = "dies"
        calls = 0

        def score(self, items):
            self.calls += 1
            if self.calls == 2:
                raise Killed
            return [Score(float(text == prompt.answer)) for prompt, text in items]

        def close(self): ...

    with pytest.raises(Killed):
        train(tiny_model, tmp_path / "run", reward=Dies(), steps=2)
    sampled = [row["token_ids"] for row in rows(tmp_path / "run")]
    assert len(sampled) == 2 * 36
    resumed = winnow.train(
        resume=tmp_path / "run", reward=lambda p, c: float(c == p.answer), quiet=True
    )
    found = rows(resumed.folder)
    assert [row["token_ids"] for row in found] == sampled
    assert all(row["reward"] is not None for row in found)
    assert not (resumed.folder / "superseded").exists()


def mostly_broken(prompt: winnow.Prompt, completion: str) -> float:
    """An error for three completions of four; the others are wrong."""
    if ord(completion[:1] or "0") % 4:
        raise RuntimeError("no such table")
    return 0.0


def test_new_scores_leave_a_round_sampled_once_as_it_is(tiny_model, tmp_path):
    """Its samples are the start's: no update lies between them."""

    with pytest.raises(winnow.UserError, match="steps 1 to 3"):
        train(tiny_model, tmp_path / "run", reward=mostly_broken, algorithm="rft", steps=4)
    sampled = [row["token_ids"] for row in rows(tmp_path / "run")]
    result = winnow.train(
        resume=tmp_path / "run", reward=lambda p, c: float(c == p.answer), quiet=True
    )
    assert [row["token_ids"] for row in rows(result.folder)][: len(sampled)] == sampled
    assert {row["policy_version"] for row in rows(result.folder)} == {0}
    assert not (result.folder / "superseded").exists()


def test_one_lucky_sample_is_seen(tiny_model, tmp_path):
    """One survivor among 36: an effective number of one, and one prompt has the whole update."""
    seen = []

    def once(prompt: winnow.Prompt, completion: str) -> float:
        seen.append(prompt.id)
        return float(len(seen) == 5)

    verifier = InProcessReward("once", once)
    result = train(tiny_model, tmp_path / "run", reward=verifier, steps=1, minibatch_prompts=6)
    (row,) = result.metrics
    assert row["samples_trained"] == 1
    assert row["effective_survivors"] == pytest.approx(1.0)
    assert row["largest_prompt_share"] == pytest.approx(1.0)


def test_a_broken_outcome_is_stored_and_never_trained_on(tiny_model, tmp_path):
    def fussy(prompt: winnow.Prompt, completion: str) -> float:
        if completion.startswith("3"):
            raise ValueError("cannot read threes")
        if completion.startswith("4"):
            return float("nan")
        return float(completion == prompt.answer)

    result = train(tiny_model, tmp_path / "run", reward=fussy, algorithm="reinforce")
    found = rows(result.folder)
    broken = [row for row in found if row["error"]]
    assert {"ValueError" in row["error"] for row in broken} == {True, False}
    assert all(row["text"][:1] in "34" for row in broken)
    for row in broken:
        assert row["reward"] is None
        assert row["survived"] is False
        assert row["reason"] == f"verifier error: {row['error']}"
        assert row["advantage"] == 0
    assert sum(row["errors"] for row in result.metrics) == len(broken) > 0
    for row in result.metrics:
        assert row["samples_trained"] == row["samples"] - row["errors"]


def test_a_verifier_that_mostly_fails_stops_the_run_at_the_third_step(tiny_model, tmp_path):
    with pytest.raises(winnow.UserError, match=r"reward: .*steps 1 to 3.*no such table.*--resume"):
        train(tiny_model, tmp_path / "run", reward=mostly_broken, steps=9)
    assert len(rows(tmp_path / "run")) == 3 * 36
    # fixed, it goes on: what had no score is scored
    before = [row["token_ids"] for row in rows(tmp_path / "run")]
    result = winnow.train(
        resume=tmp_path / "run", reward=lambda p, c: float(c == p.answer), quiet=True
    )
    found = rows(result.folder)
    assert [row["token_ids"] for row in found[:36]] == before[:36]
    assert not any(row["error"] for row in found)
    # the first step now makes an update: what was sampled after it is kept, but not trained on
    aside = sorted(path.name for path in (result.folder / "superseded").iterdir())
    assert aside == [f"train-00000{step}-before-1.parquet" for step in (2, 3)]
    assert len(result.metrics) == 9


def test_two_nonfinite_updates_running_stop_the_run(tiny_model, tmp_path, monkeypatch):
    true = learner.accumulate
    calls = []

    def poisoned(models, *rest):
        done = true(models, *rest)
        calls.append(1)
        if len(calls) in (2, 5, 6):
            next(models.forward.module.parameters()).grad.fill_(torch.nan)
        return done

    monkeypatch.setattr(learner, "accumulate", poisoned)
    with pytest.raises(winnow.WinnowError, match=r"second update running.*lower optimizer\.lr"):
        train(tiny_model, tmp_path / "run", algorithm="reinforce", steps=9)
    assert len(calls) == 6
    kept = sorted((tmp_path / "run" / "skipped").iterdir())
    assert len(kept) == 3
    assert pq.read_table(kept[0]).num_rows == 2 * 6
    (first,) = winnow.storage.run_folder.RunStore(tmp_path / "run").lines("metrics.jsonl")
    assert (first["updates"], first["updates_skipped"]) == (2, 1)


def test_before_the_first_update_the_learning_rate_is_not_to_blame(
    tiny_model, tmp_path, monkeypatch
):
    true = learner.accumulate

    def poisoned(models, *rest):
        done = true(models, *rest)
        next(models.forward.module.parameters()).grad.fill_(torch.nan)
        return done

    monkeypatch.setattr(learner, "accumulate", poisoned)
    with pytest.raises(winnow.WinnowError, match="second update running") as caught:
        train(tiny_model, tmp_path / "run", algorithm="reinforce", steps=9)
    assert "optimizer.lr is not the cause" in str(caught.value)
    assert "lower optimizer.lr" not in str(caught.value)


def test_rft_samples_once_from_another_model_and_starts_from_its_own(tiny_model, tmp_path):
    other = tiny.model(seed=9)
    other.save_pretrained(tmp_path / "other")
    tiny.tokenizer().save_pretrained(tmp_path / "other")
    result = train(
        tiny_model,
        tmp_path / "run",
        algorithm={"name": "rft", "epochs": 3, "select": ["everything"]},
        samples_from=str(tmp_path / "other"),
        steps=2,
        optimizer={"lr": 0.0},
    )
    found = rows(result.folder)
    assert len(found) == 2 * 36  # sampled once, though trained on for three passes
    assert len(result.metrics) == 6
    assert [row["tokens_sampled"] > 0 for row in result.metrics] == [True] * 2 + [False] * 4
    assert same(weights(tiny_model), weights(result.checkpoint))
    row = found[0]
    ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
    logp = other(ids).logits[0].detach().log_softmax(-1)
    start = len(row["prompt_ids"])
    expected = [float(logp[start - 1 + i, t]) for i, t in enumerate(row["token_ids"])]
    assert row["logprobs"] == pytest.approx(expected, abs=1e-4)


def test_samples_of_another_vocabulary_are_refused(tiny_model, tmp_path):
    words = tiny.tokenizer()
    words.add_tokens(["zz"])
    tiny.model().save_pretrained(tmp_path / "other")
    words.save_pretrained(tmp_path / "other")
    with pytest.raises(winnow.UserError, match=r"samples_from: .*vocabulary"):
        train(tiny_model, tmp_path / "run", algorithm="rft", samples_from=str(tmp_path / "other"))


def test_several_updates_a_set_of_samples_make_the_clip_act(tiny_model, tmp_path):
    result = train(
        tiny_model,
        tmp_path / "run",
        algorithm={"name": "raft++", "epochs": 3},
        optimizer={"lr": 1e-2},
        reward=FIRST,
    )
    assert all(row["updates"] == 9 for row in result.metrics)
    assert result.metrics[0]["clip_fraction"] > 0


def test_mini_batches_partition_the_prompts_sampled():
    config = Config(prompts_per_step=7, minibatch_prompts=3)
    batches = [list(b) for b in minibatches(range(7), config, 2, 1)]
    assert [len(b) for b in batches] == [3, 3, 1, 3, 3, 1]
    assert sorted(chain(*batches[:3])) == sorted(chain(*batches[3:])) == list(range(7))
    assert batches[:3] != batches[3:]
    assert batches == [list(b) for b in minibatches(range(7), config, 2, 1)]
    assert batches != [list(b) for b in minibatches(range(7), config, 2, 2)]


@pytest.mark.parametrize("name", ["raft", "raft++", "grpo"])
def test_what_a_row_does_not_use_is_not_there(tiny_model, tmp_path, monkeypatch, name):
    """No critic, no reference, no copy of the weights, no pass but the update's own over what it
    trains on; the rejected samples of `raft` are in none."""

    def never(*_, **__):
        raise AssertionError("not asked for")

    monkeypatch.setattr(engine.LocalCritic, "__init__", never)
    monkeypatch.setattr(engine.LocalEngine, "reference", never)
    monkeypatch.setattr(engine.LocalEngine, "snapshot", never)
    monkeypatch.setattr(LocalLearner, "reference_logprobs", never)
    monkeypatch.setattr(LocalLearner, "values", never)
    # What an architecture can do is found out on a few answers, with and without a shared prompt.
    probed = 2 * sum(len(piece.answers) for piece in PolicyForward(tiny.model())._probe())
    read = []
    contexts = PolicyForward.contexts

    def counted(self, pieces):
        read.append(sum(len(piece.answers) for piece in pieces))
        return contexts(self, pieces)

    monkeypatch.setattr(PolicyForward, "contexts", counted)
    result = train(tiny_model, tmp_path / "run", algorithm=name)
    trained = sum(row["samples_trained"] for row in result.metrics)
    assert sum(read) == probed + trained
    assert trained < sum(row["samples"] for row in result.metrics)


def test_resuming_a_run_that_is_done_reads_no_weights(tiny_model, tmp_path, monkeypatch) -> None:
    result = train(tiny_model, tmp_path / "run", steps=1, eval={"size": 4})

    def refuse(*_) -> None:
        raise AssertionError("weights were read")

    with monkeypatch.context() as patch:
        patch.setattr(engine.LocalPolicy, "module", refuse)
        again = winnow.train(resume=result.folder, quiet=True)
    assert (again.checkpoint, again.metrics) == (result.checkpoint, result.metrics)
    # what is left to make of it is made
    merged = train(tiny_model, tmp_path / "merged", steps=1, checkpoint={"average": 0.5})
    whole = weights(merged.checkpoint)
    shutil.rmtree(merged.folder / "final")
    made = winnow.train(resume=merged.folder, quiet=True).checkpoint
    assert made == merged.folder / "final"
    assert same(weights(made), whole)
