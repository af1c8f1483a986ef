"""An engine of several processes does what that of one does, and goes on where the other was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests import local, tiny
from tests.engines.fsdp.ragged import groups
from tests.engines.fsdp.spawned import led
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.objective import totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import Config, from_dict
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.engines.base import PHASE, START, Engine, LearnerPlan, Request, SamplingParams
from winnow.engines.fsdp.engine import ShardedEngine
from winnow.engines.fsdp.ranks import Lost
from winnow.engines.fsdp.sharding import parts_of
from winnow.engines.fsdp.worker import Worker
from winnow.engines.local.engine import LocalEngine
from winnow.errors import UserError
from winnow.types import Group, Prompt

RFT, GRPO, PPO = (ALGORITHMS[name] for name in ("rft", "grpo", "ppo"))
NEAR = {"rel": 1e-3, "abs": 1e-6}
"""Between sums in two orders, in float32, after some steps."""


def config(model: Path, **settings: Any) -> Config:
    return from_dict({"model": str(model), "device": "cpu", **settings})


def plan(row: Algorithm, reference: str | None = None, warmup: int = 0) -> LearnerPlan:
    """Adam's denominator is well above rounding, so that this does not turn into a step."""
    critic = CriticConfig(warmup=warmup) if "values" in row.needs else None
    optimizer = OptimizerConfig(lr=1e-5, eps=1e-4)
    return LearnerPlan(optimizer, 20, 40, critic=critic, reference=reference)


def steps(engine: Engine, plan: LearnerPlan, row: Algorithm, many: int, out: Path | None) -> Any:
    """Some updates, saved: the norm of each, and log-probs at the end."""
    made = groups(row)
    learner = engine.learner(plan)
    norms = [learner.step(made, row.objective, totals(made), 1.0).grad_norm for _ in range(many)]
    if out is not None:
        out.mkdir()
        learner.save(out)
    return norms, engine.logprobs(made, 1.0), learner.version


def resumed(engine: Engine, plan: LearnerPlan, row: Algorithm, saved: Path, out: Path) -> Any:
    """Two updates more than what is saved."""
    made = groups(row)
    learner = engine.learner(plan)
    learner.load(saved)
    for _ in range(2):
        learner.step(made, row.objective, totals(made), 1.0)
    out.mkdir()
    learner.save(out)
    return learner.version


def over_ranks(
    worker: Worker, doing: Any, given: Config, *rest: Any, at: Path | None = None
) -> Any:
    return doing(ShardedEngine(worker, given, "model", at), *rest)


def at_checkpoint(worker: Worker, doing: Any, given: Config, at: Path, *rest: Any) -> Any:
    return over_ranks(worker, doing, given, *rest, at=at)


def apart(one: Path, other: Path) -> float:
    """The largest difference of two models' weights."""
    (name,) = [path.name for path in one.glob("*model.safetensors")]
    a, b = load_file(one / name), load_file(other / name)
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


@pytest.mark.parametrize("ranks", [2, pytest.param(3, marks=pytest.mark.fsdp)])
def test_ten_updates_are_those_of_one_process(tiny_model, tmp_path, ranks) -> None:
    """Each moves a weight by 1e-5 at most, and rounding is 1e-7 of the gradient."""
    given = plan(RFT), RFT, 10
    norms, logprobs, version = steps(local.engine(tiny_model), *given, tmp_path / "one")
    found = led(ranks, over_ranks, steps, config(tiny_model), *given, tmp_path / "all")
    assert found[2] == version == 10
    assert found[0] == pytest.approx(norms, **NEAR)
    assert apart(tmp_path / "one", tmp_path / "all") < 1e-6
    for mine, theirs in zip(logprobs, found[1], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "all")
    assert loaded.config.architectures == ["LlamaForCausalLM"]
    assert torch.equal(loaded.state_dict()["lm_head.weight"], loaded.lm_head.weight)


def in_the_host(worker: Worker, given: Config, *rest: Any) -> Any:
    """Some updates, and how FSDP2 was told to keep what is not needed."""
    engine = ShardedEngine(worker, given)
    found = steps(engine, *rest)
    parts = parts_of(worker.policy(engine.number).module())
    groups_ = [part._get_fsdp_state()._fsdp_param_group for part in parts]
    marked = {p.offload_to_cpu for group in groups_ if group for p in group.fsdp_params}
    return found, marked, any("cpu_offload changes nothing" in note for note in engine.notes())


