"""Options that several commands have, and how they print."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from winnow.cli.completion import recipe_names, set_keys
from winnow.errors import UserError, printable

Recipe = Annotated[
    str | None,
    typer.Argument(
        help="A TOML file or a built-in recipe: arithmetic, gsm8k, llama2, llama-3b, qwen-7b.",
        autocompletion=recipe_names,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting; may be repeated. KEY= restores its default.",
        autocompletion=set_keys,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]
_NEXT = "Run folder. Default: runs/NAME-{}-001, -002, ..."
TrainOut = Annotated[Path | None, typer.Option(help=_NEXT.format("ALGORITHM"))]
EvalOut = Annotated[Path | None, typer.Option(help=_NEXT.format("eval"))]
Accept = Annotated[
    bool,
    typer.Option("--accept-changes", help="Resume though settings or data have changed."),
]
DeviceModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="With --dry-run: calculate what it takes on such GPUs (a100, h100, h200); neither the "
        "model nor the prompts need be here.",
    ),
]
Ranks = Annotated[
    int | None,
    typer.Option(min=1, max=100_000, help="With --device-model: processes that learn. Default: 1."),
]
PromptTokens = Annotated[
    int | None,
    typer.Option(min=1, max=10**6, help="With --device-model: tokens of a prompt. Default: 256."),
]
CompletionTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10**6,
        help="With --device-model: tokens of a completion, on average. Default: the most.",
    ),
]
Samples = Annotated[
    list[str], typer.Argument(help="Parquet files, or folders: of winnow sample, of a run.")
]
Form = Annotated[
    str,
    typer.Option(help="Lines of a .jsonl file: auto, messages, prompt-completion or preference."),
]


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise UserError("--right-at", f"must be a finite number (got {value})")
    return value


RightAt = Annotated[
    float | None,
    typer.Option(
        callback=_finite, help="From this reward on a sample is right. Default: as recorded."
    ),
]
Pool = Annotated[bool, typer.Option("--pool", help="Treat samples of several models as one set.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Random seed, for ties and subsampling.")
]


def say(text: str, *, err: bool = False) -> None:
    """Print a text for a person; what is unprintable, as in the name of a file, is escaped."""
    typer.echo(printable(text), err=err)


def print_json(value: Any) -> None:
    """A result for a program to read; JSON escapes all that is unprintable but DEL."""
    typer.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


def print_json_line(value: Any) -> None:
    """One of many results, a line each; a number that JSON cannot hold is null."""
    try:
        line = json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        line = json.dumps(_without_nan(value), default=str)
    typer.echo(line.replace("\x7f", "\\u007f"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return [_without_nan(each) for each in value] if isinstance(value, list) else value


def unseen(message: str) -> str:
    """A usage error without the arguments that are too many: one may be a key to a server."""
    kind, _, _ = message.partition(" (")
    return kind if kind.startswith("Got unexpected extra argument") else message


def only_resuming(accept_changes: bool) -> None:
    """Raise a `UserError` if changes are accepted of what is new."""
    if accept_changes:
        raise UserError("--accept-changes", "it is for what is resumed", "give --resume with it")


def form_of(form: str) -> Any:
    """The form of a .jsonl file, checked."""
    from winnow.rollouts.export import check_form

    check_form(form, "--form")
    return form


def as_setting(option: str, message: str) -> str:
    """What an option that does not exist is as a setting, here or of another trainer, if it is one.

    Args:
        message: Of the usage error about it; what is near to an option that exists is a typo.
    """
    if not message.lower().startswith("no such option") or not option.startswith("--"):
        return ""
    from winnow.config.foreign import hint
    from winnow.config.schema.describe import describe

    name = option[2:].replace("-", "_")
    keys = [row["key"] for row in describe()]
    if name in keys:
        return f"a setting is given as --set {name}=VALUE; "
    found = hint([name])
    return f"{found}; settings are given as --set KEY=VALUE; " if found else ""
