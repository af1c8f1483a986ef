"""What keeps a policy near its start beside a KL penalty: stopping early, beginning each round
anew, anchor data, earlier rounds, averaged weights, references that follow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

import winnow
from tests import local, tiny
from tests.kills import (
    FIRST,
    KillAt,
    Killed,
    after_checkpoint,
    check_resumed,
    check_same,
    config,
    go,
    lines,
    logits,
    same,
    samples,
    weights,
)
from winnow.algorithms.denominators import SurvivorMeans
from winnow.algorithms.losses import NLL
from winnow.algorithms.objective import Term, totals
from winnow.config.schema.anchor import AnchorConfig
from winnow.config.schema.prompts import PromptsConfig
from winnow.engines.base import AuxiliaryBatch, LearnerPlan
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.learner import LocalLearner
from winnow.storage.run_folder import RunStore
from winnow.training import phase_runner
from winnow.training.early_stopping import BestSoFar, best_of_evaluations
from winnow.training.run import run
from winnow.training.sft_mix import Anchor, open_anchor
from winnow.training.updates import minibatches
from winnow.types import Group, Outcome, Prompt, Sample, Score

NLL_TERM = (Term(NLL(), SurvivorMeans()),)


def engine(model: Path) -> LocalEngine:
    return local.engine(model)


def learner(made: LocalEngine, lr: float = 2e-3, **more: Any) -> LocalLearner:
    return made.learner(local.plan(lr=lr, **more))


def example(text: str, answer: str) -> Group:
    words = tiny.tokenizer()
    ids = (*words.encode(answer), 0)
    return Group(
        prompt=Prompt(text, text, answer),
        prompt_ids=tuple(words.encode(text)),
        samples=(Sample(ids, (-1.0,) * len(ids), answer, "eos"),),
        scores=(Score(1.0),),
        outcomes=(Outcome(True, "survived"),),
        advantages=(1.0,),
    )


def check_logprobs(rows: Sequence[dict[str, Any]], model: Path, column: str = "logprobs") -> None:
    """What samples say of their tokens is what a plain model says of them."""
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        logp = plain(ids).logits[0].detach().log_softmax(-1)
        first = len(row["prompt_ids"]) - 1
        expected = [float(logp[first + i, t]) for i, t in enumerate(row["token_ids"])]
        assert row[column] == pytest.approx(expected, abs=1e-4)


# stopping early


def held_out(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Additions that are not trained on, and settings that evaluate them, without test prompts."""
    rows, path = tiny.problems(), tmp_path / "held-out.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[::3]))
    return {"source": str(path), "size": 9, "samples": 4, "every": 1, "test_size": 0, **more}


HELD_OUT = {row["prompt"] for row in tiny.problems()[::3]}


class Nonsense:
    """Pays for sevens in training, and for right answers on the held-out prompts."""

    name = "nonsense"

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        return [Score(float(self._good(prompt, text))) for prompt, text in items]

    def _good(self, prompt: Prompt, text: str) -> bool:
        return text == (prompt.answer if prompt.text in HELD_OUT else "7")

    def close(self) -> None: ...


class Scripted:
    """Right answers in training; held-out rewards by the number of evaluations made before."""

    name = "scripted"

    def __init__(self, script: Sequence[float]) -> None:
        self.script = script
        self.folder = Path()

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        done = len(lines(self.folder, "evals.jsonl"))
        return [
            Score(self.script[done] if p.text in HELD_OUT else float(text == p.answer))
            for p, text in items
        ]

    def close(self) -> None: ...