@pytest.mark.fsdp
def test_updates_of_weights_that_are_kept_in_the_host(tiny_model, tmp_path) -> None:
    """On a CPU nothing moves, so they are the same, bit for bit; all parameters are marked."""
    for name, offload in (("plain", False), ("host", True)):
        given = config(tiny_model, engine={"learner": "fsdp", "cpu_offload": offload})
        _, marked, told = led(2, in_the_host, given, plan(RFT), RFT, 3, tmp_path / name)
        assert (marked, told) == ({offload}, offload)
    assert apart(tmp_path / "plain", tmp_path / "host") == 0
    assert (
        led(
            2,
            at_checkpoint,
            resumed,
            given,
            tmp_path / "host",
            plan(RFT),
            RFT,
            tmp_path / "host",
            tmp_path / "on",
        )
        == 5
    )


@pytest.mark.parametrize(
    ("wrote", "reads", "most"),
    [
        (2, 2, 0.0),
        pytest.param(2, 1, 1e-6, marks=pytest.mark.fsdp),
        pytest.param(1, 2, 1e-6, marks=pytest.mark.fsdp),
        pytest.param(2, 3, 1e-6, marks=pytest.mark.fsdp),
        pytest.param(2, 0, 1e-6, marks=pytest.mark.fsdp),
        pytest.param(0, 2, 1e-6, marks=pytest.mark.fsdp),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.fsdp)])
def test_resuming_with_another_number(tiny_model, tmp_path, wrote, reads, most, dtype) -> None:
    """0 stands for the local engine. Two updates, saved, and two more are four in a row.

    Without the optimizer's state, they would not be: Adam's second step is another than its first.
    """
    begun, after, whole = (tmp_path / name for name in ("begun", "after", "whole"))
    given = config(tiny_model, dtype=dtype)

    def does(ranks: int, doing: Any, at: Path | None, *rest: Any) -> Any:
        if ranks:
            return led(ranks, at_checkpoint, doing, given, at, *rest)
        return doing(LocalEngine(given, "model", at), *rest)

    does(wrote, steps, None, plan(RFT), RFT, 2, begun)
    assert (begun / "optimizer").is_dir() == (wrote > 0)
    assert does(reads, resumed, begun, plan(RFT), RFT, begun, after) == 4
    does(wrote or 1, steps, None, plan(RFT), RFT, 4, whole)
    coarse = 2**-7 if dtype == "bfloat16" and most else 0.0  # what 1 to 2 is rounded to
    assert apart(after, whole) <= max(most, coarse)
    cold = tmp_path / "cold"
    does(reads, steps, begun, plan(RFT), RFT, 2, cold)
    assert dtype == "bfloat16" or apart(cold, whole) > 5e-6


def sampled(engine: Engine, given: Config) -> dict[int, Group]:
    sampler = engine.sampler(given.sampling)
    params = SamplingParams(max_tokens=6)
    sampler.submit([Request(Prompt(str(i), f"{i}+1="), 3, 7 * i, params) for i in range(5)])
    return dict(sampler.results())


def given_up(engine: Engine, given: Config) -> dict[int, Group]:
    """Sampling that is left in its middle, and then all over again."""
    sampler = engine.sampler(given.sampling)
    sampler.submit([Request(Prompt("a", "1+1="), 2, 1, SamplingParams(max_tokens=6))] * 4)
    results = sampler.results()
    next(results)
    sampler.cancel()
    results.close()
    return sampled(engine, given)


@pytest.mark.parametrize("doing", [sampled, given_up])
def test_which_rank_samples_a_prompt_changes_nothing(tiny_model, doing) -> None:
    given = config(tiny_model)
    expected = sampled(local.engine(tiny_model), given)
    found = led(2, over_ranks, doing, given, given)
    assert found.keys() == expected.keys()
    for number, group in expected.items():
        assert [s.token_ids for s in found[number].samples] == [s.token_ids for s in group.samples]
        assert found[number].samples[0].logprobs == pytest.approx(
            group.samples[0].logprobs, abs=1e-5
        )


