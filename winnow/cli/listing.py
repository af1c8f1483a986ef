"""Commands that list what there is: algorithms and settings. Heavy imports happen only inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from winnow.cli.completion import algorithm_names
from winnow.cli.completion import settings as completed_settings
from winnow.cli.options import Json, print_json, say
from winnow.errors import UserError, nearest

if TYPE_CHECKING:
    from winnow.algorithms.algorithm import Algorithm

_Row = Annotated[
    str | None,
    typer.Argument(
        help="A row of the table. Default: all of them.", autocompletion=algorithm_names
    ),
]
_Prefix = Annotated[
    str | None,
    typer.Argument(
        help="A table or a key: optimizer, sampling.max_tokens. Default: all.",
        autocompletion=completed_settings,
    ),
]


def algorithms(name: _Row = None, as_json: Json = False) -> None:
    """Print the table of algorithms, or one row in full."""
    from winnow.algorithms.table import ALGORITHMS

    if name is not None:
        _algorithm(name, as_json)
        return
    if as_json:
        print_json([_as_json(row) for row in ALGORITHMS.values()])
        return
    from winnow.cli.render import algorithms_notes, algorithms_table
    from winnow.reporting.console import Console

    console = Console(highlight=False)
    console.print(algorithms_table(console.width), "")
    console.print(algorithms_notes())


def _as_json(row: Algorithm) -> dict[str, Any]:
    return {
        "name": row.name,
        **row.cells(),
        "formula": row.formula,
        "needs": sorted(row.needs),
        "paper": row.paper,
        "note": row.note,
    }


def _algorithm(name: str, as_json: bool) -> None:
    from winnow.algorithms.table import ALGORITHMS
    from winnow.config.validation import settings_read

    if name not in ALGORITHMS:
        raise UserError("", f"unknown algorithm {name!r:.60}", nearest(name, ALGORITHMS))
    row = ALGORITHMS[name]
    read, refused = settings_read(row)
    if as_json:
        print_json({**_as_json(row), "reads": read, "refuses": refused})
        return
    from winnow.cli.render import algorithm_row
    from winnow.reporting.console import Console

    Console(highlight=False, markup=False).print(algorithm_row(row, read, refused))


def settings(prefix: _Prefix = None, as_json: Json = False) -> None:
    """Print every setting as a recipe, with what it does."""
    from winnow.config.schema.describe import describe

    rows = describe()
    if prefix is not None:
        known = rows
        rows = [row for row in known if row["key"] == prefix or row["key"].startswith(f"{prefix}.")]
        rows = rows or [row for row in known if row["key"].startswith(prefix)]
        if not rows:
            raise _unknown(prefix, [row["key"] for row in known])
    if as_json:
        print_json(rows)
        return
    from winnow.cli.render import settings_recipe
    from winnow.reporting.console import Console

    console = Console()
    for line in settings_recipe(rows, console.width if console.is_terminal else None):
        say(line)


def _unknown(prefix: str, keys: list[str]) -> UserError:
    from winnow.config.foreign import hint
    from winnow.config.messages import unknown

    path = prefix.split(".")
    tables = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    if (
        len(path) == 1
        and not hint(path)
        and (near := nearest(prefix, tables)).startswith("did you mean")
    ):
        return UserError("", f"unknown setting {prefix!r:.60}", near)
    return unknown({prefix: path}, keys)


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "algorithms": (algorithms, "Example: winnow algorithms grpo"),
    "settings": (
        settings,
        "Example: winnow settings > mine.toml; winnow train mine.toml. "
        "One table: winnow settings optimizer",
    ),
}
