"""A batch that is filled up: prompts are sampled for those without survivors, as in DAPO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import winnow
import winnow.reporting.observer
from tests import tiny
from tests.kills import Dealt
from tests.training.test_loop import Killed, rows, same, strip, train, weights
from winnow.config.schema import from_dict
from winnow.engines.local.learner import LocalLearner
from winnow.errors import UserError
from winnow.prompts.loading import PromptSet
from winnow.rollouts import rollout
from winnow.training.run import run
from winnow.types import Prompt

COUNT, REFILL = 4, 3
SETTINGS = {
    "algorithm": "dapo",
    "prompts_per_step": COUNT,
    "samples_per_prompt": 3,
    "minibatch_prompts": 2,
    "steps": 4,
}


def order(number: int) -> list[str]:
    """The prompts of a run's first so many places."""
    every = tuple(Prompt(str(i), row["prompt"]) for i, row in enumerate(tiny.problems()))
    return [prompt.text for prompt in PromptSet(every, ()).between(0, number, 0)]


def by_group(found: list[dict], step: int) -> list[list[dict]]:
    """The samples of each prompt of a step, in the order of the prompts."""
    places = sorted({row["group"] for row in found if row["step"] == step})
    return [[r for r in found if r["step"] == step and r["group"] == place] for place in places]


def is_mixed(group: list[dict]) -> bool:
    return {row["reward"] for row in group} == {0.0, 1.0}


def trained(group: list[dict]) -> bool:
    return any(row["survived"] for row in group)


class Trained:
    """Notes the prompts of every mini-batch that the learner is given."""

    def __init__(self, monkeypatch) -> None:
        self.seen: list[list[str]] = []
        true = LocalLearner.step

        def step(learner, groups, *rest, **more):
            self.seen.append([group.prompt.text for group in groups])
            return true(learner, groups, *rest, **more)

        monkeypatch.setattr(LocalLearner, "step", step)


class Sampled:
    """Notes for which step, and at which places of it, prompts are sampled."""

    def __init__(self, monkeypatch) -> None:
        self.calls: list[tuple[int, int, int]] = []
        true = rollout.sample

        ask = rollout.requests

        def requests(*given, step, first, **more):
            self._asked = step, first
            return ask(*given, step=step, first=first, **more)

        def sample(sampler, asked, *rest):
            made = true(sampler, asked, *rest)
            self.calls.append((*self._asked, len(asked)))  # only what was sampled to the end
            return made

        monkeypatch.setattr(rollout, "requests", requests)
        monkeypatch.setattr(rollout, "sample", sample)

    @property
    def places(self) -> list[tuple[int, int]]:
        return [(step, first + i) for step, first, number in self.calls for i in range(number)]


def test_a_batch_is_filled_with_groups_that_survive(tiny_model, tmp_path, monkeypatch):
    seen = Trained(monkeypatch)
    result = train(tiny_model, tmp_path / "run", **SETTINGS)
    found = rows(result.folder)
    taken, refilled = 0, []
    for step, metrics in enumerate(result.metrics, start=1):
        groups = by_group(found, step)
        refilled.append(metrics["prompts_refilled"])
        assert len(groups) == COUNT + refilled[-1] == metrics["prompts"]
        assert refilled[-1] % COUNT == 0
        assert refilled[-1] <= REFILL * COUNT

        # Each step goes on where the one before it stopped, in the order of the prompts.
        every = order(taken + len(groups))
        assert [group[0]["prompt"] for group in groups] == every[taken:]
        taken += len(groups)

        # The first mixed ones are trained on, as many as a step's prompts: no fewer samples would
        # do.
        mixed = [place for place, group in enumerate(groups) if is_mixed(group)]
        full = [place for place, group in enumerate(groups) if trained(group)]
        assert full == mixed[:COUNT]
        assert sum(map(is_mixed, groups[:-COUNT])) < COUNT
        batches, seen.seen = seen.seen[: metrics["updates"]], seen.seen[metrics["updates"] :]
        own = sorted(groups[place][0]["prompt"] for place in full)
        assert sorted(prompt for batch in batches for prompt in batch) == own
        assert metrics["samples_trained"] == 3 * len(full)
    assert any(refilled)
    assert not seen.seen


