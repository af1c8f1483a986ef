"""`winnow doctor`: a check-up of a machine and a recipe."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from winnow.cli.options import Json, Recipe, Set, print_json
from winnow.errors import from_here

if TYPE_CHECKING:
    from winnow.training.preflight.check import Check

_MARKS = {"passed": "ok  ", "warned": "WARN", "failed": "FAIL", "skipped": "-   "}
_STYLES = {"warned": "yellow", "failed": "bold red", "skipped": "dim"}
_LABEL = 18


def doctor(recipe: Recipe = None, sets: Set = None, as_json: Json = False) -> None:
    """Check a machine and a recipe before a run, in about a minute; nothing is written.

    Versions, memory, disk; the model and its special tokens; prompts, verifier; a first sample: is
    there a signal; does the learner agree with the sampler; how long it will take. Without a
    recipe: that of winnow train. The exit code is 2 if a check failed.
    """
    from winnow.config.recipe import load
    from winnow.errors import printable
    from winnow.reporting.console import Console
    from winnow.reporting.observer import Observers
    from winnow.reporting.terminal import Terminal
    from winnow.training.preflight.checkup import checkup

    config, begun = load(recipe, sets or ()), time.monotonic()
    found: list[Check] = []
    if as_json:
        found = list(checkup(config, lambda *_: None, Path("runs")))
        print_json({"failed": _count(found, "failed"), "checks": [vars(one) for one in found]})
    else:
        console = Console(highlight=False, markup=False)
        with Terminal(console) if console.is_terminal else nullcontext() as terminal:
            progress = Observers([terminal] if terminal else []).progress
            for check in checkup(config, progress, Path("runs")):
                found.append(check)
                for line in lines(check, console.width):
                    console.print(line, style=_STYLES.get(check.status), soft_wrap=True)
        console.print(printable(summary(found, time.monotonic() - begun)), soft_wrap=True)
    if _count(found, "failed"):
        raise typer.Exit(2)


def _count(found: list[Check], status: str) -> int:
    return sum(one.status == status for one in found)


def summary(found: list[Check], seconds: float) -> str:
    """How many checks passed, were warned of and failed."""
    counts = Counter(one.status for one in found)
    told = [f"{counts[status]} {status}" for status in ("passed", "warned", "failed", "skipped")]
    return f"{', '.join(told)}; in {seconds:.0f} s"


def lines(check: Check, width: int) -> Iterator[str]:
    """A check and its remedy, broken at words."""
    for text, first in (
        (check.text, f"{_MARKS[check.status]} {check.name:<{_LABEL}} "),
        (check.remedy, f"{'':4} {'':{_LABEL}} -> "),
    ):
        if text:
            yield from textwrap.wrap(
                " ".join(from_here(text).split()),
                width,
                initial_indent=first,
                subsequent_indent=" " * len(first),
                break_on_hyphens=False,
                break_long_words=False,
            )


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "doctor": (doctor, "Example: winnow doctor recipe.toml --set model=Qwen/Qwen2.5-0.5B")
}