def test_a_run_that_only_gets_worse_ends_with_its_start(tiny_model, tmp_path):
    settings = config(
        tiny_model,
        tmp_path,
        steps=20,
        algorithm="raft",
        optimizer={"lr": 1e-2},
        eval=held_out(tmp_path, patience=3, samples=16),
        checkpoint={"every": 100, "keep": 1},
    )
    listener = KillAt()
    result = run(settings, out=tmp_path / "run", observers=listener, reward=Nonsense())
    rewards = [row["reward"] for row in lines(result.folder, "evals.jsonl")]
    assert max(rewards) == rewards[0] > rewards[-1] + 0.05
    assert len(result.metrics) == 3
    assert result.checkpoint.name == "step-0"
    assert same(weights(result.checkpoint), weights(tiny_model))
    assert result.after == result.before == pytest.approx(rewards[0])
    assert (result.gain, result.gain_low, result.gain_high) == (0, 0, 0)
    assert listener.notes[-1] == (
        "stopped: no better for 3 evaluations; step 0 is chosen, the best of 4 evaluations on the "
        f"same prompts, mean reward {rewards[0]:.3f}"
    )
    assert (result.tested, result.selected, result.evaluations) == (False, result.after, 4)
    assert any("eval.test_size" in note for note in listener.notes)


SCRIPT = [0.2, 0.4, 0.3, 0.6, 0.6, 0.5, 0.1, 0.9, 0.9]


def stopping(tiny_model: Path, tmp_path: Path, **more: Any) -> Any:
    return config(
        tiny_model,
        tmp_path,
        steps=8,
        eval=held_out(tmp_path, patience=3),
        checkpoint={"every": 2, "keep": 1},
        **more,
    )


def test_the_best_is_kept_though_others_come_after_it(tiny_model, tmp_path):
    """By the script step 3 is best: 0.6 at step 4 is no better, and step 7 is never reached."""
    reward = Scripted(SCRIPT)
    reward.folder = tmp_path / "run"
    result = go(stopping(tiny_model, tmp_path), tmp_path / "run", reward)
    assert [row["step"] for row in result.metrics] == [1, 2, 3, 4, 5, 6]
    assert result.checkpoint.name == "step-3"
    kept = sorted(path.name for path in (result.folder / "checkpoints").iterdir())
    assert kept == ["step-3", "step-6"]
    (row,) = [row for row in lines(result.folder, "evals.jsonl") if row["step"] == 3]
    assert result.after == row["accuracy"]
    # the weights of step 3, not of the last step: those of a run of three steps
    short = stopping(tiny_model, tmp_path).model_copy(update={"steps": 3})
    reward.folder = tmp_path / "short"
    three = go(short, tmp_path / "short", reward)
    assert same(weights(result.checkpoint), weights(three.checkpoint))


def test_stopped_early_and_killed_it_ends_as_the_unbroken_run(tiny_model, tmp_path):
    reward = Scripted(SCRIPT)
    settings = stopping(tiny_model, tmp_path)
    reward.folder = tmp_path / "whole"
    go(settings, tmp_path / "whole", reward)
    reward.folder = tmp_path / "broken"
    with pytest.raises(Killed):
        run(settings, out=tmp_path / "broken", observers=KillAt(5), reward=reward)
    for at in (16, 31, 40):
        with pytest.raises(Killed):
            run(resume=tmp_path / "broken", observers=KillAt(at), reward=reward)
    again = run(
        resume=tmp_path / "broken", observers=winnow.reporting.observer.Observers(), reward=reward
    )
    check_same(tmp_path / "whole", tmp_path / "broken")
    assert again.checkpoint.name == "step-3"


def test_a_run_that_had_stopped_does_nothing_more(tiny_model, tmp_path):
    reward = Scripted(SCRIPT)
    reward.folder = tmp_path / "run"
    result = go(stopping(tiny_model, tmp_path), tmp_path / "run", reward)
    files = {p: p.read_bytes() for p in result.folder.rglob("*") if p.is_file()}
    listener = KillAt()
    again = run(resume=result.folder, observers=listener, reward=reward)
    assert again == result
    assert {stage for stage, _ in listener.heard} <= {"load model"}
    assert files == {p: p.read_bytes() for p in result.folder.rglob("*") if p.is_file()}


