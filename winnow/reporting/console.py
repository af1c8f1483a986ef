"""The console that everything is printed to: no control character of others gets through it."""

from __future__ import annotations

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
