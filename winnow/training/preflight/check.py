"""What a check says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from winnow.errors import UserError, WinnowError, notes

Status = Literal["passed", "warned", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        status: `failed` where a run cannot be right or will not get through; `skipped` where it
            does not apply or was not tried, which `text` explains.
        remedy: What to do; empty where there is nothing to do.
    """

    name: str
    status: Status
    text: str
    remedy: str = ""


def passed(name: str, text: str) -> Check:
    """A check without a finding."""
    return Check(name, "passed", text)


def warned(name: str, text: str, remedy: str) -> Check:
    """What may be meant, and mostly is not."""
    return Check(name, "warned", text, remedy)


def failed(name: str, text: str, remedy: str = "") -> Check:
    """What ruins a run."""
    return Check(name, "failed", text, remedy)


def skipped(name: str, text: str, remedy: str = "") -> Check:
    """What was not looked at, and why."""
    return Check(name, "skipped", text, remedy)


def failing(name: str, error: WinnowError) -> Check:
    """An error as a failed check."""
    text, remedy = str(error), ""
    if isinstance(error, UserError):
        text = f"{error.setting}: {error.problem}" if error.setting else error.problem
        remedy = error.remedy
    return failed(name, "; ".join([text, *notes(error)]), remedy)


def guarded(name: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """The checks as they are made; an error ends them as one that failed."""
    try:
        yield from checks()
    except WinnowError as error:
        yield failing(name, error)
