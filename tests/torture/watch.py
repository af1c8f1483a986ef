"""Tells a hang from something slow: nothing here takes as long as that."""

from __future__ import annotations

import signal
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def modest(most_bytes: int, seconds: float, timer: int = signal.ITIMER_REAL) -> Iterator[None]:
    """In the block, little memory, and an end: a hang is a failure, not a quiet hour.

    Args:
        most_bytes: That Python may hold at a time.
        seconds: Of the timer: `ITIMER_REAL`, the clock's, or `ITIMER_VIRTUAL`, the processor's.
    """

    def hung(*_: Any) -> None:
        raise AssertionError(f"it hangs: {seconds:g} s are gone")

    number = {signal.ITIMER_REAL: signal.SIGALRM, signal.ITIMER_VIRTUAL: signal.SIGVTALRM}[timer]
    before = signal.signal(number, hung)
    signal.setitimer(timer, seconds)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most_bytes
    finally:
        tracemalloc.stop()
        signal.setitimer(timer, 0)
        signal.signal(number, before)
