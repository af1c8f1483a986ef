"""Runs in phases: RAFT, then PPO, as Llama 2 was made; killed anywhere, they end the same."""

from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config

import winnow
from tests import kills, tiny
from tests.kills import (
    FIRST,
    SMALL,
    KillAt,
    Killed,
    after_checkpoint,
    check_resumed,
    check_same,
    config,
    go,
    lines,
    logits,
    samples,
    weights,
)
from winnow.algorithms.table import ALGORITHMS
from winnow.cli import main
from winnow.config.phases import cautions_of, phases_of
from winnow.config.recipe import load
from winnow.config.schema import Config, from_dict
from winnow.engines.local.engine import LocalEngine
from winnow.training.run import run

SCHEDULE = """
model = {model}
reward = "exact"
prompts_per_step = 6
samples_per_prompt = 6
minibatch_prompts = 3
sampling.max_tokens = 4
optimizer.lr = 5e-3
eval.size = 5
eval.every = 2
checkpoint.every = 100
checkpoint.keep = 1
prompts = {prompts}

[[phases]]
algorithm = "raft"
steps = 3

[[phases]]
algorithm = {{ name = "ppo", kl = "in-reward(0.1)", epochs = 2 }}
steps = 3
reference = "phase"
optimizer.lr = 2e-3
critic.lr = 1e-3
sampling.temperature = 0.9
"""


@pytest.fixture
def schedule(tiny_model: Path, tmp_path: Path) -> Path:
    """A Llama-2-style schedule, as one recipe."""
    rows, recipe = tmp_path / "prompts.jsonl", tmp_path / "llama.toml"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.problems()))
    text = SCHEDULE.format(model=json.dumps(str(tiny_model)), prompts=json.dumps(str(rows)))
    recipe.write_text(text)
    return recipe


def same(one: Path, other: Path) -> bool:
    return kills.same(weights(one), weights(other))


def check_ref(rows: list[dict[str, Any]], model: Path, temperature: float) -> None:
    """The recorded reference log-probs are a plain model's at this temperature."""
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["token_ids"]])
        logp = (plain(ids).logits[0].detach() / temperature).log_softmax(-1)
        first = len(row["prompt_ids"]) - 1
        expected = [float(logp[first + i, t]) for i, t in enumerate(row["token_ids"])]
        assert row["ref_logprobs"] == pytest.approx(expected, abs=1e-4)


def test_a_schedule_runs_from_the_command_line(schedule, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["winnow", "train", str(schedule), "--out", str(out), "--json"]
    )
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["checkpoint"] == str(out / "checkpoints/step-6")
    assert (said["last_step"]["step"], said["last_step"]["phase"]) == (6, 2)
    from_python = winnow.train(recipe=str(schedule), out=tmp_path / "python", quiet=True)
    assert lines(from_python.folder, "metrics.jsonl") == lines(out, "metrics.jsonl")
    assert same(from_python.checkpoint, out / "checkpoints/step-6")


def test_steps_are_numbered_through_and_rows_have_the_same_keys(schedule, tmp_path):
    result = winnow.train(recipe=str(schedule), out=tmp_path / "run", quiet=True, reward=FIRST)
    rows = result.metrics
    assert [(row["step"], row["phase"]) for row in rows] == [
        (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)
    ]  # fmt: skip
    assert len({tuple(row) for row in rows}) == 1
    assert [row["updates"] for row in rows] == [2, 2, 2, 4, 4, 4]
    assert [row["lr"] for row in rows] == [5e-3] * 3 + [2e-3] * 3
    assert [row["value_error"] is None for row in rows] == [True] * 3 + [False] * 3
    assert [row["kl_beta"] for row in rows] == [None] * 3 + [0.1] * 3
    versions = [row["policy_version"] for row in rows]
    assert versions == sorted(versions)
    assert versions[-1] == sum(row["updates"] for row in rows)
    evals = lines(result.folder, "evals.jsonl")
    assert [row["step"] for row in evals] == [0, 2, 3, 4, 6]
    found = samples(result.folder)
    assert [{r["temperature"] for r in found if r["step"] == s} for s in (3, 4)] == [{1.0}, {0.9}]
    # one that has no phases says none
    single = load(str(schedule)).model_copy(update={"phases": [], "steps": 1})
    (row,) = go(single, tmp_path / "single").metrics
    assert row.keys() == rows[0].keys()
    assert row["phase"] is None


