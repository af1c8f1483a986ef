"""The two ways a run can end early, told apart so that the command line can speak plainly."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WinnowError(Exception):
    """Something Winnow noticed and can name. Its message is one line, for a person."""

    exit_code = 1


class UserError(WinnowError):
    """The user can mend this: a wrong key, a missing file, a broken verifier. Exit code 2."""

    exit_code = 2


class Stopped(WinnowError):
    """The user stopped it (Ctrl-C). Exit code 130, as shells have it."""

    exit_code = 130


_SHOWN = 20


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or what there is (the first of it) where nothing is near."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"known: {', '.join(names[:_SHOWN]) or 'none'}{more}"
