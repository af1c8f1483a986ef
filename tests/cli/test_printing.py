"""What the command line prints for a person cannot steer a terminal."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import winnow.cli
from winnow.cli import main
from winnow.cli.options import print_json
from winnow.errors import DiskError

NAME = "a\x1b[2J\x1b]0;title\x07b\x7f\x9b"
SHOWN = r"a\x1b[2J\x1b]0;title\x07b\x7f\x9b"
PRINT = ("say", "print_json", "print_json_line")
SMALL = ("device=cpu", "reward=exact", "samples_per_prompt=2", "sampling.max_tokens=4")


def test_the_name_of_a_file_is_escaped(tiny_model, tmp_path, monkeypatch, capsys) -> None:
    """Where it is an output, in notes and in errors."""
    monkeypatch.chdir(tmp_path)

    def said(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["winnow", *words])
        with pytest.raises(SystemExit) as end:
            main.main()
        shown = capsys.readouterr()
        assert end.value.code == code, shown
        text: str = shown.out + shown.err
        assert text.replace("\n", "").isprintable(), text
        return text

    settings = (f"model={tiny_model}", "prompts.size=8", "eval.size=2", *SMALL)
    sets = [word for setting in settings for word in ("--set", setting)]
    assert f"samples: {SHOWN}\n" in said("sample", *sets, "--out", NAME)
    assert f"samples: {SHOWN}2/rollouts\n" in said("eval", *sets, "--out", f"{NAME}2")
    out = f"{NAME}.parquet"
    assert f"written:  {SHOWN}.parquet\n" in said(
        "select", NAME, "--rule", "everything", "--out", out
    )
    assert f"out: {SHOWN} exists already" in said("sample", *sets, "--out", NAME, code=2)
    assert Path(NAME).is_dir()
    assert Path(out).is_file()


@pytest.mark.parametrize(
    ("note", "then"), [("", "then run the command again"), ("then resume", "then resume")]
)
def test_a_full_disk_says_what_is_next(note: str, then: str, monkeypatch: Any, capsys: Any) -> None:
    error = DiskError("cannot write x: full; make room")
    if note:
        error.add_note(note)

    def full(**_: Any) -> None:
        raise error

    monkeypatch.setattr(main, "app", full)
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 74
    assert capsys.readouterr().err == f"winnow: cannot write x: full; make room; {then}\n"


def test_json_is_printable_and_the_same(capsys: Any) -> None:
    print_json({"folder": NAME})
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out) == {"folder": NAME}


def test_there_is_one_place_that_prints() -> None:
    """A console escapes too; what is printed around both would not."""
    for path in Path(winnow.cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name not in PRINT:
                assert "typer.echo" not in ast.unparse(node), (path.name, node.name)
