"""STUDY.toml: what it may say, and that every mistake is one line before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from winnow.errors import UserError, notes
from winnow.prompts.loading import PromptSet, load_prompts
from winnow.studies.schema import StudyFile, read_study, study_of, variant_pairs
from winnow.studies.variants import planned_runs
from winnow.training import setup


def planned(values: dict[str, Any]) -> list[Any]:
    return planned_runs(study_of(values), None, deeply=False)


def test_variants_are_rows_cells_or_any_settings() -> None:
    values = {
        "study": {"seeds": [7, 9]},
        "base": {"recipe": "arithmetic", "algorithm": "grpo", "steps": 5},
        "variants": {
            "row": {"algorithm": "raft"},
            "cell": {"algorithm": {"denominator": "tokens"}},
            "rate": {"optimizer": {"lr": 1e-4}},
        },
    }
    runs = planned(values)
    assert [(run.variant, run.seed) for run in runs] == [
        *(("row", 7), ("cell", 7), ("rate", 7)),
        *(("row", 9), ("cell", 9), ("rate", 9)),
    ]
    row, cell, rate = (run.config for run in runs[:3])
    assert row.algorithm.build().name == "raft"
    assert cell.algorithm.name == "grpo"
    assert cell.algorithm.denominator == "tokens"
    assert rate.optimizer.lr == 1e-4
    assert {run.config.seed for run in runs} == {7, 9}
    assert {run.config.steps for run in runs} == {5}


def test_a_variant_changes_no_other() -> None:
    variants = {"hot": {"sampling": {"temperature": 2.0}}, "plain": {}}
    values = {"study": {"seeds": 1}, "base": {"sampling": {"max_tokens": 5}}, "variants": variants}
    hot, plain = (run.config.sampling for run in planned(values))
    assert (hot.temperature, hot.max_tokens) == (2.0, 5)
    assert (plain.temperature, plain.max_tokens) == (1.0, 5)
    assert values["base"] == {"sampling": {"max_tokens": 5}}


def test_a_list_of_algorithms_is_variants() -> None:
    runs = planned({"study": {"seeds": 1}, "variants": ["raft", "raft++"]})
    assert [run.config.algorithm.name for run in runs] == ["raft", "raft++"]


def test_paths_are_beside_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "study", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "own.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 9)
    (folder / "recipe.toml").write_text('prompts = "own.jsonl"\nreward = "exact"\n')
    path = folder / "s.toml"
    path.write_text('variants = ["raft"]\n[study]\nseeds = 1\n[base]\nrecipe = "recipe.toml"\n')
    monkeypatch.chdir(elsewhere)
    (run,) = planned_runs(read_study(path), folder, deeply=False)
    assert run.config.prompts.source == str(folder / "own.jsonl")
    assert read_study(path).study.name == "s"


VARIANTS: dict[str, Any] = {"variants": ["raft", "grpo"]}
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "variants", "there are none to compare"),
    ({"variants": []}, "variants", "must be from 1 to 1,000"),
    ({"variants": ["raft", "raft"]}, "variants", "named twice"),
    ({"variants": {"../up": {}}}, "variants", "is that of a folder"),
    ({"variants": {"a": 3}}, "variants.a", "must be a table"),
    ({"variants": ["rfat"]}, "algorithm", "unknown algorithm 'rfat'"),
    ({"variants": {"a": {"optimiser": 1}}}, "", "unknown setting 'optimiser'"),
    ({"variants": {"a": {"seed": 1}}}, "seed", "a study gives it to every run"),
    ({"variants": {"a": {"budget": {"samples": 9}}}}, "budget", "a study gives it to every run"),
    ({"variants": {"a": {"eval": {"size": 0}}}}, "eval.size", "by held-out prompts"),
    ({**VARIANTS, "base": {"recipe": "nothing"}}, "recipe", "unknown recipe 'nothing'"),
    ({**VARIANTS, "base": {"recipe": 3}}, "recipe", "must be a str"),
    ({**VARIANTS, "base": {"steps": "x"}}, "steps", "must be an int"),
    ({**VARIANTS, "study": {"name": "../../x"}}, "study.name", "must be the name of a folder"),
    ({**VARIANTS, "study": {"name": ".."}}, "study.name", "must be the name of a folder"),
    ({**VARIANTS, "study": {"name": "/x"}}, "study.name", "must be the name of a folder"),
    ({**VARIANTS, "study": {"seeds": 0}}, "study.seeds", "must be from 1 to 1,000"),
    ({**VARIANTS, "study": {"seeds": [1, 1]}}, "study.seeds", "a seed is named twice"),
    ({**VARIANTS, "study": {"sedes": 1}}, "", "unknown setting 'study.sedes'"),
    ({**VARIANTS, "study": {"metric": "loss"}}, "study.metric", "unknown metric 'loss'"),
    ({**VARIANTS, "study": {"level": 1.0}}, "study.level", "must be from 0.5"),
    ({**VARIANTS, "study": {"reference": "x"}}, "study.reference", "is no variant"),
    (
        {**VARIANTS, "study": {"budget": {"samples": 9, "tokens": 9}}},
        "study",
        "budget has samples and tokens",
    ),
    (
        {**VARIANTS, "study": {"budget": {"samples": 4000}}, "base": {"steps": 5}},
        "steps",
        "5 of them are at most 640 samples, and the budget is 4,000",
    ),
    (  # 3 rounds, two passes over each, of two mini-batches
        {
            "variants": {"a": {"algorithm": {"name": "rft", "epochs": 2}, "steps": 3}},
            "base": {"prompts_per_step": 4, "minibatch_prompts": 2},
            "study": {"budget": {"updates": 13}},
        },
        "steps",
        "3 of them are at most 12 updates, and the budget is 13; set 4 or more",
    ),
    ({**VARIANTS, "runs": 3}, "", "unknown setting 'runs'"),
]


@pytest.mark.parametrize(("values", "setting", "problem"), MISTAKES, ids=str)
def test_a_mistake_is_one_line(values: dict[str, Any], setting: str, problem: str) -> None:
    with pytest.raises(UserError) as raised:
        planned(values)
    said = str(raised.value)
    assert said.startswith(setting)
    assert problem in said
    assert "\n" not in said
    assert raised.value.remedy or "from 1 to" in said or "named twice" in said or "must be" in said


@pytest.mark.parametrize("name", ["my study (2)", "Größe", "a.b", "...", "{x}"])
def test_any_folder_is_a_name(name: str) -> None:
    """It is a file's by default, which is called whatever a person calls it."""
    assert study_of({**VARIANTS}, name).study.name == name