def test_the_reference_is_the_policy_that_the_phase_began_with(schedule, tiny_model, tmp_path):
    """Its checkpoint is kept until the phase is over, though keep = 1."""
    result = winnow.train(recipe=str(schedule), out=tmp_path / "run", quiet=True)
    kept = sorted(path.name for path in (result.folder / "checkpoints").iterdir())
    assert kept == ["step-3", "step-6"]
    boundary = result.folder / "checkpoints/step-3"
    assert not same(boundary, tiny_model)
    found = samples(result.folder)
    assert all(row["ref_logprobs"] is None for row in found if row["step"] <= 3)
    for step in (4, 6):
        check_ref([row for row in found if row["step"] == step][:12], boundary, 0.9)


def test_the_second_phase_goes_on_from_the_first_with_an_optimizer_of_its_own(schedule, tmp_path):
    """The first three steps are a run of RAFT alone; its Adam's averages end with the phase."""
    result = winnow.train(recipe=str(schedule), out=tmp_path / "run", quiet=True)
    alone = load(str(schedule), over={"algorithm": "raft", "steps": 3}).model_copy(
        update={"phases": []}
    )
    first = go(alone, tmp_path / "alone")
    assert same(first.checkpoint, result.folder / "checkpoints/step-3")
    state = torch.load(result.checkpoint / "optimizer.pt", weights_only=True)
    second = sum(row["updates"] for row in result.metrics[3:])
    assert {int(one["step"]) for one in state["adam"]["state"].values()} == {second}
    assert state["version"] == result.metrics[-1]["policy_version"] > second


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_killed_in_any_phase_or_between_two_it_ends_as_the_unbroken_run(schedule, tmp_path, dtype):
    settings = load(str(schedule), over={"checkpoint": {"every": 2, "keep": 1}, "dtype": dtype})

    def kills(heard: list[tuple[str, int]]) -> list[int]:
        within = after_checkpoint(heard, 1) + 3  # in step 3, the last of the first phase
        between = [after_checkpoint(heard, 2) - after_checkpoint(heard, 1) + 1]
        return [9, within, *between, 25, 12]

    whole, _ = check_resumed(settings, tmp_path, kills)
    assert [row["phase"] for row in whole.metrics] == [1] * 3 + [2] * 3


def test_killed_exactly_between_two_phases_it_goes_on_with_the_second(schedule, tmp_path):
    settings = load(str(schedule))
    listener = KillAt()
    whole = run(settings, out=tmp_path / "whole", observers=listener)
    killer = KillAt(after_checkpoint(listener.heard, 1))
    with pytest.raises(Killed):
        run(settings, out=tmp_path / "broken", observers=killer)
    assert [p.name for p in (tmp_path / "broken/checkpoints").iterdir()] == ["step-3"]
    assert len(list((tmp_path / "broken/rollouts").glob("train-*"))) == 3
    again = KillAt()
    run(resume=tmp_path / "broken", observers=again)
    sampled = [stage for stage, _ in again.heard].count("score")
    assert sampled == 3
    check_same(whole.folder, tmp_path / "broken")


def test_killed_twice_in_the_second_phase_it_still_refers_to_the_boundary(schedule, tmp_path):
    settings = load(str(schedule), over={"checkpoint": {"every": 1, "keep": 1}})

    def kills(heard: list[tuple[str, int]]) -> list[int]:
        # load model, then what follows the checkpoint of the step before
        return [after_checkpoint(heard, 4) + 1, 9, 12]

    whole, broken = check_resumed(settings, tmp_path, kills)
    last = [row for row in samples(broken.folder) if row["step"] == 6]
    check_ref(last[:12], whole.folder / "checkpoints/step-3", 0.9)


