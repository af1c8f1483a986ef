"""What other trainers call settings: each name leads to one that exists, and to one line."""

from __future__ import annotations

import pytest

import winnow
from winnow.algorithms.registry import RULES, VOCABULARIES
from winnow.algorithms.spec import parse
from winnow.config.foreign import FOREIGN, hint
from winnow.config.recipe import load
from winnow.config.schema import Config
from winnow.config.schema.describe import describe
from winnow.errors import UserError
from winnow.rewards.factory import REWARDS

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
            assert (key, found.value) in {("dtype", "bfloat16"), ("reward.name", "model:FOLDER")}


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
    "report_to": "unknown setting 'report_to'; there is none here; a run writes metrics.jsonl",
    "stepz": "unknown setting 'stepz'; did you mean 'steps'?",
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
    from winnow.config.phases import phases_of

    with pytest.raises(
        UserError, match=r"^phases\.2: unknown setting 'learning_rate'; here it is o"
    ):
        phases_of(config)


def test_as_a_flag() -> None:
    assert hint(["--learning-rate"]) == hint(["learning_rate"]) != ""
    assert hint(["steps"]) == hint(["nothing"]) == hint([]) == ""
