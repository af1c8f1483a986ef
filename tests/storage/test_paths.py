"""A path is one place, whoever gives it and from wherever it is read again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests.fake_engine import Engine
from tests.training.test_fake_engine import SETTINGS, files
from winnow.config.located import located_config
from winnow.config.schema import from_dict
from winnow.engines import factory
from winnow.errors import UserError
from winnow.storage.paths import located, paths_of, shown


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and another folder to work in."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_a_path(home: Path) -> None:
    work = home.parent / "work"
    for given, found in (
        ("~/x", home / "x"),
        ("x/../y", work / "y"),
        (Path("x"), work / "x"),
        ("/x", Path("/x")),
    ):
        assert located(given, "out") == found
    assert [shown(work / "x"), shown(home / "x")] == ["x", str(home / "x")]
    assert paths_of(["~/x", "y"]) == [home / "x", Path("y")]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("~nobody-of-this-name/x", r"^out: cannot find '~nobody-of-this-name/x': "),
        (os.fsdecode(b"x\xff"), r"^out: b'x\\xff' is not in UTF-8; give it another name$"),
        ("x\0y", r"^out: cannot find 'x\\x00y': "),
    ],
)
def test_a_path_that_is_none(home: Path, given: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        located(given, "out")
    with pytest.raises(UserError):
        paths_of(given, "out")


def test_a_run_is_in_one_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is resumed from another folder, its settings given as `~` and as relative paths."""
    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))
    names = files(Path())
    (home / "rows.jsonl").write_bytes(Path(names["prompts"]).read_bytes())
    given: dict[str, Any] = {**SETTINGS, "steps": 2, "model": names["model"], "quiet": True}
    folder = winnow.train(**given, prompts="~/rows.jsonl", out="~/run").folder
    work = Path.cwd()
    assert folder == home / "run"
    assert sorted(os.listdir()) == ["model", "prompts.jsonl"]
    settings = tomllib.loads((folder / "config.toml").read_text())
    assert settings["model"] == str(work / "model")
    assert settings["prompts"]["source"] == str(home / "rows.jsonl")
    monkeypatch.chdir(home.parent)
    assert winnow.train(resume="~/run", quiet=True).folder == folder


def test_settings_that_name_what_is_there(home: Path) -> None:
    for name in ("there", "arithmetic", "number", "smollm2-135m", "start"):
        Path(name).touch()
    for key, value, found in (
        ("model", "there", "there"),
        ("model", "owner/name", None),
        ("model", "smollm2-135m", None),
        ("reference", "start", None),
        ("samples_file", "there", "there"),
        ("prompts", {"source": "there"}, "there"),
        ("prompts", {"source": "arithmetic"}, None),
        ("reward", {"name": "model:there"}, "there"),
        ("reward", {"name": "number"}, None),
        ("anchor", {"source": "there"}, "there"),
    ):
        config = located_config(from_dict({key: value}))
        made = json.dumps(config.model_dump(include={key}))
        assert (str(Path.cwd()) in made) is (found is not None), key
    phases = [{"algorithm": "rft", "samples_file": "there", "steps": 1}]
    config = located_config(from_dict({"phases": phases}))
    assert config.phases[0]["samples_file"] == str(Path("there").absolute())


@pytest.mark.parametrize("odd", [5, None, b"run", ["run"]])
def test_what_is_no_path(odd: Any) -> None:
    with pytest.raises(UserError, match=r"^out: .* is no path; give it as text"):
        located(odd, "out")


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os; os.rmdir(os.getcwd()); from winnow.cli.main import main; main()"
    for command in (["train", "--out", "x"], ["sample"], ["eval"], ["train", "--resume", "x"]):
        gone.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=gone,
            env={**os.environ, "PYTHONPATH": str(Path(winnow.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "the working folder is gone; change to a folder that is there" in done.stderr
