"""Runs command lines, each in a fork of one process: imports are paid for once.

stdin: [{"args": [...], "cwd": "..."}], stdout: [{"code": 2, "out": "...", "err": "..."}], in JSON.
What the first fork finds imported, later ones do too, but none what another imported.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from tempfile import TemporaryFile
from typing import IO

COMMON = (
    *("winnow.cli.main", "winnow.config.recipe", "winnow.reporting.terminal"),
    *("winnow.training.run", "winnow.evaluation.held_out", "winnow.rollouts.collect"),
)


def run(args: list[str], cwd: str) -> dict[str, object]:
    """One command line: its exit code and what it printed."""
    with TemporaryFile() as out, TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            become(args, cwd, out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {"code": code, "out": text(out), "err": text(err)}


def become(args: list[str], cwd: str, out: IO[bytes], err: IO[bytes]) -> None:
    """Be `python -m winnow ARGS` in a folder; never returns."""
    code = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        os.chdir(cwd)
        sys.path[0], sys.argv = cwd, ["winnow", *args]
        sys.modules["winnow.cli.main"].main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 (as an interpreter would)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


if __name__ == "__main__":
    for module in COMMON:
        import_module(module)
    print(json.dumps([run(each["args"], each["cwd"]) for each in json.load(sys.stdin)]))