def test_a_phase_from_the_start_refers_to_the_start_when_it_is_resumed(tiny_model, tmp_path):
    """Not to where the phase before it ended: killed behind a checkpoint within the phase."""
    phases = [
        {"algorithm": "raft", "steps": 2, "optimizer": {"lr": 1e-2}},
        {
            "algorithm": {"name": "rloo"},
            "steps": 3,
            "start_from": "start",
            "reference": "phase",
        },
    ]
    settings = config(tiny_model, tmp_path, phases=phases, checkpoint={"every": 1})
    check_resumed(settings, tmp_path, lambda heard: [after_checkpoint(heard, 3)])


def test_held_out_prompts_are_answered_alike_in_all_phases(tiny_model, tmp_path):
    phases = [
        {"algorithm": "raft", "steps": 1, "sampling": {"temperature": 0.5, "max_tokens": 2}},
        {"algorithm": "raft", "steps": 1},
    ]
    settings = config(tiny_model, tmp_path, phases=phases, eval={"size": 4})
    whole = go(settings, tmp_path / "run")
    heats = {
        name: set(
            pq.read_table(whole.folder / "rollouts" / f"{name}.parquet")["temperature"].to_pylist()
        )
        for name in ("train-000001", "train-000002", "eval-000001", "eval-000002")
    }
    assert heats == {
        "train-000001": {0.5},
        "train-000002": {1.0},
        "eval-000001": {1.0},
        "eval-000002": {1.0},
    }


def test_prompts_go_on_where_the_phase_before_left_off(tiny_model, tmp_path):
    phases = [
        {"algorithm": "raft", "steps": 2, "prompts_per_step": 3},
        {"algorithm": "raft", "steps": 2, "prompts_per_step": 6},
    ]
    whole = go(config(tiny_model, tmp_path, phases=phases), tmp_path / "run")
    rows = pq.read_table(whole.folder / "rollouts").to_pylist()
    asked = {(row["step"], row["group"]): row["prompt_id"] for row in rows}
    assert len(asked) == len(set(asked.values())) == 3 + 3 + 6 + 6  # of 25: none twice


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ({"steps": 2}, "steps: every phase has its own"),
        ({"algorithm": {"kl": "in-loss(0.1)"}}, "algorithm: every phase has its own"),
        ({"critic": {"warmup": 5}}, "critic: raft, grpo has no critic"),
    ],
)
def test_what_every_phase_sets_itself_is_refused_above_them(tiny_model, tmp_path, above, said):
    phases = [{"algorithm": "raft", "steps": 1}, {"algorithm": {"name": "grpo"}, "steps": 1}]
    given = {key: value for key, value in SMALL.items() if key != "steps"}
    settings = from_dict({"model": str(tiny_model), **given, "phases": phases, **above})
    with pytest.raises(winnow.UserError, match=f"^{said}"):
        phases_of(settings)


def test_a_phased_run_records_every_cell(schedule, tmp_path):
    whole = go(load(str(schedule)), tmp_path / "run")
    again = load(str(whole.folder / "config.toml"))
    for phase, written in zip(phases_of(again), again.phases, strict=True):
        cells = phase.algorithm.cells()
        assert {key: written["algorithm"][key] for key in cells} == cells
    assert [p.algorithm for p in phases_of(again)] == [
        p.algorithm for p in phases_of(load(str(schedule)))
    ]


def test_a_critic_that_warms_up_for_ever_is_refused(tiny_model, tmp_path):
    settings = config(tiny_model, tmp_path, algorithm="ppo", steps=1, critic={"warmup": 8})
    with pytest.raises(winnow.UserError, match=r"^critic\.warmup: there are only 8 updates"):
        phases_of(settings)


def test_cycles_alternate(tiny_model, tmp_path):
    phases = [{"algorithm": "raft", "steps": 1}, {"algorithm": "grpo", "steps": 2}]
    settings = config(tiny_model, tmp_path, phases=phases, cycles=2, checkpoint={"every": 1})
    whole, _ = check_resumed(settings, tmp_path, lambda heard: [after_checkpoint(heard, 3), 4])
    assert [row["phase"] for row in whole.metrics] == [1, 2, 2, 3, 4, 4]
    found = phases_of(settings)
    assert [(p.number, p.algorithm.name, p.before, p.last) for p in found] == [
        (1, "raft", 0, 1), (2, "grpo", 1, 3), (3, "raft", 3, 4), (4, "grpo", 4, 6)
    ]  # fmt: skip
    assert found[1].algorithm == ALGORITHMS["grpo"]