def test_every_sample_is_on_the_disk_with_its_reason(tiny_model, tmp_path):
    """Whatever was sampled in vain too, and what came up when the batch was full."""
    dealt = Dealt([0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1])  # of twice these, two are surplus
    result = train(tiny_model, tmp_path / "run", **{**SETTINGS, "steps": 6}, reward=dealt)
    found = rows(result.folder)
    reasons: dict[str, int] = {}
    for step, metrics in enumerate(result.metrics, start=1):
        groups = by_group(found, step)
        assert metrics["samples"] == sum(map(len, groups)) == 3 * len(groups)
        assert metrics["tokens_sampled"] == sum(row["tokens"] for g in groups for row in g)
        survivors = 0
        for group in groups:
            rewards = {row["reward"] for row in group}
            if rewards == {0.0}:
                expected = "all wrong"
            elif rewards == {1.0}:
                expected = "all right"
            elif survivors < COUNT:
                expected, survivors = "survived", survivors + 1
            else:
                expected = "the batch was full"
            assert {row["reason"] for row in group} == {expected}
            assert {row["survived"] for row in group} == {expected == "survived"}
            assert all((row["advantage"] != 0) is (expected == "survived") for row in group)
            reasons[expected] = reasons.get(expected, 0) + 1
    assert reasons == {"all wrong": 12, "survived": 24, "the batch was full": 12}


@pytest.mark.parametrize("refill", [1, 2, 3])
def test_the_limit_on_waste(tiny_model, tmp_path, refill):
    """Where nothing is ever right, so many times as many prompts are sampled, and no more."""
    result = train(
        tiny_model, tmp_path / "run",
        **{**SETTINGS, "algorithm": {"name": "dapo", "refill": refill}, "steps": 2},
        reward=lambda prompt, completion: 0.0,
    )  # fmt: skip
    found = rows(result.folder)
    assert [len(by_group(found, step)) for step in (1, 2)] == [(1 + refill) * COUNT] * 2
    for metrics in result.metrics:
        assert metrics["prompts_refilled"] == refill * COUNT
        assert (metrics["updates"], metrics["survivors"]) == (0, 0)
        assert metrics["prompts_all_wrong"] == (1 + refill) * COUNT
    assert same(weights(tiny_model), weights(result.checkpoint))
    # the second step's prompts are others than the first's
    assert [g[0]["prompt"] for g in by_group(found, 2)] == order(2 * (1 + refill) * COUNT)[
        (1 + refill) * COUNT :
    ]


def test_a_batch_that_stays_short_is_trained_on_as_it_is(tiny_model, tmp_path, monkeypatch):
    """Three prompts of all can be mixed; the rest is sampled in vain."""
    seen = Trained(monkeypatch)
    few = set(order(16)[5:8])
    sampled: dict[str, int] = {}

    def reward(prompt: winnow.Prompt, completion: str) -> float:
        number = sampled[prompt.text] = sampled.get(prompt.text, 0) + 1
        return float(prompt.text in few and number % 2)

    result = train(tiny_model, tmp_path / "run", **{**SETTINGS, "steps": 1}, reward=reward)
    (metrics,) = result.metrics
    assert (metrics["prompts"], metrics["prompts_refilled"]) == (16, 12)
    assert metrics["prompts_mixed"] == 3
    assert metrics["samples_trained"] == 9
    assert {prompt for batch in seen.seen for prompt in batch} == few
    assert sum(map(len, seen.seen)) == 3


def test_without_refill_a_step_is_its_own_prompts(tiny_model, tmp_path):
    result = train(
        tiny_model, tmp_path / "run", **{**SETTINGS, "algorithm": {"name": "dapo", "refill": 0}}
    )
    found = rows(result.folder)
    for step, metrics in enumerate(result.metrics, start=1):
        groups = by_group(found, step)
        assert [g[0]["prompt"] for g in groups] == order(COUNT * step)[-COUNT:]
        assert metrics["prompts_refilled"] is None
        assert "the batch was full" not in {row["reason"] for g in groups for row in g}


def test_samples_depend_on_their_place_alone(tiny_model, tmp_path):
    """The first prompts of a step are sampled as without a refill; a later one by its own seed."""
    one = train(tiny_model, tmp_path / "one", **{**SETTINGS, "steps": 1}, reward=lambda p, c: 0.0)
    other = train(
        tiny_model, tmp_path / "other",
        **{**SETTINGS, "steps": 1, "prompts_per_step": 16, "algorithm": "grpo"},
        reward=lambda p, c: 0.0,
    )  # fmt: skip
    assert [row["token_ids"] for row in rows(one.folder)] == [
        row["token_ids"] for row in rows(other.folder)
    ]