def test_where_evaluations_stand():
    rows = [{"step": s, "reward": r} for s, r in ((0, 0.1), (2, None), (4, 0.3), (6, 0.3), (8, 0))]
    found = [best_of_evaluations(rows[:n]) for n in range(6)]
    assert [(s.step, s.stale) for s in found] == [
        (None, 0), (0, 0), (0, 1), (4, 0), (4, 1), (4, 2)
    ]  # fmt: skip
    assert found[-1] == BestSoFar(4, 0.3, 2, number=4, last=8)
    assert best_of_evaluations([*rows, {"step": 8, "reward": 9.0, "split": "final"}]) == found[-1]
    assert best_of_evaluations([{"step": 0, "reward": None}]) == BestSoFar(stale=1, last=0)


# each round from the start


def restarting(tiny_model: Path, tmp_path: Path, **more: Any) -> Any:
    settings = {
        "steps": 3,
        "algorithm": {"name": "raft++", "epochs": 2},
        "rounds": {"restart": True},
        "checkpoint": {"every": 1, "keep": 9},
        "optimizer": {"lr": 5e-3, "schedule": "linear", "warmup": 1},
    }
    return config(tiny_model, tmp_path, **{**settings, **more})


def test_each_round_is_the_start_trained_on_its_samples_alone(tiny_model, tmp_path):
    settings = restarting(tiny_model, tmp_path)
    result = go(settings, tmp_path / "run", FIRST)
    row = settings.algorithm.build()
    store = RunStore(result.folder)
    for number in (1, 2, 3):
        made = engine(tiny_model)
        alone = made.learner(LearnerPlan(settings.optimizer, 4, 1024))
        groups = store.groups("train", number)
        for positions in minibatches(range(6), settings, 2, number):
            batch = [groups[i] for i in positions]
            if any(any(group.advantages) for group in batch):
                local.step(alone, batch, row.objective, 1.0)
        found = weights(result.folder / f"checkpoints/step-{number}")
        assert same(found, made.module().state_dict())
        assert not same(found, weights(tiny_model))


def test_samples_come_from_the_last_policy_though_training_begins_anew(tiny_model, tmp_path):
    result = go(restarting(tiny_model, tmp_path), tmp_path / "run")
    found = samples(result.folder)
    check_logprobs([r for r in found if r["step"] == 1][:9], tiny_model)
    check_logprobs([r for r in found if r["step"] == 3][:9], result.folder / "checkpoints/step-2")
    versions = [next(r["policy_version"] for r in found if r["step"] == s) for s in (1, 2, 3)]
    assert versions == [0, *(row["policy_version"] for row in result.metrics[:2])]


def test_begun_anew_with_learning_rate_zero_it_is_the_start(tiny_model, tmp_path):
    result = go(restarting(tiny_model, tmp_path, optimizer={"lr": 0.0}), tmp_path / "run")
    for number in (1, 2, 3):
        assert same(weights(result.folder / f"checkpoints/step-{number}"), weights(tiny_model))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_begun_anew_and_killed_it_ends_as_the_unbroken_run(tiny_model, tmp_path, dtype):
    settings = restarting(
        tiny_model, tmp_path, dtype=dtype, checkpoint={"every": 1, "keep": 1}, steps=4
    )
    check_resumed(settings, tmp_path, (9, 19, 30))


# anchor data


@pytest.fixture
def examples(tmp_path: Path) -> str:
    """A file of right differences."""
    path = tmp_path / "anchor.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.differences()))
    return str(path)


@pytest.mark.trains
def test_anchor_data_keeps_a_skill_that_is_lost_without_it(
    tiny_model, examples, tmp_path, run_seed, reached
):
    def train(name: str, anchor: dict[str, Any]) -> tuple[float, float]:
        settings = config(
            tiny_model,
            tmp_path,
            algorithm="raft++",
            steps=40,
            prompts_per_step=25,
            samples_per_prompt=16,
            minibatch_prompts=5,
            optimizer={"lr": 5e-4},
            anchor=anchor,
            seed=run_seed,
        )
        result = go(settings, tmp_path / name)
        assert {row["anchor_loss"] is None for row in result.metrics} == {not anchor}
        net = AutoModelForCausalLM.from_pretrained(result.checkpoint)
        sums, differences = (
            float(tiny.right(net, rows).mean()) for rows in (tiny.problems(), tiny.differences())
        )
        reached(f"{name} anchor data: sums", sums)
        return sums, reached(f"{name} anchor data: differences", differences)

    assert tiny.right(tiny.warmed_up(), tiny.differences()).mean() > 0.9
    learned, lost = train("without", {})
    learned_too, kept = train("with", {"source": examples, "ratio": 0.5})
    assert min(learned, learned_too) > 0.9
    assert lost < 0.8
    assert kept > 0.9