def test_a_mistake_names_its_variant() -> None:
    with pytest.raises(UserError) as raised:
        planned({"variants": {"fine": {}, "off": {"optimizer": {"lr": -1.0}}}})
    assert notes(raised.value) == ["it is in the variant 'off', seed 0"]


def test_restarting_rounds_make_the_updates_of_a_budget() -> None:
    """5 rounds of two mini-batches each: the learning rate begins anew with each."""
    variants = {"a": {"rounds": {"restart": True}, "prompts_per_step": 4, "minibatch_prompts": 2}}
    budget = {"study": {"budget": {"updates": 10}}}
    assert planned({"variants": variants, "base": {"steps": 5}, **budget})


def test_what_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        read_study(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[study\n")
    with pytest.raises(UserError, match="is not valid TOML"):
        read_study(tmp_path / "broken.toml")


def test_pairs_have_the_reference_first() -> None:
    assert variant_pairs(["a", "b", "c"], "b") == [("b", "a"), ("b", "c"), ("a", "c")]
    study = study_of({"variants": ["raft", "grpo"], "study": {"reference": "grpo"}})
    assert isinstance(study, StudyFile)
    assert study.reference == "grpo"


def test_prompts_are_read_once_for_runs_that_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each seed, and for each variant with prompts of its own."""
    read: list[int] = []

    def counted(prompts: Any, evaluation: Any, seed: int) -> PromptSet:
        read.append(seed)
        return load_prompts(prompts, evaluation, seed)

    monkeypatch.setattr(setup, "load_prompts", counted)
    small = {"prompts": {"source": "arithmetic", "size": 50}, "eval": {"size": 5}}
    variants: dict[str, Any] = {"a": {}, "b": {"algorithm": "grpo"}, "c": {"eval": {"size": 6}}}
    base = {"recipe": "arithmetic", **small}
    planned_runs(study_of({"study": {"seeds": 2}, "base": base, "variants": variants}), None)
    assert sorted(read) == [0, 0, 1, 1]