@pytest.mark.parametrize("lora", [{}, {"rank": 4}])
def test_a_phase_may_begin_with_the_starting_weights(tiny_model, tmp_path, lora):
    """Its first samples are the start's, not the last phase's; lr 0 leaves it there."""
    phases = [
        {"algorithm": "raft", "steps": 2},
        {"algorithm": "grpo", "steps": 2, "start_from": "start", "optimizer": {"lr": 0.0}},
    ]
    settings = config(
        tiny_model, tmp_path, phases=phases, lora=lora, checkpoint={"every": 1, "keep": 9}
    )
    whole, _ = check_resumed(settings, tmp_path, lambda heard: [after_checkpoint(heard, 2), 9])
    start, end, other = (
        logits(AutoModelForCausalLM.from_pretrained(folder))
        for folder in (tiny_model, whole.checkpoint, whole.folder / "checkpoints/step-2")
    )
    assert torch.equal(start, end)
    assert not torch.equal(start, other)
    rows = [row for row in samples(whole.folder) if row["step"] == 3]
    for row in rows:
        row["ref_logprobs"] = row["logprobs"]
    check_ref(rows[:12], tiny_model, 1.0)


def test_a_phase_may_be_a_file_of_samples(tiny_model, tmp_path):
    """First RFT on the samples that another run made, then RAFT on its own."""
    first = go(config(tiny_model, tmp_path, steps=2), tmp_path / "first")
    phases = [
        {"algorithm": {"name": "rft", "epochs": 2}, "samples_file": str(first.folder)},
        {"algorithm": "raft", "steps": 2},
    ]
    settings = config(
        tiny_model, tmp_path, phases=phases, checkpoint={"every": 1}, optimizer={"lr": 5e-3}
    )
    whole, _ = check_resumed(settings, tmp_path, lambda heard: [3, after_checkpoint(heard, 4), 6])
    assert [row["phase"] for row in whole.metrics] == [1] * 4 + [2] * 2
    assert [row["tokens_sampled"] for row in whole.metrics[:4]] == [0] * 4
    assert {row["step"] for row in samples(whole.folder)} == {1, 2, 5, 6}
    other = settings.model_copy(update={"phases": phases[1:], "steps": Config().steps})
    assert not same(go(other, tmp_path / "other").checkpoint, whole.checkpoint)


