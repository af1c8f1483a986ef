"""Settings of one phase by `--set`, and mini-batches that follow from a phase's prompts."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w

from winnow.algorithms.selection import Best
from winnow.config.phases import phases_of, resolved
from winnow.config.recipe import load, values_of
from winnow.config.schema import Config, from_dict
from winnow.errors import UserError


def test_a_phase_is_counted_from_one() -> None:
    """Only the named phase has the setting; the other keeps what the recipe says."""
    sets = ["phases.1.steps=3", "phases.2.optimizer.lr=1e-7", "phases.2.algorithm.epochs=5"]
    before, after = (phases_of(load("llama2", given)) for given in ([], sets))
    assert [phase.steps for phase in before] == [10, 10]
    assert [phase.steps for phase in after] == [3, 10]
    assert [phase.config.optimizer.lr for phase in before] == [1e-5, 5e-6]
    assert [phase.config.optimizer.lr for phase in after] == [1e-5, 1e-7]
    assert [phase.algorithm.epochs for phase in after] == [1, 5]
    assert after[1].algorithm.name == before[1].algorithm.name == "ppo"


def test_a_short_form_becomes_a_table() -> None:
    first, _ = phases_of(load("llama2", ["phases.1.algorithm.select=best(1)"]))
    assert first.algorithm.select == (Best(1),)
    assert first.algorithm.name == "raft"


def test_a_phase_goes_back_to_what_is_above_it() -> None:
    _, second = phases_of(load("llama2", ["phases.2.optimizer.lr="]))
    assert second.config.optimizer.lr == 1e-5
    assert load("llama2", ["phases.2.start_from="]) == load("llama2")


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (
            "phases.3.steps=1",
            "phases.3.steps: the recipe has 2 phases, counted from 1; use phases.1",
        ),
        (
            "phases.0.steps=1",
            "phases.0.steps: the recipe has 2 phases, counted from 1; use phases.1",
        ),
        (
            "phases.x.steps=1",
            "phases.x.steps: the recipe has 2 phases, counted from 1; use phases.1",
        ),
        ("phases.1=1", "phases.1: it is a table of settings; set one of them: phases.1.steps=10"),
        ("phases.1.model=x", "phases.1.model: a phase cannot set it; set it above the phases"),
        ("phases.1.stpes=1", "phases.1: unknown setting 'stpes'; did you mean 'steps'?"),
        ("phases.1.optimizer.lrr=1", "phases.1: unknown setting 'optimizer.lrr'; did you mean 'op"),
    ],
)
def test_what_no_phase_has(item: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        phases_of(load("llama2", [item]))
    assert str(caught.value).startswith(says)


def test_a_recipe_without_phases() -> None:
    with pytest.raises(UserError, match=r"^phases\.1\.steps: the recipe has no phases; set steps "):
        load("arithmetic", ["phases.1.steps=3"])


def test_a_row_that_would_undo_a_cell() -> None:
    undone = ["phases.1.algorithm.epochs=2", "phases.1.algorithm=rft"]
    with pytest.raises(UserError, match=r"^--set: phases\.1\.algorithm=\.\.\. would undo"):
        load("llama2", undone)
    assert phases_of(load("llama2", undone[::-1]))[0].algorithm.epochs == 2


@pytest.mark.parametrize("prompts", [1, 3, 16, 40])
def test_an_update_has_all_prompts_of_its_step_by_default(prompts: int) -> None:
    (phase,) = phases_of(from_dict({"prompts_per_step": prompts, "steps": 7}))
    assert phase.config.prompts_per_update == prompts
    assert phase.updates == 7  # one a step
    assert Config().prompts_per_update == 16


def test_each_phase_has_its_own_default_and_keeps_it_in_its_folder() -> None:
    """Above the phases nothing is written out, which would be theirs when the run is resumed."""
    phases = [{"prompts_per_step": 3}, {"prompts_per_step": 5, "minibatch_prompts": 2}, {}]
    config = from_dict({"steps": 4, "phases": phases})
    for _ in range(2):
        checked = phases_of(config)
        assert [phase.config.prompts_per_update for phase in checked] == [3, 2, 16]
        assert [phase.updates for phase in checked] == [4, 4 * 3, 4]
        values = values_of(resolved(config, checked))
        assert "minibatch_prompts" not in values
        assert [phase["minibatch_prompts"] for phase in values["phases"]] == [3, 2, 16]
        config = from_dict(tomllib.loads(tomli_w.dumps(values)))


def test_one_above_the_phases_holds_for_all() -> None:
    config = from_dict({"minibatch_prompts": 2, "phases": [{"prompts_per_step": 3}, {}]})
    checked = phases_of(config)
    assert [phase.config.prompts_per_update for phase in checked] == [2, 2]
    assert values_of(resolved(config, checked))["minibatch_prompts"] == 2


def test_a_folder_of_an_earlier_version_had_16_above_its_phases() -> None:
    own = [{"minibatch_prompts": 4}, {"minibatch_prompts": 8}]
    checked = phases_of(from_dict({"minibatch_prompts": 16, "phases": own}))
    assert [phase.config.prompts_per_update for phase in checked] == [4, 8]
    with pytest.raises(UserError, match=r"^minibatch_prompts: every phase has its own"):
        phases_of(from_dict({"minibatch_prompts": 2, "phases": own}))


def test_phases_are_counted_from_one() -> None:
    with pytest.raises(UserError, match=r"^phases\.2: must be a table \(got 7\)"):
        load(over={"phases": [{"algorithm": "raft"}, 7]})
