"""Winnow's errors: one line each, with an exit code for the command line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence


class WinnowError(Exception):
    """A problem that Winnow can name. Its message is one line, for a person."""

    exit_code = 1


class UserError(WinnowError):
    """The user can fix this: a wrong key, a missing file, a broken verifier. Exit code 2.

    Code that knows more, such as the phase it happened in, raises it `with_` another part, or adds
    a note (PEP 678), which the command line prints too. No code edits its text.

    Attributes:
        setting: The full key of a setting, or an option; empty where it is about neither.
        problem: What was wrong, and where.
        remedy: What to do about it; empty where the problem says so.
    """

    exit_code = 2

    def __init__(self, setting: str, problem: str, remedy: str = "") -> None:
        super().__init__(setting, problem, remedy)  # pickled and copied by these
        self.setting, self.problem, self.remedy = setting, problem, remedy

    def __str__(self) -> str:
        setting = f"{self.setting}: " if self.setting else ""
        return from_here(f"{setting}{self.problem}{f'; {self.remedy}' if self.remedy else ''}")

    def with_(self, *, setting: str | None = None, remedy: str | None = None) -> UserError:
        """The same error with another setting or remedy, and the same notes."""
        setting = self.setting if setting is None else setting
        made = type(self)(setting, self.problem, self.remedy if remedy is None else remedy)
        for note in notes(self):
            made.add_note(note)
        return made


class OwnCodeError(UserError):
    """A user's function raised, or returned what cannot be used. What is on the disk stays."""


class DiskError(WinnowError):
    """The disk is full or cannot be written to. Exit code 74, EX_IOERR of sysexits.h."""

    exit_code = 74


class NoServer(WinnowError):
    """Nothing is left that samples. Exit code 1; a run ends after a checkpoint."""


class Stopped(WinnowError):
    """The user stopped the run (Ctrl-C). Exit code 130, as shells have it."""

    exit_code = 130


class StoppedByAlarm(WinnowError):
    """An alarm that the user chose ended the run, after a checkpoint. Exit code 3."""

    exit_code = 3


def from_here(text: str) -> str:
    """A text for a person, with paths in the working folder as they are seen from it."""
    try:
        here = os.path.join(os.getcwd(), "")
    except OSError:  # it is not there any more
        return text
    return text if here == os.sep else text.replace(here, "")


def no_file(path: str) -> str:
    """A problem: there is no such file; of a relative path, also where it was looked for."""
    here = "" if os.path.isabs(os.path.expanduser(path)) else f" in {os.path.abspath('.')}"
    return f"no file {path}{here}"


def notes(error: BaseException) -> list[str]:
    """The notes that were added to an error with `add_note`."""
    return list(getattr(error, "__notes__", ()))


def printable(text: str) -> str:
    """A text for a terminal: its lines and tabs, all else that is unprintable escaped.

    What a server, a verifier or a model wrote may hold sequences that move the cursor or change
    colors and titles.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text
    )


def install_extra(extra: str) -> str:
    """A remedy: how to get the libraries of an extra."""
    return f"pip install '.[{extra}]' in your clone of Winnow"


def number_of(count: int, what: str, several: str | None = None) -> str:
    """`1 error`, `2 errors`; `several` where the plural has more than an s."""
    return f"{count} {what if count == 1 else several or what + 's'}"


def choices(known: Sequence[str]) -> str:
    """A remedy: `use a, b or c`."""
    *most, last = known
    return f"use {', '.join(most)} or {last}"


_SHOWN = 20


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy: `did you mean 'x'?`, or the first known names where none is near.

    Case aside: `GRPO` is near to `grpo`.
    """
    names = list(known)
    folded = {name.casefold(): name for name in reversed(names)}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"available: {', '.join(names[:_SHOWN]) or 'none'}{more}"
