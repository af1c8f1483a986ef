"""What a run sets for its whole process, and the state in which it finds it: the caller's.

A library is run in the middle of somebody's program. What that has set in torch must not change a
run, and what a run sets is set back.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any


class _Changed(threading.local):
    """What this thread's runs have set for the whole process: each sets one thing back."""

    def __init__(self) -> None:
        self.back: list[Callable[[], object]] = []


_changed = _Changed()


@contextmanager
def own_state() -> Iterator[None]:
    """In the block, torch is as when it is imported, whatever its caller has set; then as before.

    Where the caller has turned gradients off, a run would go on and learn nothing; autocast and
    defaults of data type and device would change what it computes.
    """
    mark = len(_changed.back)
    with ExitStack() as stack:
        if sys.modules.get("torch"):  # else nobody has set anything
            _reset(stack)
        try:
            yield
        finally:
            while len(_changed.back) > mark:
                _changed.back.pop()()


def _reset(stack: ExitStack) -> None:
    import torch

    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    if torch.get_default_device().type != "cpu":
        stack.enter_context(torch.device("cpu"))
    if (dtype := torch.get_default_dtype()) != torch.float32:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)


_taken: tuple[int, int] | None = None
"""The CPU threads that torch had, and those that settings gave it instead."""


def take_threads(number: int) -> None:
    """Have torch compute with so many CPU threads, in the block of `own_state` where there is one.

    0 is its own choice, whatever a run before asked; a number that the caller has set since stays.
    """
    import torch

    global _taken
    now = torch.get_num_threads()
    own = now if _taken is None or _taken[1] != now else _taken[0]
    wanted = number or own
    if wanted != now:
        _changed.back.append(partial(_give_back, now, _taken))
        torch.set_num_threads(wanted)
    _taken = own, wanted


def _give_back(number: int, taken: tuple[int, int] | None) -> None:
    """Have torch compute with the threads of before, of which a number of before is remembered."""
    import torch

    global _taken
    torch.set_num_threads(number)
    _taken = taken


def quiet_transformers() -> None:
    """Have transformers print errors alone, in the block of `own_state` where there is one."""
    from transformers.utils import logging as their_logging

    logging: Any = their_logging
    if (level := logging.get_verbosity()) != logging.ERROR:
        _changed.back.append(partial(logging.set_verbosity, level))
        logging.set_verbosity_error()
    if logging.is_progress_bar_enabled():
        _changed.back.append(logging.enable_progress_bar)
        logging.disable_progress_bar()
