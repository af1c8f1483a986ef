"""`winnow train --ray`: the command on a cluster, and what it prints here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from winnow.engines.devices import launched
from winnow.errors import UserError


def train(
    address: str,
    recipe: str | None,
    sets: Sequence[str],
    out: Path | None,
    resume: Path | None,
    accept_changes: bool,
    tell: Callable[[Any], None] | None,
) -> None:
    """Run `winnow train` on a Ray cluster; ends with its exit code.

    Args:
        out: The folder of the run, unless it is resumed.
        tell: Prints the result, if rank 0 is not to; what that says goes to standard error then.

    Raises:
        UserError: what `engines.factory.launch` raises; settings that are wrong.
        SystemExit: with the exit code of rank 0.
    """
    from winnow.config.recipe import load, load_folder
    from winnow.engines.factory import launch
    from winnow.storage.paths import located
    from winnow.storage.run_folder import RunStore
    from winnow.training.run import result_of

    if launched()[1] > 1:
        raise UserError("--ray", "torchrun has started this process", "start it by itself")
    if resume is not None:
        folder = RunStore.open(located(resume, "resume")).folder
        config = load_folder(folder)
        words = ["train", "--resume", str(resume)]
        words += ["--accept-changes"] if accept_changes else []
    else:
        assert out is not None
        folder, config = located(out, "out"), load(recipe, sets)
        RunStore.refuse(folder)
        words = ["train", *([recipe] if recipe else []), "--out", str(out)]
        words += [word for one in sets for word in ("--set", one)]
    code = launch(
        address, config, words, folder, _shower(sys.stdout if tell is None else sys.stderr)
    )
    if tell is not None and code == 0:
        tell(result_of(folder))
    sys.exit(code)


def _shower(stream: Any) -> Callable[[bytes], None]:
    def show(text: bytes) -> None:
        stream.flush()
        os.write(stream.fileno(), text)

    return show
