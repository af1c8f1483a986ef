"""What a server, a verifier or a model wrote reaches the terminal without control characters."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

import winnow
from winnow.cli import main
from winnow.errors import UserError, printable
from winnow.reporting.console import Console
from winnow.reporting.events import Note, StageProgress
from winnow.reporting.observer import Observer, Observers
from winnow.reporting.terminal import Terminal

BAD = "\x1b[31mred\x1b]0;title\x07 \r\x9b2J\u202e\x00"
ESCAPED = r"\x1b[31mred\x1b]0;title\x07 \r\x9b2J\u202e\x00"


def test_what_is_printable_stays() -> None:
    text = "ein Wort, 中文, é, 🙂\n\ttab"
    assert printable(text) == text
    assert printable(BAD) == ESCAPED


def written(what: Any, **how: Any) -> str:
    file = io.StringIO()
    Console(file=file, highlight=False, markup=False, **how).print(what, soft_wrap=True)
    return file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_texts_notes_and_cells(terminal: bool) -> None:
    table = Table(BAD)
    table.add_row(BAD)
    file = io.StringIO()
    observer = Terminal(Console(file=file, highlight=False, markup=False, force_terminal=terminal))
    observer.on_note(Note(BAD))
    texts = (written(BAD, force_terminal=terminal), written(table, width=200), file.getvalue())
    for text in texts:
        assert r"\x1b[31mred\x1b]0;" in text
        assert not set(text) & set("\x00\x07\r\x9b\u202e")
        assert "\x1b]" not in text
        assert "\x1b[31m" not in text


def test_styles_and_the_bar_are_richs_own() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, highlight=False, markup=False)
    console.print("note", style="bold")
    assert file.getvalue() == "\x1b[1mnote\x1b[0m\n"
    with Terminal(console) as terminal:
        terminal.on_progress(StageProgress("sam\x1b[31mple", 1, 2))
        terminal._bar.refresh()
    assert "\x1b[31mple" not in file.getvalue()
    assert "\x1b[?25l" in file.getvalue()  # the cursor is hidden beside a bar


def test_the_last_line_of_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: Any) -> None:
        error = UserError("engine.url", f"said {BAD}")
        error.add_note(BAD)
        raise error

    monkeypatch.setattr(main, "app", fails)
    with pytest.raises(SystemExit):
        main.main()
    said = capsys.readouterr().err
    assert said.rstrip("\n").isprintable()
    assert said.startswith(r"winnow: engine.url: said \x1b[31mred")


def test_what_is_said_of_an_observer(capsys: pytest.CaptureFixture[str]) -> None:
    class Fails(Observer):
        def on_note(self, note: Note) -> None:
            raise ValueError(BAD)

    Observers([Fails()]).on_note(Note("x"))
    assert capsys.readouterr().err.rstrip("\n").isprintable()


def test_there_is_one_console() -> None:
    files = Path(winnow.__file__).parent.rglob("*.py")
    named = [path.name for path in files if "rich.console" in path.read_text(encoding="utf-8")]
    assert named == ["console.py"]
    assert "rich" in sys.modules


def test_what_is_told_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """At words, a path whole; in a pipe a line stays a line."""
    monkeypatch.delenv("COLUMNS", raising=False)
    text = "a note of many words " * 8 + "/a/path/" + "x" * 90
    for terminal in (True, False):
        file = io.StringIO()
        Console(file=file, force_terminal=terminal, width=80, color_system=None).tell(text)
        lines = file.getvalue().splitlines()
        if terminal:
            assert max(map(len, lines[:-1])) <= 80
            assert lines[-1] == "  /a/path/" + "x" * 90
            assert " ".join(line.strip() for line in lines) == text
        else:
            assert lines == [text]
