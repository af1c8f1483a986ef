"""`winnow coefficients`: what an algorithm's update weighs on a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from winnow.cli.options import Json, print_json, say
from winnow.errors import UserError, nearest

if TYPE_CHECKING:
    from winnow.algorithms.coefficients import Coefficient

_PS, _NS = (0.1, 0.5, 0.9), (8,)


def coefficients(
    rows: Annotated[
        list[str] | None, typer.Argument(help="Rows of the table. Default: all.")
    ] = None,
    p: Annotated[
        list[float] | None,
        typer.Option("--p", help="Success rate of a prompt; repeatable. Default: 0.1, 0.5, 0.9."),
    ] = None,
    n: Annotated[
        list[int] | None, typer.Option("--n", help="Samples a prompt; repeatable. Default: 8.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what an update weighs on a prompt, exactly.

    An update moves the policy along C times the gradient of the success rate p of a prompt. Printed
    are the mean of C and its standard deviation over what can be sampled.
    """
    from dataclasses import asdict

    from winnow.algorithms.coefficients import MOST_SAMPLES, coefficient
    from winnow.algorithms.table import ALGORITHMS
    from winnow.reporting.console import Console

    for name in rows or ():
        if name not in ALGORITHMS:
            raise UserError("ROW", f"unknown algorithm {name!r}", nearest(name, ALGORITHMS))
    for rate in p or ():
        if not 0 < rate < 1:
            raise UserError("--p", f"must be above 0 and below 1 (got {rate})")
    for number in n or ():
        if not 1 <= number <= MOST_SAMPLES:
            raise UserError("--n", f"must be from 1 to {MOST_SAMPLES} (got {number})")
    rates, numbers = list(dict.fromkeys(p or _PS)), list(dict.fromkeys(n or _NS))
    names = list(dict.fromkeys(rows or ALGORITHMS))
    found = {
        (name, number): [coefficient(ALGORITHMS[name], rate, number) for rate in rates]
        for name in names
        for number in numbers
    }
    if as_json:
        print_json([asdict(one) for some in found.values() for one in some])
        return
    for line in _table(found, rates, Console().width):
        say(line)


_NOTE = (
    "mean +- standard deviation of C in an update along C x grad p: of one prompt",
    "with success rate p, completions of one token, rewards of 1 and 0; the first",
    "update after sampling, before optimizer.max_grad_norm",
)


def _table(
    found: Mapping[tuple[str, int], Sequence[Coefficient]], rates: Sequence[float], width: int
) -> list[str]:
    """The lines of the table; columns that do not fit the terminal come below."""
    cells = {
        key: ["" if one.mean is None else _cell(one) for one in some] for key, some in found.items()
    }
    names = max(len(name) for name, _ in found)
    wide = 2 + max(max(map(len, some)) for some in cells.values())
    wide = max(wide, 2 + max(len(_heading(rate)) for rate in rates))
    fit = max(1, (width - names - 5) // wide)
    lines = []
    for first in range(0, len(rates), fit):
        some = rates[first : first + fit]
        lines.append(f"{'row':{names}}  {'n':>3}" + "".join(f"{_heading(p):>{wide}}" for p in some))
        for (name, n), coefficient in found.items():
            shown = "".join(f"{cell:>{wide}}" for cell in cells[name, n][first : first + fit])
            why = coefficient[0].why
            lines.append(f"{name:{names}}  {n:>3}" + (f"  -  ({why})" if why else shown))
        lines.append("")
    return [*lines, *_NOTE]


def _heading(p: float) -> str:
    return f"p = {p:g}"


def _cell(one: Coefficient) -> str:
    assert one.mean is not None
    assert one.variance is not None
    return f"{one.mean:.3f} +- {one.variance**0.5:.3f}"


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "coefficients": (
        coefficients,
        "Example: winnow coefficients grpo raft --p 0.1 --p 0.5 --n 4 --n 16",
    ),
}
