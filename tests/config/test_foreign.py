"""What other trainers call settings: each name leads to one that exists, and to one line."""

from __future__ import annotations

import ast
import inspect
from collections import Counter

import pytest

import winnow
from winnow.algorithms.registry import RULES, VOCABULARIES
from winnow.algorithms.spec import parse
from winnow.config import foreign
from winnow.config.foreign import FOREIGN, hint
from winnow.config.phases import phases_of
from winnow.config.recipe import load
from winnow.config.schema import Config
from winnow.config.schema.describe import describe
from winnow.errors import UserError
from winnow.rewards.factory import REWARDS

PLAIN = {
    *(("dtype", "bfloat16"), ("reward.name", "model:FOLDER")),
    *(("engine.sampler", "vllm"), ("engine.learner", "fsdp")),
}
KEYS = {row["key"] for row in describe()}


@pytest.mark.parametrize("name", FOREIGN)
def test_every_name_leads_to_a_setting_that_exists(name: str) -> None:
    found = FOREIGN[name]
    assert set(found.keys) <= KEYS
    assert found.keys or found.note
    assert name not in KEYS | set(Config.model_fields)  # else it would never be looked up
    assert len(found.hint.splitlines()) == 1
    if found.value:
        key = found.keys[0]
        table, _, cell = key.rpartition(".")
        if table == "algorithm":
            parse(key, found.value, VOCABULARIES[cell])  # no error
        else:
            assert (key, found.value) in PLAIN


def test_no_name_is_given_twice() -> None:
    """The second would be the answer, and nobody would notice."""
    tree = ast.parse(inspect.getsource(foreign))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    at = {"_same": 1, "_none": 0}
    named = [(at[call.func.id], call) for call in calls if getattr(call.func, "id", "") in at]
    names = Counter(name for place, c in named for name in ast.literal_eval(c.args[place]).split())
    assert names.keys() == FOREIGN.keys()
    assert max(names.values()) == 1


def test_cells_that_notes_name_exist() -> None:
    assert {"mixed", "finished"} <= RULES.keys()
    assert "dpo" in VOCABULARIES["loss"]
    assert {"standardised", "centred"} <= VOCABULARIES["advantage"].keys()
    assert not FOREIGN.keys() & REWARDS.keys()


SAID = {
    "learning_rate": "unknown setting 'learning_rate'; here it is optimizer.lr",
    "num_generations": "unknown setting 'num_generations'; here it is samples_per_prompt",
    "actor_rollout_ref.rollout.n": "unknown setting 'actor_rollout_ref.rollout.n'; here it is samp",
    "algorithm.kl_ctrl.kl_coef": "unknown setting 'algorithm.kl_ctrl.kl_coef'; here it is algorithm"
    ".kl = 'in-reward(0.05)'",
    "training.learning_rate": "unknown setting 'training.learning_rate'; here it is optimizer.lr",
    "per_device_train_batch_size": "unknown setting 'per_device_train_batch_size'; here it is "
    "minibatch_prompts; it counts prompts, not samples",
    "report_to": "unknown setting 'report_to'; here it is trackers; a list, such as ['wandb']",
    "use_vllm": "unknown setting 'use_vllm'; here it is engine.sampler = 'vllm'",
    "reward_weights": "unknown setting 'reward_weights'; here it is reward.parts; each [[reward]]",
    "fsdp": "unknown setting 'fsdp'; here it is engine.learner = 'fsdp'",
    "gradient_checkpointing": "unknown setting 'gradient_checkpointing'; here it is engine.activa",
    "stepz": "unknown setting 'stepz'; did you mean 'steps'?",
    "lora.r": "unknown setting 'lora.r'; here it is lora.rank",
    "sampling.max_token": "unknown setting 'sampling.max_token'; did you mean 'sampling.max_tok",
    "checkpoint_every": "unknown setting 'checkpoint_every'; did you mean 'checkpoint.every'?",
    "optimiser.lr": "unknown setting 'optimiser.lr'; did you mean 'optimizer.lr'?",
    "sampling.foo": "unknown setting 'sampling.foo'; available: sampling.temperature, sampling.t",
}


@pytest.mark.parametrize("name", SAID)
def test_a_setting_of_another_trainer_is_named(name: str, tmp_path) -> None:
    """As `--set`, in a recipe, and from Python."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"{name} = 1\n")
    first, *rest = name.split(".")
    value: object = 1
    for part in reversed(rest):
        value = {part: value}
    for use in (
        lambda: load(sets=[f"{name}=1"]),
        lambda: load(sets=[f"{name}="]),
        lambda: load(str(recipe)),
        lambda: winnow.train(quiet=True, **{first: value}),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value).startswith(SAID[name])


def test_a_phase_says_it_too(tmp_path) -> None:
    config = load(over={"phases": [{"algorithm": "raft"}, {"learning_rate": 1}]})
    with pytest.raises(
        UserError, match=r"^phases\.2: unknown setting 'learning_rate'; here it is o"
    ):
        phases_of(config)


def test_all_unknown_names_are_told_together(tmp_path) -> None:
    """Whatever tables they are in; what is wrong with a value can wait."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'steps = "x"\nlearning_rate = 1\n[sampling]\nmax_token = 3\n[grpo]\nbeta = 1\n'
    )
    with pytest.raises(UserError) as caught:
        load(str(recipe))
    assert str(caught.value) == (
        "3 unknown settings; 'sampling.max_token': did you mean 'sampling.max_tokens'?; "
        "'learning_rate': here it is optimizer.lr; 'grpo.beta': here it is "
        "algorithm.kl = 'in-loss(0.04)'; for DPO, algorithm.loss = 'dpo(0.1)'"
    )
    with pytest.raises(UserError, match=r"^7 unknown settings; 'a': .*; 'e': .*; and 2 more$"):
        load(over=dict.fromkeys("abcdefg", 1))


def test_those_of_all_phases_too() -> None:
    phases = [{"learning_rate": 1, "sampling": {"max_token": 3}}, {"optimizer": {"lrr": 1}}]
    with pytest.raises(UserError) as caught:
        phases_of(load(over={"phases": phases}))
    assert str(caught.value) == (
        "3 unknown settings; 'phases.1.learning_rate': here it is optimizer.lr; "
        "'phases.1.sampling.max_token': did you mean 'sampling.max_tokens'?; "
        "'phases.2.optimizer.lrr': did you mean 'optimizer.lr'?"
    )


@pytest.mark.parametrize(
    ("cell", "example"),
    [
        ("kl", "'in-loss(0.25)' or 'in-reward(0.25)'"),
        ("critic", "'value(clip=0.2, coefficient=0.5)'"),
        ("loss", "'clipped(low=0.2, high=0.28)'"),
        ("advantage", "'centred'"),
        ("denominator", "'sample-means'"),
    ],
)
def test_a_number_for_a_cell_is_answered_with_its_form(cell: str, example: str) -> None:
    """And the form is one that the cell takes."""
    with pytest.raises(UserError) as caught:
        load(sets=[f"algorithm.{cell}=0.25"])
    problem = f"algorithm.{cell}: must be a str (got 0.25); write it like {example}"
    assert str(caught.value) == problem
    for text in example.split(" or "):
        parse(cell, text.strip("'"), VOCABULARIES[cell])


def test_as_a_flag() -> None:
    assert hint(["--learning-rate"]) == hint(["learning_rate"]) != ""
    assert hint(["steps"]) == hint(["nothing"]) == hint([]) == ""