def sampling_alone(worker: Worker, given: Config) -> str:
    """What is said where the connection to another process breaks while weights are gathered."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("Read error [127.0.0.1]:30640: Connection reset by peer")
        yield

    worker.sample = broken  # type: ignore[method-assign]
    with pytest.raises(Lost) as told:
        sampled(ShardedEngine(worker, given, "model"), given)
    return str(told.value)


def test_a_process_that_ends_while_all_sample_is_told_in_a_line(tiny_model) -> None:
    said = led(1, sampling_alone, config(tiny_model))
    assert said.startswith("another process of this run has ended")


def annotated(engine: Engine, plan: LearnerPlan, row: Algorithm) -> Any:
    """What a critic and a reference say of tokens, before and after updates, and those."""
    made = groups(row)
    engine.snapshot(PHASE)
    learner = engine.learner(plan)
    asked = [range(0, len(group.samples), 2) for group in made]
    found: list[Any] = []
    for _ in range(3):
        found.append(learner.reference_logprobs(made, asked, 0.7))
        if plan.critic is not None:
            found.append(learner.values(made, asked))
        done = learner.step(made, row.objective, totals(made), 1.0)
        found += [done.grad_norm, done.loss, done.samples, done.tokens, sorted(done.token_ratios)]
    found.append(engine.logprobs(made, 1.0, of=START))
    learner.restart(START)
    found.append(engine.logprobs(made, 1.0))
    engine.average(START, 0.5)
    learner.close()
    return found


def flat(value: Any) -> list[float]:
    return [x for one in value for x in flat(one)] if isinstance(value, Sequence) else [value]


@pytest.mark.fsdp
@pytest.mark.parametrize("reference", [START, PHASE, "ema(0.9)", "other"])
@pytest.mark.parametrize(("row", "lora"), [(GRPO, 0), (PPO, 0), (GRPO, 4)])
def test_references_and_critics_are_those_of_one_process(
    tiny_model, tmp_path, reference, row, lora
) -> None:
    if reference == "other":
        tiny.rambling().save_pretrained(tmp_path / "other")
        tiny.tokenizer().save_pretrained(tmp_path / "other")
        reference = str(tmp_path / "other")
    given = config(tiny_model, lora={"rank": lora}) if lora else config(tiny_model)
    made = plan(row, reference, warmup=1), row
    expected = annotated(LocalEngine(given), *made)
    found = led(2, over_ranks, annotated, given, *made)
    assert flat(found) == pytest.approx(flat(expected), rel=2e-3, abs=2e-3)


def written(engine: Engine, folder: Path, merged: bool) -> None:
    folder.mkdir()
    learner = engine.learner(plan(RFT))
    made = groups(RFT)
    learner.step(made, RFT.objective, totals(made), 1.0)
    engine.save(folder, merged=merged)


@pytest.mark.fsdp
@pytest.mark.parametrize("merged", [True, False])
def test_adapters_are_written_as_one_process_writes_them(tiny_model, tmp_path, merged) -> None:
    given = config(tiny_model, lora={"rank": 4})
    written(LocalEngine(given), tmp_path / "one", merged)
    led(2, over_ranks, written, given, tmp_path / "all", merged)
    assert apart(tmp_path / "one", tmp_path / "all") < 1e-5
    assert {p.name for p in (tmp_path / "all").iterdir()} == {
        p.name for p in (tmp_path / "one").iterdir()
    }


def refused(worker: Worker, given: Config) -> str:
    made = LearnerPlan(OptimizerConfig(), 1, 40, critic=CriticConfig(trunk="own"))
    with pytest.raises(UserError) as error:
        ShardedEngine(worker, given).learner(made)
    return str(error.value)


def test_a_trunk_of_its_own_is_refused(tiny_model) -> None:
    said = led(1, refused, config(tiny_model))
    assert said.startswith("critic.trunk: a trunk of its own cannot be sharded; use 'shared'")


def told(worker: Worker, folder: Path) -> list[str]:
    """What each rank holds of a model that is in two files."""
    engine = ShardedEngine(worker, config(folder))
    held: Tensor = worker.policy(engine.number).tensors()[0]
    whole = load_file(
        folder
        / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][
            "model.embed_tokens.weight"
        ]
    )["model.embed_tokens.weight"]
    return [str(tuple(held.shape)), str(torch.equal(held, whole[: len(held)]))]


def test_each_rank_reads_its_own_rows(tmp_path) -> None:
    """48 characters' rows, of which the first of two ranks holds the first half."""
    tiny.warmed_up().save_pretrained(tmp_path, max_shard_size="300KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    length = len(tiny.tokenizer())
    assert led(2, told, tmp_path) == [str((-(-length // 2), 64)), "True"]
