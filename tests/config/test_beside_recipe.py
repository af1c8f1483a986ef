"""What a recipe names by a relative path lies beside it, wherever a run is begun and resumed."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import Engine
from tests.kills import KillAt, Killed
from tests.training.test_fake_engine import ROWS
from winnow.cli import main
from winnow.config.recipe import load
from winnow.engines import factory
from winnow.reporting.observer import Observers
from winnow.training.run import run

RECIPE = """
model = "weights"
prompts = "prompts.jsonl"
reward = "br_rewards:score"
algorithm = { name = "rloo", select = "br_cells:every" }
prompts_per_step = 6
samples_per_prompt = 8
minibatch_prompts = 3
steps = 4
[sampling]
max_tokens = 4
[optimizer]
lr = 2.0
[eval]
source = "data/eval.jsonl"
size = 4
[checkpoint]
every = 2
"""
REWARDS = """
from br_words import wanted
def score(prompt, completion):
    return float(completion.strip() == wanted)
"""
CELLS = "def every(group, alive, rng): return [None] * len(alive)"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with all that it names beside it; the working folder is another, and empty."""
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name in ("project/weights", "project/data", "work", "third"):
        (tmp_path / name).mkdir(parents=True)
    folder = tmp_path / "project"
    (folder / "weights" / "logits.json").write_text(json.dumps([0.0] * 10))
    rows = [json.dumps(row) + "\n" for row in ROWS]
    (folder / "prompts.jsonl").write_text("".join(rows))
    held_out = [json.dumps({"prompt": f"held out {i}", "answer": "7"}) + "\n" for i in range(4)]
    (folder / "data" / "eval.jsonl").write_text("".join(held_out))
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "br_rewards.py").write_text(REWARDS)
    (folder / "br_words.py").write_text("wanted = '7'")
    (folder / "br_cells.py").write_text(CELLS)
    monkeypatch.chdir(tmp_path / "work")
    for name in ("br_cells", "br_rewards", "br_words"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "config.toml").read_text())


def commanded(monkeypatch: pytest.MonkeyPatch, capsys: Any, *given: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["winnow", *given])
    with pytest.raises(SystemExit) as left:
        main.main()
    return int(left.value.code or 0), capsys.readouterr().err.strip()


