"""Options that several commands have, and how they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Recipe = Annotated[
    str | None,
    typer.Argument(help="A TOML file or a built-in recipe: arithmetic, gsm8k, llama2."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting; may be repeated. KEY= puts it back to its default.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
Out = Annotated[Path | None, typer.Option(help="Run folder. Default: runs/NAME-001, -002, ...")]


def print_json(value: Any) -> None:
    """A result for a program to read."""
    typer.echo(json.dumps(value, indent=2))
