"""docs/extending.md: each block that needs no model is run, and prints what is below it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import winnow
from tests.build import group, with_advantages
from winnow.algorithms.denominators import Totals
from winnow.cli import main

PAGE = (Path(__file__).parent.parent / "docs/extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
TRAINS = "winnow.train("
BLOCKS = [(code, printed) for code, printed in BLOCK.findall(PAGE) if TRAINS not in code]


def defined(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "block.py", "exec"), names)
    return names


def test_all_are_here_but_the_one_that_trains() -> None:
    assert len(BLOCKS) == PAGE.count("```python") - 1 == 7
    assert sum(bool(printed) for _, printed in BLOCKS) == 5


@pytest.mark.parametrize(("code", "printed"), BLOCKS, ids=range(len(BLOCKS)))
def test_a_block(code, printed, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(code.strip().splitlines()) <= 16
    defined(code)
    assert capsys.readouterr().out == printed


def block(name: str) -> dict[str, Any]:
    (code,) = [code for code, _ in BLOCKS if f"def {name}(" in code]
    return defined(code)


def test_what_the_functions_do(capsys) -> None:
    """As each says of itself."""
    made = group([1] * 6, lengths=[1, 2, 3, 200, 201, 300], texts=["a", "b", "c?", "d", "e", "f"])
    (got,) = with_advantages([made], block("short_and_finished")["mine"])
    assert [o.reason for o in got.outcomes] == [
        "survived",
        "survived",
        "rejected by lambda in block.py:8",
        "survived",
        "rejected by short_and_finished",
        "rejected by short_and_finished",
    ]
    (got,) = with_advantages([made], block("half")["mine"])
    assert len(got.survivors) == 3
    ranked = block("ranked")["ranked"](np.array([3.0, 1.0, 2.0, 0.0, 9.0]))
    assert ranked.tolist() == [0.5, -0.5, 0, -1, 1]
    loss = block("soft_clipped")["soft_clipped"]
    logp = torch.zeros(2, requires_grad=True)
    loss(logp, torch.zeros(2), torch.tensor([1.0, -2.0])).sum().backward()
    assert logp.grad is not None
    assert logp.grad.tolist() == [-1, 2]  # at the policy that sampled, the policy gradient
    means = block("root_means")["root_means"]
    assert means(16, 1, Totals(1, 1, 2, 1, 1)) == 1 / 8
    close = block("close")["close"]
    assert [close(winnow.Prompt("p", "q", "4"), text) for text in ("4", "x", "40")] == [1, 0, 0]


def test_the_message_is_the_one_that_is_printed(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    defined(next(code for code, _ in BLOCKS if "sums.parquet" in code))
    Path("rules.py").write_text("def tidy(sample):\n    return sample.txt == ''\n")
    arguments = ["winnow", "select", "sums.parquet", "--rule", "rules.py:tidy"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("winnow: rules.py:tidy: the rule raised AttributeError")
    assert said in PAGE