class KillInStep(KillAt):
    """Dies when step 3 samples: the checkpoint of step 2 is there."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 3

    def progress(self, stage: str, done: int, total: int) -> None:
        self.left -= stage == "score" and done == 0
        if not self.left:
            raise Killed


def test_a_run_is_resumed_from_a_third_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path.cwd()
    with pytest.raises(Killed):
        run(load("../project/recipe.toml"), out=Path("run"), observers=KillInStep())
    made = settings(work / "run")
    assert made["model"] == str(project / "weights")
    assert made["prompts"]["source"] == str(project / "prompts.jsonl")
    assert made["eval"]["source"] == str(project / "data" / "eval.jsonl")
    assert made["reward"]["name"] == f"{project / 'br_rewards.py'}:score"
    assert made["algorithm"]["select"] == [f"{project / 'br_cells.py'}:every"]
    # another process: it has imported nothing, and its folder is on no import path
    for name in ("br_cells", "br_rewards", "br_words"):
        sys.modules.pop(name, None)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if str(project) not in p])
    monkeypatch.chdir(project.parent / "third")
    result = run(resume=work / "run", observers=Observers())
    assert len(result.metrics) == 4
    assert result.after is not None
    assert [row["errors"] for row in result.metrics] == [0] * 4
    assert settings(work / "run") == made


def test_which_of_two_files(project: Path) -> None:
    """The recipe's before the working folder's, for what the recipe names; `--set` means here."""
    recipe, work = "../project/recipe.toml", Path.cwd()
    for name in ("prompts.jsonl", "br_rewards.py", "br_cells.py"):
        (work / name).write_text("")
    config = load(recipe)
    assert config.prompts.source == str(project / "prompts.jsonl")
    assert config.reward.name == f"{project / 'br_rewards.py'}:score"
    assert config.algorithm.select == [f"{project / 'br_cells.py'}:every"]
    config = load(recipe, ["prompts.source=prompts.jsonl", "reward=br_rewards.py:score"])
    assert config.prompts.source == "prompts.jsonl"
    assert config.reward.name == "br_rewards.py:score"
    config = load(recipe, over={"eval": {"source": "mine.jsonl"}, "reward": "br_rewards:f"})
    assert (config.eval.source, config.reward.name) == ("mine.jsonl", "br_rewards:f")
    for name in ("prompts.jsonl", "br_rewards.py", "br_cells.py"):
        (project / name).unlink()
    config = load(recipe)  # as in a recipe without anything beside it
    assert config.prompts.source == "prompts.jsonl"
    assert config.reward.name == "br_rewards:score"
    assert config.algorithm.select == ["br_cells:every"]
    assert not config.beside


def test_every_setting_that_names_a_file(project: Path) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        (project / name).mkdir()
    (project / "all.toml").write_text(
        """
        model = "a"
        samples_from = "b"
        samples_file = "c"
        reference = "d"
        [anchor]
        source = "e"
        [reward]
        name = "model:f"
        [algorithm]
        advantage = "br_cells:every"
        kl = "br_cells.py:every"
        loss = "nll"
        """
    )
    config = load(str(project / "all.toml"))
    found = [config.model, config.samples_from, config.samples_file, config.reference]
    assert found == [str(project / name) for name in "abcd"]
    assert config.anchor.source == str(project / "e")
    assert config.reward.name == f"model:{project / 'f'}"
    cell = f"{project / 'br_cells.py'}:every"
    assert (config.algorithm.advantage, config.algorithm.kl) == (cell, cell)
    assert config.algorithm.loss == "nll"


def test_in_phases(project: Path) -> None:
    (project / "samples").mkdir()
    (project / "phased.toml").write_text(
        """
        [[phases]]
        algorithm = { name = "rft", select = ["correct", "br_cells:every"] }
        samples_file = "samples"
        anchor = { source = "prompts.jsonl" }
        [[phases]]
        algorithm = "dpo"
        reference = "start"
        samples_file = "not-there"
        """
    )
    config = load("../project/phased.toml")
    first, second = config.phases
    assert first["samples_file"] == str(project / "samples")
    assert first["anchor"]["source"] == str(project / "prompts.jsonl")
    assert first["algorithm"]["select"] == ["correct", f"{project / 'br_cells.py'}:every"]
    assert second == {"algorithm": "dpo", "reference": "start", "samples_file": "not-there"}
    assert config.beside == {"phases.2.samples_file": str(project)}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('prompts = "none.jsonl"', "prompts.source: no file none.jsonl"),
        ('samples_file = "none"', "samples_file: no file or folder none"),
        ('eval = { source = "none.parquet" }', "eval.source: no file none.parquet"),
        ('reward = "br_none.py:f"', "reward: no file br_none.py"),
        ('reward = "br_none:f"', "No module named 'br_none'"),
        ('algorithm.advantage = "br_none:f"', "No module named 'br_none'"),
    ],
)
def test_a_message_names_both_places(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, line: str, says: str
) -> None:
    (project / "wrong.toml").write_text(f'model = "weights"\n{line}\n')
    code, said = commanded(monkeypatch, capsys, "train", "../project/wrong.toml")
    assert code == 2
    assert says in said
    places = f"; looked in the recipe's folder, {project}, and in {Path.cwd()}"
    if f"{says} in " in said:
        places = f" in {Path.cwd()}; nor in the recipe's folder, {project}"
    assert said.endswith(places)
    key, _, value = line.partition(" = ")
    if value.startswith('"'):  # from the command line it is looked for here alone
        monkeypatch.setenv("COLUMNS", "200")
        given = f"{key}={value.strip(chr(34))}"
        code, said = commanded(
            monkeypatch, capsys, "train", "../project/recipe.toml", "--set", given
        )
        assert code == 2
        assert "looked in" not in said
    monkeypatch.chdir(project)  # where both are one
    assert "looked in" not in commanded(monkeypatch, capsys, "train", "wrong.toml")[1]


@pytest.mark.parametrize("command", ["eval", "sample"])
def test_other_commands_do_too(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: str
) -> None:
    (project / "wrong.toml").write_text('prompts = "none.jsonl"\n')
    code, said = commanded(monkeypatch, capsys, command, "../project/wrong.toml")
    assert code == 2
    assert said.endswith(f"none.jsonl in {Path.cwd()}; nor in the recipe's folder, {project}")


def test_a_module_of_the_working_folder_is_found_on_resuming(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given with `--set`: the run folder has the file."""
    monkeypatch.chdir(project)
    sets = ["reward=br_rewards:score", "algorithm.select=br_cells:every"]
    with pytest.raises(Killed):
        run(load("recipe.toml", sets), out=Path("run"), observers=KillInStep())
    assert settings(project / "run")["reward"]["name"] == f"{project / 'br_rewards.py'}:score"
    sys.modules.pop("br_cells", None)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if str(project) not in p])
    monkeypatch.chdir(project.parent / "third")
    assert len(run(resume=project / "run", observers=Observers()).metrics) == 4


def test_a_folder_of_an_earlier_version(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has modules by name, and is resumed from the folder in which they are."""
    monkeypatch.chdir(project)
    with pytest.raises(Killed):
        run(load("recipe.toml"), out=Path("run"), observers=KillInStep())
    for name in ("config.toml", "inputs.json"):
        text = (project / "run" / name).read_text()
        for module in ("br_rewards", "br_cells"):
            assert f"{project}/{module}.py:" in text
            text = text.replace(f"{project}/{module}.py:", f"{module}:")
        if name == "inputs.json":  # which had no digest of itself
            told = json.loads(text)
            del told["sha256_of_this"]
            text = json.dumps(told)
        (project / "run" / name).write_text(text)
    sys.modules.pop("br_cells", None)
    monkeypatch.setattr("winnow.user_code._FOLDERS", set())  # as in a new process
    assert len(run(resume=Path("run"), observers=Observers()).metrics) == 4
    assert settings(project / "run")["reward"]["name"] == "br_rewards:score"
