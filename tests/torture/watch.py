"""Tells a hang from something slow: nothing here takes as long as that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def ends(what: Callable[[], T], seconds: float = 300.0) -> T:
    """What it returns or raises; an `AssertionError` if it hangs."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((what(), None))
        except BaseException as error:  # noqa: BLE001 (it is raised below)
            done.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert done, f"it hangs: not done after {seconds:g} s"
    value, error = done[0]
    if error is not None:
        raise error
    result: T = value
    return result
