"""What a study that is run shows of its runs: the last lines of their logs as they are."""

from __future__ import annotations

import pytest

from winnow.reporting.study_terminal import StudyTerminal


@pytest.mark.parametrize(
    "line", ["a seed 0 failed: no token [/INST] in it", "pip install '.[lora]' in your clone"]
)
def test_what_a_run_said_is_no_markup(capsys: pytest.CaptureFixture[str], line: str) -> None:
    StudyTerminal().note(line)
    assert capsys.readouterr().err == f"{line}\n"


def test_what_a_run_said_is_broken_at_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    StudyTerminal().note("raft seed 0 failed: " + "its reward answers with text " * 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 40
