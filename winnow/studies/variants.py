"""A study's runs: for every variant and seed the config of an ordinary run, checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from winnow.config.located import beside_recipe, located_config, naming_places
from winnow.config.phases import phases_of
from winnow.config.recipe import load, merge, values_of
from winnow.config.schema import Config, from_dict
from winnow.errors import UserError
from winnow.prompts.loading import PromptSet
from winnow.storage.paths import located
from winnow.studies.schema import StudyFile
from winnow.training.file_source import open_file
from winnow.training.forecast import work
from winnow.training.setup import plan

_STUDYS = ("seed", "budget", "threads")
"""Settings that the study gives every run."""


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Attributes:
        values: Its settings, as its config.toml will have them.
    """

    variant: str
    seed: int
    config: Config
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """For a person: `raft++ seed 3`."""
        return f"{self.variant} seed {self.seed}"

    @property
    def place(self) -> Path:
        """Of its folder within the study's `runs`."""
        return Path(self.variant) / f"seed-{self.seed}"

    @property
    def text(self) -> str:
        """Its recipe."""
        return tomli_w.dumps(self.values)


def threads_of(study: StudyFile) -> int:
    """Threads of each run."""
    return study.study.threads or max(1, (os.cpu_count() or 1) // study.study.parallel)


def planned_runs(study: StudyFile, folder: Path | None, *, deeply: bool = True) -> list[Planned]:
    """Every run of a study, seed after seed, so that a study cut short has whole seeds.

    Args:
        folder: Of the STUDY.toml: what it names by a relative path is looked for there first.
        deeply: Read prompts and check all that `winnow train` checks before it loads a model.

    Raises:
        UserError: whatever is wrong with one of them.
    """
    runs = {}
    read: dict[str, PromptSet] = {}
    for name in study.variants:
        for seed in study.study.seeds:
            runs[name, seed] = _planned(study, name, seed, folder, read if deeply else None)
    _check_budget(study, [runs[name, study.study.seeds[0]] for name in study.variants])
    return [runs[name, seed] for seed in study.study.seeds for name in study.variants]


def _planned(
    study: StudyFile,
    name: str,
    seed: int,
    folder: Path | None,
    read: dict[str, PromptSet] | None,
) -> Planned:
    """One run.

    Args:
        read: Prompts that were read for other runs, to which its own are added; ``None``: none are
            read.
    """
    try:
        values = _settings(study, name, folder)
        recipe = values.pop("recipe", None)
        values["seed"], values["threads"] = seed, threads_of(study)
        if study.study.budget.limits:
            values["budget"] = dict(study.study.budget.limits)
        config = from_dict(values) if recipe is None else load(_beside(recipe, folder), over=values)
        config = located_config(config)
        _check_evaluated(config)
        with naming_places(config):
            phases_of(config, None, open_file)
            resolved = values_of(config) if read is None else _checked(config, read)
    except UserError as error:
        error.add_note(f"it is in the variant {name!r}, seed {seed}")
        raise
    return Planned(name, seed, config, resolved)


def _checked(config: Config, read: dict[str, PromptSet]) -> dict[str, Any]:
    """The settings of a run, resolved, when all that needs no model is checked."""
    key = json.dumps(
        [config.seed, config.samples_file, config.prompts.model_dump(), config.eval.model_dump()]
    )
    found = plan(config, known=read.get(key))
    if config.samples_file is None and not config.phases:
        read[key] = found.prompts
    return found.values


def _settings(study: StudyFile, name: str, folder: Path | None) -> dict[str, Any]:
    """The settings of a variant over those of the base."""
    values: dict[str, Any] = {}
    for own in (study.base, study.variants[name]):
        for key in _STUDYS:
            if key in own:
                said = {"seed": "seeds"}.get(key, key)
                raise UserError(key, "a study gives it to every run", f"set study.{said}")
        own = deepcopy(own)  # `merge` writes into the tables that it is given
        merge(values, beside_recipe(own, folder) if folder is not None else own)
    if not isinstance(values.get("recipe", ""), str):
        raise UserError("recipe", "must be a str", "name a recipe or a TOML file")
    return values


def _beside(recipe: str, folder: Path | None) -> str:
    """A recipe's file beside the study, if it is there; else the name as it is."""
    if folder is not None and Path(recipe).suffix == ".toml" and (folder / recipe).is_file():
        return str(located(folder / recipe, "recipe"))
    return recipe


def _check_evaluated(config: Config) -> None:
    if config.eval.size == 0:
        problem = "variants are compared by held-out prompts"
        raise UserError("eval.size", problem, "set it above 0, or leave it out")


def _check_budget(study: StudyFile, runs: list[Planned]) -> None:
    """Raise a `UserError` where `steps` ends a variant before the budget: it would not be held."""
    limits = study.study.budget.limits
    for run in runs if limits else ():
        (phase,) = phases_of(run.config, None, open_file)
        found = work(run.config, [phase], 0, 0)
        most = {"samples": found.samples, "updates": found.updates}
        of_file = "algorithm.epochs", phase.algorithm.epochs
        setting, now = ("steps", run.config.steps) if phase.file is None else of_file
        for kind in limits.keys() & most.keys():
            if most[kind] < limits[kind]:
                problem = f"{now} of them are at most {most[kind]:,} {kind}, and the budget is "
                needed = -(-int(limits[kind]) * now // most[kind])
                error = UserError(
                    setting, f"{problem}{limits[kind]:,.10g}", f"set {needed} or more"
                )
                error.add_note(f"it is in the variant {run.variant!r}")
                raise error
