"""`winnow clean`: room on the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from winnow.cli.options import Json, print_json, say


def clean(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN")],
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Old checkpoints and leftovers alone.")
    ] = False,
    optimizer: Annotated[
        bool,
        typer.Option(
            "--optimizer", help="Optimizer's states of runs that are done, and leftovers, alone."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete it; else it is only listed.")] = False,
    as_json: Json = False,
) -> None:
    """List what run folders can do without; --yes deletes it.

    What a killed process left and checkpoints that were damaged and set aside; checkpoints that are
    neither the newest nor the best; the optimizer's states of a run that is done, which cannot be
    made longer without. Never samples, metrics, settings or the model that a run ends with.
    """
    from winnow.storage.cleaning import Kind
    from winnow.storage.paths import shown
    from winnow.storage.sizes import human, measured
    from winnow.training.cleaning import clean as found_in

    both = checkpoints == optimizer
    kinds: list[Kind] = ["leftover"]
    kinds += ["checkpoint"] if checkpoints or both else []
    kinds += ["optimizer"] if optimizer or both else []
    each: dict[str, Path] = {}
    for run in runs:
        each.setdefault(os.path.realpath(run), run)
    told, total = [], 0
    for run in each.values():
        found = found_in(run, kinds, delete=yes)
        size = sum(one.size for one in found)
        total += size
        told += [{**vars(one), "path": str(one.path), "run": str(run)} for one in found]
        if as_json:
            continue
        for one in found:
            say(f"{human(one.size):>7}  {shown(one.path)}\n         {one.why}")
        if not found:
            say(f"nothing to delete in {shown(run)}")
        elif yes:
            say(f"deleted {human(size)} of {shown(run)}, which has {human(measured(run))}")
    if as_json:
        print_json({"deleted": yes, "bytes": total, "found": told})
    elif told and not yes:
        say(f"{human(total)} in all; nothing is deleted without --yes")


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "clean": (clean, "Example: winnow clean runs/* --optimizer --yes")
}
