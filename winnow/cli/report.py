"""Commands that show what happened in runs. Heavy imports happen only inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from winnow.cli.options import say

_Runs = Annotated[list[Path], typer.Argument(help="Run folders; several are shown side by side.")]
_Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]


def report(
    runs: _Runs,
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file. Default: RUN/report.html; of several comparison.html."),
    ] = None,
    open_it: _Open = False,
) -> None:
    """Write the page of a run: verdict, curves, samples.

    One HTML file that needs no network. Every run writes its own at its end.
    """
    from winnow.storage.paths import shown
    from winnow.training.report import write_report

    path = write_report(runs, out)
    say(f"report:  {shown(path)}")
    if open_it:
        import webbrowser

        webbrowser.open(path.as_uri())


def watch(
    runs: _Runs,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0: any that is free.")
    ] = 8400,
    open_it: _Open = False,
) -> None:
    """Serve the page of a run while it goes on.

    To this machine alone. Ends with Ctrl-C; the run goes on without it.
    """
    from contextlib import suppress

    from winnow.reporting.page.server import Watched, serve
    from winnow.training.report import opened, served_blocks, served_of

    def ready(address: str) -> None:
        say(f"watch:   {address} (Ctrl-C ends this, not the run)")
        if open_it:
            import webbrowser

            webbrowser.open(address)

    folders = [opened(run) for run in runs]
    with suppress(KeyboardInterrupt):
        serve(Watched(folders, served_of, served_blocks), port, ready)


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "report": (report, "Example: winnow report runs/mine --open"),
    "watch": (watch, "Example: winnow watch runs/mine --port 8400"),
}