class KillIn(winnow.reporting.observer.Observers):
    """Dies when a stage begins for the n-th time."""

    def __init__(self, stage: str, at: int) -> None:
        super().__init__()
        self.stage, self.at, self.begun = stage, at, 0

    def progress(self, stage, done, total):
        if stage == self.stage and done == 0:
            self.begun += 1
            if self.begun == self.at:
                raise Killed


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """A config with checkpoints on the way, and its run from start to end."""
    folder = tmp_path_factory.mktemp("refilled")
    source = folder / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in tiny.problems()))
    config = from_dict(
        {
            **SETTINGS,
            "model": str(tiny_model),
            "prompts": str(source),
            "reward": "exact",
            "sampling": {"max_tokens": 4},
            "optimizer": {"lr": 2e-3},
            "eval": {"size": 0},
            "checkpoint": {"every": 2, "keep": 9},
        }
    )
    result = run(config, out=folder / "whole", observers=winnow.reporting.observer.Observers())
    refilled = [row["prompts_refilled"] for row in result.metrics]
    assert refilled[0] > 0  # so that a kill can fall between two rounds of sampling
    return config, result


@pytest.mark.parametrize(
    ("stage", "at"),
    [
        ("score", 1),  # the first prompts are sampled and not scored
        ("score", 2),  # the refill too
        ("sample", 2),  # while it is being sampled
        ("update", 1),  # the first step is on the disk whole
        ("update", 2),
        ("score", 5),
        ("checkpoint", 1),  # two steps are done, and forgotten
        ("update", 3),  # behind the checkpoint of step 2
        ("sample", 6),
    ],
)
def test_a_resumed_run_goes_on_at_the_same_prompts(whole, tmp_path, monkeypatch, stage, at):
    """Nothing that is on the disk is sampled again, and the end is that of the unbroken run."""
    config, result = whole
    sampled = Sampled(monkeypatch)
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        run(config, out=broken, observers=KillIn(stage, at))
    before = rows(broken)
    places = list(sampled.places)
    assert {(row["step"], row["group"]) for row in before} == set(places)
    resumed = run(resume=broken, observers=winnow.reporting.observer.Observers())
    assert len(set(sampled.places)) == len(sampled.places)  # no place was sampled twice
    every = {(row["step"], row["group"]) for row in rows(resumed.folder)}
    assert set(sampled.places) == every
    assert rows(broken) == rows(result.folder)
    assert strip(resumed.metrics) == strip(result.metrics)
    assert same(weights(resumed.checkpoint), weights(result.checkpoint))
    assert not (broken / "superseded").exists()


def state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "state.json").read_text())["source"]


def test_the_cursor_is_kept_with_the_checkpoint(whole):
    """Prompts taken by all steps so far, the refills included."""
    _, result = whole
    taken = 0
    for row in result.metrics:
        taken += row["prompts"]
        if row["step"] in (2, 4):
            folder = result.folder / "checkpoints" / f"step-{row['step']}"
            assert state(folder) == {"prompts_taken": taken, "kl_beta": None}


def test_a_broken_outcome_mended_may_fill_the_batch_otherwise(tiny_model, tmp_path):
    """Resumed with another verifier, what was surplus or in vain is scored, not sampled, anew."""

    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in tiny.problems()))
    config = from_dict(
        {
            **SETTINGS, "model": str(tiny_model), "prompts": str(source), "steps": 1,
            "sampling": {"max_tokens": 4}, "eval": {"size": 0},
            "reward": {"name": "exact", "probe": False},
        }
    )  # fmt: skip

    def away(prompt, completion):
        raise RuntimeError("away")

    def by_turns(prompt, completion):
        by_turns.calls += 1
        return float(by_turns.calls % 2)

    by_turns.calls = 0
    with pytest.raises(UserError, match=r"step 1: RuntimeError: away .*: the reward failed on"):
        run(
            config,
            out=tmp_path / "run",
            reward=away,
            observers=winnow.reporting.observer.Observers(),
        )
    before = rows(tmp_path / "run")
    assert len(before) == 3 * (1 + REFILL) * COUNT  # errors survive nothing
    result = run(
        resume=tmp_path / "run", reward=by_turns, observers=winnow.reporting.observer.Observers()
    )
    found = rows(result.folder)
    assert [row["token_ids"] for row in found] == [row["token_ids"] for row in before]
    groups = by_group(found, 1)
    assert [place for place, group in enumerate(groups) if trained(group)] == [0, 1, 2, 3]
    assert {row["reason"] for group in groups[4:] for row in group} == {"the batch was full"}
