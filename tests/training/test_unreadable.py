"""What a user may not read is named, and nothing is moved, made anew or taken for damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests.closed import closed
from tests.kills import KillAt
from tests.reporting.page.test_html import Parsed
from tests.training.faked import settings, trained
from winnow.config.recipe import load
from winnow.config.schema import from_dict
from winnow.engines.models.loading import resolve
from winnow.errors import UserError
from winnow.rollouts.look import Look
from winnow.rollouts.look_filters import Filters
from winnow.rollouts.select import select
from winnow.training.cleaning import clean
from winnow.training.report import write_report
from winnow.training.run import run
from winnow.training.scale.shapes import shape_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose last checkpoint is that of step 2 of 4, and the settings it was begun with."""
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        given = settings(place, patch)
        folder = trained(given, place / "run")
        shutil.rmtree(folder / "checkpoints/step-4")
        yield folder, given


@pytest.fixture
def folder(whole: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    """What a run cannot make again for nothing."""
    files = [*folder.glob("rollouts/*"), *folder.glob("checkpoints/*/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


CLEANED = ("checkpoints", "checkpoints/step-2", "checkpoints/step-2/state.json")
CLEANED = (*CLEANED, "checkpoints/step-2/logits.json", "metrics.jsonl", "evals.jsonl")


@pytest.mark.parametrize("name", [*CLEANED, "inputs.json", "rollouts/train-000003.parquet"])
def test_a_run_is_left_as_it_is(folder: Path, name: str) -> None:
    before = contents(folder)
    says = rf"cannot read {folder / name}(/state\.json)?: Permission denied$"
    with closed(folder / name):
        with pytest.raises(UserError, match=says):
            run(resume=folder, observers=KillAt())
        if name in CLEANED:
            with pytest.raises(UserError, match=says):
                clean(folder, ("leftover", "checkpoint", "optimizer"), delete=True)
    assert contents(folder) == before
    run(resume=folder, observers=KillAt())


def test_closed_samples_are_not_made_anew(whole: Any, tmp_path: Path) -> None:
    keys = ("model", "prompts", "reward", "sampling", "seed")
    given = {key: whole[1][key] for key in keys if key in whole[1]}
    folder = winnow.sample(n=4, out=tmp_path / "samples", quiet=True, **given).folder
    for name in ("samples", "samples/part-00001.parquet", "journal.jsonl"):
        with (
            closed(folder / name),
            pytest.raises(UserError, match=rf"cannot read {folder / name}: Permission denied$"),
        ):
            winnow.sample(resume=folder, quiet=True)
    assert winnow.sample(resume=folder, quiet=True).sampled.made == 0


def test_one_closed_file_of_many_is_told(folder: Path, tmp_path: Path) -> None:
    name = folder / "rollouts/train-000002.parquet"
    with closed(name):
        look = Look(folder, Filters())
        page = write_report([folder], tmp_path / "x.html").read_text()
        with pytest.raises(UserError, match=rf"^samples: cannot read {name}: Permission denied$"):
            select([folder], ["everything"], out=[tmp_path / "x.parquet"])
    assert look.notes == [f"cannot read {name}: Permission denied; it is left out"]
    head = Parsed(page).unpacked("head")["runs"][0]
    assert "train-000002.parquet" in head["verdict"][-1]["text"]


DOORS: dict[str, Callable[[Path], object]] = {
    "resume": lambda path: winnow.train(resume=path, quiet=True),
    "resume samples": lambda path: winnow.sample(resume=path, quiet=True),
    "folder": winnow.load_run,
    "RUN": lambda path: clean(path, ("leftover",), delete=True),
    "run": lambda path: write_report([path]),
    "samples": lambda path: Look(path, Filters()),
    "samples of select": lambda path: select([path], ["everything"], out=[path.parent / "x.jsonl"]),
    "samples of best of n": lambda path: winnow.best_of(path, quiet=True),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_path_that_cannot_be_looked_at(folder: Path, door: str) -> None:
    says = rf"^{door.split()[0]}: cannot read "
    with (
        closed(folder.parent),
        pytest.raises(UserError, match=rf"{says}{folder}.*: Permission denied$"),
    ):
        DOORS[door](folder)
    with pytest.raises(UserError, match=rf"{says}.*: File name too long$"):
        DOORS[door](folder / ("x" * 300))


def test_a_file_of_samples_that_cannot_be_looked_at(whole: Any, folder: Path) -> None:
    offline = {**whole[1], "algorithm": "rft", "steps": 1, "samples_file": str(folder)}
    says = rf"^samples_file: cannot read {folder}: Permission denied$"
    with closed(folder.parent), pytest.raises(UserError, match=says):
        run(from_dict(offline), out=whole[0].parent / "new", observers=KillAt())


def test_a_recipe_of_a_long_name() -> None:
    with pytest.raises(UserError, match=r"^recipe: unknown recipe 'x+'; available: "):
        load("x" * 300)


def test_a_model_that_is_closed(tmp_path: Path) -> None:
    for look in (resolve, shape_of):
        says = rf"^model: cannot read {tmp_path}/config\.json: Permission denied$"
        with closed(tmp_path), pytest.raises(UserError, match=says):
            look(str(tmp_path))
