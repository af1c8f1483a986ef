"""Functions that text names by module or by file."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import pytest

from winnow import user_code
from winnow.algorithms.registry import RULES
from winnow.algorithms.spec import parse, show
from winnow.errors import UserError
from winnow.rewards.factory import make_reward
from winnow.types import Prompt, Score


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that holds none of the files, and an import path that is put back."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    return tmp_path


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_file_is_its_module(here: Path) -> None:
    """Imported by name or by file it is one module, and what lies beside it can be imported."""
    write(here / "a b" / "uc_one.py", "from uc_helper import word\ndef f(): return word")
    write(here / "a b" / "uc_helper.py", "word = 'beside'")
    module = user_code.import_file("../a b/uc_one.py")
    assert module.f() == "beside"
    assert module is sys.modules["uc_one"]
    assert user_code.import_file(str(here / "a b" / "uc_one.py")) is module


def test_two_files_of_one_name(here: Path) -> None:
    write(here / "a" / "uc_same.py", "def f(): return 'a'")
    write(here / "b" / "uc_same.py", "def f(): return 'b'")
    made = [user_code.import_file(str(here / x / "uc_same.py")) for x in "aba"]
    assert [module.f() for module in made] == ["a", "b", "a"]
    assert made[0] is made[2]
    for x, module in zip("ab", made, strict=False):
        name = user_code.named(module.f.__module__, "f")
        assert name == f"{here / x / 'uc_same.py'}:f"


@pytest.mark.parametrize("name", ["random", "json", "this"])
def test_a_file_named_as_a_module_of_python(here: Path, name: str) -> None:
    """The file is read, and Python's module stays what it is: `this` nobody imported before."""
    write(here / "a" / f"{name}.py", "def f(): return 'mine'")
    assert user_code.import_file(str(here / "a" / f"{name}.py")).f() == "mine"
    assert random.random() < 1
    assert json.dumps([]) == "[]"
    assert not hasattr(sys.modules.get("this"), "f")


def test_a_file_of_a_package(here: Path) -> None:
    write(here / "uc_package" / "__init__.py", "")
    write(here / "uc_package" / "inner" / "__init__.py", "from .one import f")
    file = write(here / "uc_package" / "inner" / "one.py", "from ..two import x\ndef f(): return x")
    write(here / "uc_package" / "two.py", "x = 2")
    assert user_code.import_file(str(file)).f() == 2
    assert user_code.in_folder("uc_package.inner.one:f", str(here)) == f"{file}:f"
    package = here / "uc_package" / "inner" / "__init__.py"
    assert user_code.in_folder("uc_package.inner:f", str(here)) == f"{package}:f"
    assert user_code.import_file(str(package)).__name__ == "uc_package.inner"


def test_what_is_in_a_folder(here: Path) -> None:
    file = write(here / "uc_there.py", "")
    write(here / "loose" / "uc_below.py", "")
    for text, found in (
        ("uc_there:f", f"{file}:f"),
        ("uc_there:Class.f", f"{file}:Class.f"),
        ("uc_there.py:f", f"{file}:f"),
        ("work/../uc_there.py:f", f"{file}:f"),
        ("uc_not_there:f", None),
        ("uc_not_there.py:f", None),
        ("loose.uc_below:f", None),  # not a package, so the file does not tell the name
        ("loose/uc_below.py:f", f"{here / 'loose' / 'uc_below.py'}:f"),
        ("uc_there:outer.<locals>.f", None),
        ("uc_there", None),
        ("clipped(low=0.2)", None),
    ):
        assert user_code.in_folder(text, str(here)) == found, text


def test_a_module_that_breaks_is_no_module(here: Path) -> None:
    write(here / "a" / "uc_broken.py", "x = 1")
    user_code.import_file(str(here / "a" / "uc_broken.py"))
    broken = write(here / "b" / "uc_broken.py", "raise RuntimeError('no')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no"):
            user_code.import_file(str(broken))


def test_a_cell_of_a_file(here: Path) -> None:
    """It is shown as what reads it back from every folder."""
    file = write(here / "a" / "uc_rules.py", "def rule(group, alive, rng): return alive")
    rule = parse("select", "../a/uc_rules.py:rule", RULES)
    assert show(rule) == f"{file}:rule"
    os.chdir(here)
    assert parse("select", show(rule), RULES) == rule
    with pytest.raises(UserError, match=r"there is no file uc_none\.py$"):
        parse("select", "uc_none.py:rule", RULES)
    with pytest.raises(UserError, match="has no attribute 'rul'"):
        parse("select", "a/uc_rules.py:rul", RULES)


def test_a_reward_of_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker imports it, and what lies beside it; nothing is imported here."""
    file = write(
        here / "a" / "uc_reward.py",
        "from uc_length import length\ndef score(prompt, completion): return length(completion)",
    )
    write(here / "a" / "uc_length.py", "def length(text): return len(text)")
    write(here / "work" / "uc_length.py", "raise RuntimeError('not the one beside the file')")
    for named in ("../a/uc_reward.py:score", f"{file}:score"):
        reward = make_reward(named, workers=1)
        try:
            assert reward.score([(Prompt("p", "", None), "four")]) == [Score(4.0)]
        finally:
            reward.close()
    assert "uc_reward" not in sys.modules
    monkeypatch.setenv("HOME", str(here))
    make_reward("~/a/uc_reward.py:score", workers=1).close()
    with pytest.raises(UserError, match=r"^reward: no file \.\./a/none\.py in "):
        make_reward("../a/none.py:score")
    with pytest.raises(UserError, match="has no 'scor': did you mean 'score'"):
        make_reward("../a/uc_reward.py:scor")


@pytest.mark.parametrize("cells", ["b", "a b", "b a"])
def test_what_a_reward_imports_lies_beside_it_whatever_cells_were_imported(
    here: Path, cells: str
) -> None:
    """The worker has this path, in which the folder of the reward comes last where a cell is in
    it too."""
    for x in "ab":
        write(here / x / "uc_value.py", f"value = {float(ord(x))}")
        write(here / x / f"uc_cell_{x}.py", "def rule(group, alive, rng): return alive")
    score = "import uc_value\ndef score(prompt, completion): return uc_value.value"
    write(here / "a" / "uc_beside.py", score)
    for x in cells.split():
        user_code.import_file(str(here / x / f"uc_cell_{x}.py"))
    reward = make_reward(f"{here / 'a' / 'uc_beside.py'}:score", workers=1)
    try:
        assert reward.score([(Prompt("p", "", None), "")]) == [Score(float(ord("a")))]
    finally:
        reward.close()
