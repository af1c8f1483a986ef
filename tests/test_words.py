"""What users read is in the field's words, not in those that this project once used for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from winnow.cli import main

HERE = Path(__file__).parent.parent
BANNED = re.compile(
    r"\b(?:an?|the|each|every|one|per|this|of|by|first|last) draws?\b"
    r"|\b(?:sieve[sd]?|sift(?:s|ed|ing)?|lots|by lot|fates?|stems?|dear part|mend(?:s|ed|ing)?)\b"
    r"|\bgo(?:es|ing)? on with\b|\b(?:is|are) none of\b|\(whole number\)|\(text\)|\boptimiser",
    re.IGNORECASE,
)
COMMANDS = [None, *sorted(c.name or c.callback.__name__ for c in main.app.registered_commands)]


def found(text: str) -> list[str]:
    return [match.group() for match in BANNED.finditer(" ".join(text.split()))]


def strings(path: Path) -> Iterator[str]:
    """Docstrings and what may become a message; an f-string with `x` for what it fills in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else "x" for v in node.values]
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


PAGES = [*HERE.glob("*.md"), *HERE.glob("docs/*.md"), *HERE.glob("examples/**/*.md")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(HERE)))
def test_a_page(path):
    text = re.sub(r"`[^`\n]+`", "`code`", path.read_text(encoding="utf-8"))  # old names of settings
    assert found(text) == []


BRITISH = re.compile(
    r"\b\w*(?:normalis|standardis|regularis|tokenis|optimis|recognis|initialis|summaris)\w*\b(?!\()"
    r"|\b(?:colour|behaviour|favour|labelled|modelled|judgement)\w*",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(HERE)))
def test_a_page_is_in_american_english(path):
    """Names of settings, commands and cells, which are code, aside."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(
        r"^ *```.*?^ *```|`[^`\n]+`|\]\([^)]+\)", "", text, flags=re.MULTILINE | re.DOTALL
    )
    assert BRITISH.findall(text) == []
    assert BRITISH.findall("regularised, Tokenising, colours") == [
        "regularised",
        "Tokenising",
        "colours",
    ]


def test_messages_and_docstrings():
    told = {path: found(" | ".join(strings(path))) for path in (HERE / "winnow").rglob("*.py")}
    assert {str(path): words for path, words in told.items() if words} == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    output = CliRunner().invoke(main.app, [command, "--help"] if command else ["--help"]).output
    assert "Usage" in output
    assert found(output) == []


@pytest.mark.parametrize("command", ["settings", "algorithms"])
def test_what_is_listed(command):
    assert found(CliRunner().invoke(main.app, [command]).output) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("samples are sieved by lot", ["sieved", "by lot"]),
        ("The draw\nwas lost. Draw from it; a\ndraw", ["The draw", "a draw"]),
        (
            "Go on with it: 'x' is none of them (whole number)",
            ["Go on with", "is none of", "(whole number)"],
        ),
        ("systems, lottery, amended, stemming, sample, optimizer", []),
    ],
)
def test_the_words_are_found(text, words):
    assert found(text) == words
