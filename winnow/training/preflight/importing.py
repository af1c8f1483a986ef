"""Imports libraries in a process of its own: ``python -m winnow...importing NAME...``

An installed library need not work: another's version, a library of the system that is not there.
One that takes the whole process with it takes only this one.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

_LONGEST = 60.0
"""Seconds."""
SLOW = f"not imported after {_LONGEST:g} s"
"""Of one that may work: a busy machine or a slow disk is enough for that."""


def broken(modules: Sequence[str]) -> dict[str, str]:
    """Why some modules cannot be imported; those that can are left out."""
    if not modules:
        return {}
    command = [sys.executable, "-m", __name__, *modules]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LONGEST, check=False)
        told, why = _told(done.stdout), f"importing it ends Python (exit {done.returncode})"
    except subprocess.TimeoutExpired as late:
        told, why = _told(late.stdout or b""), SLOW
    rest = [name for name in modules if name not in told]
    # What comes after the one that ended the process has not been tried.
    return _bad(told) | dict.fromkeys(rest[:1], why) | broken(rest[1:])


def _told(lines: bytes) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for line in lines.decode(errors="replace").splitlines():
        if line.startswith("["):
            name, why = json.loads(line)
            found[name] = why
    return found


def _bad(told: Mapping[str, str | None]) -> dict[str, str]:
    return {name: why for name, why in told.items() if why is not None}


def main(modules: Sequence[str]) -> None:
    """Import each and say, on a line of JSON, why it cannot be, or null."""
    out = os.fdopen(os.dup(1), "w")  # what a library prints goes elsewhere
    os.dup2(2, 1)
    for name in modules:
        why = None
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 (importing runs whatever code the library has)
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        out.write(json.dumps([name, why]) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