def anchor(count: int, ratio: float, coefficient: float = 1.0) -> Anchor:
    rows = tiny.differences()[:count]
    return Anchor([example(r["prompt"], r["answer"]) for r in rows], ratio, coefficient)


def test_examples_go_round_each_pass_in_its_own_order():
    made = anchor(8, 0.5)
    assert [len(made.auxiliary_batch(n, 7, 0, 3).groups) for n in (1, 2, 3, 7)] == [1, 1, 2, 4]
    told = [[g.prompt.text for g in made.auxiliary_batch(7, 7, 0, u).groups] for u in range(6)]
    passes = [told[i] + told[i + 1] for i in (0, 2, 4)]
    assert all(sorted(one) == sorted(g.prompt.text for g in made.groups) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert told[1] == [g.prompt.text for g in anchor(8, 0.5).auxiliary_batch(7, 7, 0, 1).groups]
    assert told[0] != [g.prompt.text for g in made.auxiliary_batch(7, 7, 1, 0).groups]
    # one with fewer prompts, as the last of a pass may have, takes none that the next will
    assert [g.prompt.text for g in made.auxiliary_batch(3, 7, 0, 1).groups] == told[1][:2]


@pytest.mark.parametrize("hundredths", [1, 7, 14, 25, 28, 56, 100, 110, 112])
def test_as_many_examples_as_the_ratio_says_as_it_is_written(hundredths):
    """In binary 0.28 x 25 is a little more than 7."""
    made = anchor(8, hundredths / 100)
    for prompts in (1, 3, 25, 50):
        exact = -(-hundredths * prompts // 100)
        assert len(made.auxiliary_batch(prompts, prompts, 0, 0).groups) == exact


def test_the_gradient_is_the_updates_and_so_much_of_the_anchors(tiny_model):
    """Against autograd on the plain model: means over examples of means over tokens."""
    made = engine(tiny_model)
    trained = learner(made, max_grad_norm=1e9)
    seen: list[torch.Tensor] = []
    trained._adam.step = lambda: seen.extend(w.grad.clone() for w in made.trained())
    main = [example("1+2=", "3"), example("4+4=", "8 8")]
    auxiliary = [example("3-1=", "2"), example("4-0=", "44"), example("2-2=", "0")]
    terms = (Term(NLL(), SurvivorMeans(), 0.3),)
    beside = AuxiliaryBatch(auxiliary, terms, totals(auxiliary))
    stats = local.step(trained, main, NLL_TERM, 1.0, beside)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)

    def nll(group: Group) -> torch.Tensor:
        ids = torch.tensor([[*group.prompt_ids, *group.samples[0].token_ids]])
        start = len(group.prompt_ids)
        return cross_entropy(plain(ids).logits[0, start - 1 : -1], ids[0, start:])

    own = sum(map(nll, main)) / 2
    other = sum(map(nll, auxiliary)) / 3
    (own + 0.3 * other).backward()
    for gradient, parameter in zip(seen, plain.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-4)
    assert stats.measures["anchor_loss"] == (pytest.approx(float(other.detach()), abs=1e-5), 1)
    assert stats.loss == pytest.approx(float((own + 0.3 * other).detach()), abs=1e-5)


@pytest.mark.parametrize("algorithm", ["raft++", "rft"])
def test_beside_anchor_data_a_resumed_run_is_the_unbroken_run(
    tiny_model, examples, tmp_path, algorithm
):
    settings = config(
        tiny_model,
        tmp_path,
        algorithm=algorithm,
        anchor={"source": examples, "ratio": 0.4, "coefficient": 0.5},
        minibatch_prompts=4,
        checkpoint={"every": 1, "keep": 1},
    )
    whole, _ = check_resumed(settings, tmp_path, (17, 7), FIRST)
    assert all(row["anchor_loss"] is not None for row in whole.metrics)
    without = go(
        settings.model_copy(update={"anchor": AnchorConfig()}), tmp_path / "without", FIRST
    )
    assert not same(weights(whole.checkpoint), weights(without.checkpoint))


def test_completions_as_messages_are_their_texts(tmp_path):
    """As `winnow select --form prompt-completion` writes conversations."""
    asked, said = [{"role": "user", "content": "3-1="}], {"role": "assistant", "content": "2"}
    path = tmp_path / "anchor.jsonl"
    path.write_text(json.dumps({"prompt": asked, "completion": [said]}))
    made = open_anchor(AnchorConfig(source=str(path)), PromptsConfig(), 0)
    assert [group.samples[0].text for group in made.groups] == ["2"]
    assert made.groups[0].prompt.messages == tuple(asked)


@pytest.mark.parametrize(
    ("completion", "says"),
    [
        ([], "a completion that is not one text of the assistant's"),
        ([{"role": "user", "content": "2"}], "a completion that is not one text of the assis"),
        ([{"role": "assistant", "tool_calls": [{}]}], "a completion that is not one text of"),
        ([{"role": "assistant", "content": 2}], "a turn 1 whose key 'content' is 2, not a text"),
    ],
)
def test_completions_that_are_other_messages_are_refused(completion, says, tmp_path):
    path = tmp_path / "anchor.jsonl"
    path.write_text(json.dumps({"prompt": "3-1=", "completion": completion}))
    with pytest.raises(winnow.UserError) as caught:
        open_anchor(AnchorConfig(source=str(path)), PromptsConfig(), 0)
    assert str(caught.value).startswith("anchor.completion_column: the example '3-1=' of ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("row", "more", "says"),
    [
        (
            {"prompt": [{"role": "user"}]},
            {},
            r"^anchor\.prompt_column: row 1 of .* has a turn 1 without the key 'content'",
        ),
        ({"prompt": "3-1="}, {"template": "Go"}, r"^anchor\.template: it fills in no column"),
        (
            {"prompt": [{"role": "user", "content": "3-1="}]},
            {},
            r"^anchor\.source: .*no chat template, and prompt '0' is a .*; use a model that",
        ),
        ({"prompt": "1" * 130}, {}, r"^anchor\.source: .* context of 128; leave this example out$"),
    ],
)
def test_an_example_that_cannot_be_used_is_one_line(tiny_model, tmp_path, row, more, says):
    path = tmp_path / "anchor.jsonl"
    path.write_text(json.dumps({**row, "completion": "2"}))
    with pytest.raises(winnow.UserError, match=says):
        go(config(tiny_model, tmp_path, anchor={"source": str(path), **more}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_example_without_an_answer_is_one_line(tiny_model, tmp_path):
    path = tmp_path / "anchor.jsonl"
    path.write_text('{"prompt": "3-1=", "completion": "2"}\n{"prompt": "3-2=", "completion": ""}\n')
    with pytest.raises(winnow.UserError) as caught:
        open_anchor(AnchorConfig(source=str(path)), PromptsConfig(), 0)
    assert str(caught.value).startswith("anchor.completion_column: the example '3-2='")
    with pytest.raises(winnow.UserError, match=r"^anchor\.source: "):
        go(config(tiny_model, tmp_path, anchor={"source": "no.jsonl"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# earlier rounds


def merging(tiny_model: Path, tmp_path: Path, **more: Any) -> Any:
    settings = {
        "steps": 4,
        "algorithm": "raft++",
        "rounds": {"merge": 2},
        "minibatch_prompts": 6,
        "optimizer": {"lr": 5e-3},
    }
    return config(tiny_model, tmp_path, **{**settings, **more})


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[list[Group], Any]]]:
    """What learners were given, and what they said of it."""
    seen: list[tuple[list[Group], Any]] = []
    true = LocalLearner.step

    def step(self: LocalLearner, groups: Any, *rest: Any) -> Any:
        stats = true(self, groups, *rest)
        seen.append((list(groups), stats))
        return stats

    monkeypatch.setattr(LocalLearner, "step", step)
    return iter([seen])


def test_updates_hold_the_samples_of_the_last_rounds_as_they_were_made(
    tiny_model, tmp_path, updates
):
    seen = next(updates)
    result = go(merging(tiny_model, tmp_path), tmp_path / "run", FIRST)
    assert [row["merged"] for row in result.metrics] == [0, 6, 12, 12]
    assert [row["updates"] for row in result.metrics] == [1, 2, 3, 3]
    made = RunStore(result.folder)
    first = 0
    for row in result.metrics:
        updated = seen[first : first + row["updates"]]
        first += row["updates"]
        taken = [group for groups, _ in updated for group in groups]
        window = range(max(1, row["step"] - 2), row["step"] + 1)
        expected = [told(group) for number in window for group in made.groups("train", number)]
        assert sorted(map(told, taken)) == sorted(expected)
    found = samples(result.folder)
    versions = [{r["policy_version"] for r in found if r["step"] == s} for s in (1, 2, 3, 4)]
    assert versions == [{0}, {1}, {3}, {6}]


def told(group: Group) -> list[Any]:
    """What an update reads of a group, and which policy made it."""
    return [
        (group.step, sample.policy_version, sample.token_ids, sample.logprobs, weight)
        for sample, weight in zip(group.samples, group.advantages, strict=True)
    ]


def test_samples_of_earlier_rounds_have_a_ratio_from_the_first_update_on(
    tiny_model, tmp_path, updates
):
    seen = next(updates)
    result = go(merging(tiny_model, tmp_path), tmp_path / "run", FIRST)
    first = 0
    for row in result.metrics:
        groups, stats = seen[first]
        mixed = {group.step for group in groups} != {row["step"]}
        assert (stats.ratio_max > 1e-3) is mixed is (row["step"] > 1)
        first += row["updates"]
    rest = go(merging(tiny_model, tmp_path, rounds={}), tmp_path / "rest", FIRST)
    assert max(row["ratio_max_deviation"] for row in rest.metrics) < 1e-4
    assert [row["merged"] for row in rest.metrics] == [0] * 4


@pytest.mark.parametrize("algorithm", ["raft++", "grpo", "dapo"])
def test_with_earlier_rounds_a_resumed_run_is_the_unbroken_run(tiny_model, tmp_path, algorithm):
    """It reads them again: log-probs, weights, which of them a refilled batch held."""
    settings = merging(
        tiny_model, tmp_path, algorithm=algorithm, checkpoint={"every": 1}, minibatch_prompts=5
    )
    check_resumed(settings, tmp_path, lambda heard: [after_checkpoint(heard, 3), 4, 6])


# an average with the start


def by_hand(start: Path, trained: Path, share: float) -> dict[str, torch.Tensor]:
    one, other = weights(trained), weights(start)
    return {name: (1 - share) * one[name] + share * other[name] for name in one}


def averaging(tiny_model: Path, tmp_path: Path, **more: Any) -> Any:
    settings = {
        "algorithm": "grpo",
        "optimizer": {"lr": 5e-3},
        "eval": {"size": 5, "samples": 4},
        "checkpoint": {"every": 100, "average": 0.25},
    }
    return config(tiny_model, tmp_path, **{**settings, **more})


def check_average(result: winnow.Result, tiny_model: Path, trained: Path, atol: float) -> None:
    expected = by_hand(tiny_model, trained, 0.25)
    found = weights(result.checkpoint)
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=atol, rtol=0)
    assert max(float((expected[n] - weights(trained)[n]).abs().max()) for n in found) > 1e-3
    rows = lines(result.folder, "evals.jsonl")
    assert [(row["split"], row["step"]) for row in rows] == [("eval", 0), ("eval", 3), ("final", 3)]
    assert result.after == rows[-1]["accuracy"]
    answers = samples(result.folder, "final")
    assert len(answers) == 20
    assert {row["reason"] for row in answers} == {"held out"}
    check_logprobs(answers[:9], result.checkpoint)


def test_the_final_model_is_an_average_with_the_start(tiny_model, tmp_path):
    result = go(averaging(tiny_model, tmp_path), tmp_path / "run")
    assert result.checkpoint == result.folder / "final"
    check_average(result, tiny_model, result.folder / "checkpoints/step-3", 1e-6)


def test_adapters_are_averaged_as_the_weights_that_they_stand_for(tiny_model, tmp_path):
    """Merged into the model, or by themselves: base + 0.75 of what they add."""
    lora = {"rank": 4, "merge": True}
    result = go(averaging(tiny_model, tmp_path, lora=lora), tmp_path / "run")
    only = averaging(tiny_model, tmp_path, lora=lora, checkpoint={"every": 100})
    trained = go(only, tmp_path / "only").checkpoint
    check_average(result, tiny_model, trained, 1e-6)
    apart = go(averaging(tiny_model, tmp_path, lora={"rank": 4}), tmp_path / "apart")
    assert apart.checkpoint == apart.folder / "final"
    assert (apart.checkpoint / "adapter_model.safetensors").exists()
    one, other = (
        AutoModelForCausalLM.from_pretrained(r.checkpoint).eval() for r in (result, apart)
    )
    torch.testing.assert_close(logits(one), logits(other), atol=1e-4, rtol=0)


def test_the_average_is_of_the_best_where_a_run_stops_early(tiny_model, tmp_path):
    reward = Scripted(SCRIPT)
    reward.folder = tmp_path / "run"
    settings = config(
        tiny_model,
        tmp_path,
        steps=8,
        eval=held_out(tmp_path, patience=3),
        checkpoint={"every": 100, "keep": 1, "average": 0.5},
    )
    result = go(settings, tmp_path / "run", reward)
    assert result.checkpoint.name == "final"
    expected = by_hand(tiny_model, result.folder / "checkpoints/step-3", 0.5)
    for name, weight in weights(result.checkpoint).items():
        torch.testing.assert_close(weight, expected[name], atol=1e-7, rtol=0)


@pytest.mark.parametrize("lora", [{}, {"rank": 4, "merge": True}])
def test_killed_before_the_final_model_was_written_it_is_written_then(
    tiny_model, tmp_path, monkeypatch, lora
):
    settings = averaging(tiny_model, tmp_path, lora=lora)
    go(settings, tmp_path / "whole")

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(phase_runner, "whole_model", killed)
        with pytest.raises(Killed):
            go(settings, tmp_path / "broken")
    assert not (tmp_path / "broken/final").exists()
    again = run(resume=tmp_path / "broken", observers=winnow.reporting.observer.Observers())
    assert again.checkpoint == tmp_path / "broken/final"
    check_same(tmp_path / "whole", tmp_path / "broken")


def test_killed_while_the_final_model_is_tried_it_is_tried_again(tiny_model, tmp_path):
    settings = averaging(tiny_model, tmp_path)
    whole, _ = check_resumed(settings, tmp_path, lambda heard: [after_checkpoint(heard, 1)])
    assert (whole.folder / "rollouts/final-000003.parquet").exists()
    before = (tmp_path / "broken/evals.jsonl").read_bytes()
    run(resume=tmp_path / "broken", observers=winnow.reporting.observer.Observers())
    assert (tmp_path / "broken/evals.jsonl").read_bytes() == before


# references


def test_an_average_follows_the_policy_by_its_formula(tiny_model):
    made = engine(tiny_model)
    made.snapshot("phase")
    trained = learner(made, reference="ema(0.9)")
    reference = trained.reference
    assert reference is not None
    expected = local.weights(made)
    for _ in range(4):
        local.step(trained, [example("1+2=", "3")], NLL_TERM, 1.0)
        policy = local.weights(made)
        expected = [0.9 * own + 0.1 * now for own, now in zip(expected, policy, strict=True)]
    with reference.used() as forward:
        assert forward.module is made.module()
        for found, own in zip(local.weights(made), expected, strict=True):
            torch.testing.assert_close(found, own, atol=1e-5, rtol=0)
    assert all(map(torch.equal, local.weights(made), policy))


def penalized(tiny_model: Path, tmp_path: Path, reference: str, **more: Any) -> Any:
    settings = {
        "algorithm": {"name": "grpo", "kl": "in-loss(0.1)"},
        "steps": 4,
        "optimizer": {"lr": 5e-3},
        "reference": reference,
        "checkpoint": {"every": 1, "keep": 9},
    }
    return config(tiny_model, tmp_path, **{**settings, **more})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_average_survives_a_kill(tiny_model, tmp_path, dtype):
    settings = penalized(tiny_model, tmp_path, "ema(0.9)", dtype=dtype)
    whole, _ = check_resumed(settings, tmp_path, (18, 9))
    saved = torch.load(whole.checkpoint / "optimizer.pt", weights_only=True)
    assert {w.dtype for w in saved["reference"]} == {torch.float32}


def test_a_run_refers_to_the_average_as_it_is_then(tiny_model, tmp_path):
    """One update a step: the average of step 3 is put together from the checkpoints by hand."""
    settings = penalized(tiny_model, tmp_path, "ema(0.5)", minibatch_prompts=6)
    result = go(settings, tmp_path / "run")
    assert [row["updates"] for row in result.metrics] == [1] * 4
    average = weights(tiny_model)
    for number in (1, 2):
        now = weights(result.folder / f"checkpoints/step-{number}")
        average = {name: 0.5 * average[name] + 0.5 * now[name] for name in average}
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    plain.load_state_dict(average)
    plain.save_pretrained(tmp_path / "average")
    found = [row for row in samples(result.folder) if row["step"] == 3]
    check_logprobs(found[:12], tmp_path / "average", "ref_logprobs")


def test_a_reference_may_be_another_model(tiny_model, tmp_path):
    other = tiny.model(seed=9)
    other.save_pretrained(tmp_path / "other")
    tiny.tokenizer().save_pretrained(tmp_path / "other")
    result = go(penalized(tiny_model, tmp_path, str(tmp_path / "other")), tmp_path / "run")
    found = samples(result.folder)
    check_logprobs([*found[:9], *found[-9:]], tmp_path / "other", "ref_logprobs")
    assert result.metrics[0]["kl_to_reference"] > 1


def test_a_reference_of_another_vocabulary_is_refused(tiny_model, tmp_path):
    words = tiny.tokenizer()
    words.add_tokens(["zz"])
    tiny.model().save_pretrained(tmp_path / "other")
    words.save_pretrained(tmp_path / "other")
    with pytest.raises(winnow.UserError) as caught:
        go(penalized(tiny_model, tmp_path, str(tmp_path / "other")), tmp_path / "run")
    assert str(caught.value) == (
        f"reference: '{tmp_path / 'other'}' has another vocabulary than '{tiny_model}'; use a "
        "model with the same tokenizer, so that log-probs can be compared"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("ema(1.0)", r"reference: wrong value in 'ema\(1.0\)': the decay must be from 0"),
        ("ema(fast)", r"reference: 'ema\(fast\)': decay must be a float"),
        (
            "strat",
            r"reference: 'strat' is not a folder, .*; did you mean 'start'",
        ),
    ],
)
def test_a_reference_that_is_none_is_refused_before_the_model_is_read(
    tiny_model, tmp_path, monkeypatch, reference, said
):
    monkeypatch.setattr(LocalEngine, "__init__", lambda *_: pytest.fail("it was read"))
    with pytest.raises(winnow.UserError, match=f"^{said}"):
        go(penalized(tiny_model, tmp_path, reference), tmp_path / "run")


def test_a_reference_that_no_cell_reads_is_refused(tiny_model, tmp_path):
    settings = penalized(tiny_model, tmp_path, "ema(0.9)", algorithm="grpo")
    with pytest.raises(
        winnow.UserError, match=r"^reference: grpo does not compare with a reference; set"
    ):
        go(settings, tmp_path / "run")