RAFT = {"algorithm": "raft", "steps": 1}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (
            {"algorithm": "ppoo"},
            "phases.2.algorithm: unknown algorithm 'ppoo'; did you mean 'ppo'?",
        ),
        ({"step": 3}, "phases.2: unknown setting 'step'; did you mean 'steps'?"),
        ({"model": "x"}, "phases.2.model: a phase cannot set it; "),
        ({"steps": 0}, "phases.2.steps: "),
        ({"optimizer": {"lr": "fast"}}, "phases.2.optimizer.lr: "),
        ({"start_from": "middle"}, "phases.2.start_from: unknown start 'middle'; use"),
        ({"minibatch_prompts": 99}, "phases.2.minibatch_prompts: an update cannot"),
        (
            {"algorithm": "ppo", "reference": "ema(2)"},
            "phases.2.reference: wrong value in 'ema(2)'",
        ),
        ({"algorithm": "ppo", "reference": "strat"}, "phases.2.reference: 'strat' is not a folder"),
        ({"samples_file": "nowhere"}, "phases.2.samples_file: "),
        ({"anchor": {"source": "nowhere.jsonl"}}, "phases.2.anchor.source: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_in_a_phase_is_one_line_that_names_it(
    tiny_model, tmp_path, monkeypatch, second, said
):
    monkeypatch.setattr(LocalEngine, "__init__", lambda *_: pytest.fail("the model was read"))
    with pytest.raises(winnow.UserError) as caught:
        go(config(tiny_model, tmp_path, phases=[RAFT, {**RAFT, **second}]), tmp_path / "run")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_reference_of_a_later_phase_is_checked_before_the_first(tiny_model, tmp_path):
    words = tiny.tokenizer()
    words.add_tokens(["zz"])
    tiny.model().save_pretrained(tmp_path / "other")
    words.save_pretrained(tmp_path / "other")
    second = {"algorithm": "ppo", "steps": 1, "reference": str(tmp_path / "other")}
    with pytest.raises(
        winnow.UserError, match=r"^phases\.2\.reference: .* has another vocabulary than"
    ):
        go(config(tiny_model, tmp_path, phases=[RAFT, second]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_critic_of_a_later_phase_is_checked_before_the_first(tmp_path):
    capped = Gemma2Config(
        vocab_size=len(tiny.tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=2.0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = tiny.save(tmp_path / "capped", AutoModelForCausalLM.from_config(capped))
    phases = [RAFT, {"algorithm": "ppo", "steps": 1}]
    with pytest.raises(
        winnow.UserError, match=r"^phases\.2\.algorithm\.critic: this model changes its logits"
    ):
        go(config(model, tmp_path, phases=phases), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_may_surprise_in_a_phase_is_told_once_with_the_phases_that_it_is_about(tmp_path):
    low, high = {"optimizer": {"lr": 1e-5}}, {"optimizer": {"lr": 1e-3}}
    cool = {**RAFT, **low, "sampling": {"temperature": 0.5}}
    phases = [{**RAFT, **low}, {"algorithm": "grpo", "steps": 1, **high}, cool]
    settings = {"phases": phases, "lora": {"rank": 2}, "cycles": 2}
    lr, heat = cautions_of(phases_of(config(tmp_path, tmp_path, **settings)))
    assert lr.startswith("phases.1, phases.3: adapters learn little")
    assert heat.startswith("phases.3: raft: nll is at temperature 1")
    alone = config(tmp_path, tmp_path, algorithm="grpo", lora={"rank": 2}, **low)
    (said,) = cautions_of(phases_of(alone))
    assert said.startswith("adapters learn little")


def test_an_algorithm_beside_phases_is_refused(tiny_model, tmp_path):
    with pytest.raises(winnow.UserError, match=r"^phases: each phase names its own algorithm"):
        phases_of(config(tiny_model, tmp_path, phases=[RAFT]), ALGORITHMS["raft"])


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("merge", [0, 1, 3, 1000])
@pytest.mark.parametrize(("steps", "prompts", "batch"), [(1, 5, 2), (9, 16, 16), (40, 7, 3)])
def test_the_updates_of_a_schedule_are_those_that_are_counted(
    steps, prompts, batch, merge, restart
):
    """Round by round: round t holds the prompts of itself and of the `merge` before it."""
    given = {
        "algorithm": {"name": "raft++", "epochs": 2},
        "steps": steps,
        "prompts_per_step": prompts,
        "minibatch_prompts": batch,
        "rounds": {"merge": merge, "restart": restart},
    }
    (phase,) = phases_of(from_dict(given))
    rounds = []
    for number in range(steps):
        held = [p for each in range(steps) if 0 <= number - each <= merge for p in range(prompts)]
        rounds.append(2 * len(range(0, len(held), batch)))
    assert phase.updates == (max(rounds) if restart else sum(rounds))
    assert phase.all_updates == sum(rounds)


def test_the_longest_schedule_is_counted_at_once():
    """Nothing is built over its 10^9 steps, nor over its 1000 phases."""
    given = {"steps": 10**9, "prompts_per_step": 3, "minibatch_prompts": 2}
    given["phases"] = [{"algorithm": "ppo"}, {"algorithm": "raft"}]
    tracemalloc.start()
    try:
        phases = phases_of(from_dict({**given, "cycles": 500}))
        updates = phases[-1].updates
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4e6
    assert updates == 2 * 10**9  # two updates of three prompts
    assert [phase.number for phase in phases] == list(range(1, 1001))
    assert (phases[-1].before, phases[-1].last) == (999 * 10**9, 1000 * 10**9)
    assert phases[-1].first_prompt == 3 * 999 * 10**9
    with pytest.raises(winnow.UserError, match=r"^cycles: the phases come to 1,002 with it, and a"):
        phases_of(from_dict({**given, "cycles": 501}))
