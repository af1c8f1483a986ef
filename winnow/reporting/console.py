"""The console that everything is printed to: no control character of others gets through it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable

import rich.console
from rich.segment import Segment

from winnow.errors import printable


class Console(rich.console.Console):
    """rich's, except that unprintable characters in what is printed are escaped.

    Notes, errors and tables may hold what a server, a verifier or a model wrote. The sequences that
    rich makes itself, for styles and the progress bar, are no text.
    """

    def render(
        self,
        renderable: rich.console.RenderableType,
        options: rich.console.ConsoleOptions | None = None,
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)

    def tell(self, text: str, style: str | None = None) -> None:
        """Print lines broken at words to fit; a path or a command is not broken."""
        self.print(reflowed(text, columns_of(self)), style=style, soft_wrap=True)


def columns_of(console: rich.console.Console) -> int | None:
    """Columns to fit; ``None``: any, as in a pipe or a file for which COLUMNS says nothing."""
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def reflowed(text: str, width: int | None) -> str:
    """Lines broken at words to fit, the rest further in; a path or a command is not broken."""
    if width is None:
        return text
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent=" " * (len(line) - len(line.lstrip()) + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )
