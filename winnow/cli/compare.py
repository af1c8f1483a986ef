"""`winnow compare`: a study over seeds. Heavy imports happen only inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from winnow.cli.options import Json, print_json, say
from winnow.errors import UserError, number_of


def compare(
    study: Annotated[
        Path, typer.Argument(help="A STUDY.toml, or the folder of a study that was begun.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study. Default: studies/NAME.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing: print what would run, and how long.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Resume a study, and begin none; the same command alone resumes too."
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="From a study that was run: seeds that a difference needs."),
    ] = False,
    difference: Annotated[
        float | None, typer.Option(help="With --plan: of the metric, to be found, e.g. 0.02.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare variants over seeds: intervals that hold, verdicts that claim no more.

    Every variant is trained with every seed, each run in a folder of
    its own. What was stopped or killed, the same command resumes.
    """
    from winnow.studies.running import FailedRuns, opened, run_study

    ways = {"--plan": plan, "--dry-run": dry_run, "--resume": resume}
    given = [option for option, asked in ways.items() if asked]
    if len(given) > 1:
        raise UserError(given[1], f"it does not go with {given[0]}", "give one of them")
    if plan:
        _plan(study, out, difference, as_json)
        return
    if difference is not None:
        raise UserError("--difference", "it is for --plan", "give --plan with it")
    if dry_run:
        _dry_run(study, out, as_json)
        return
    if resume:
        from winnow.studies.running import study_folder
        from winnow.studies.runs import STUDY

        folder = study_folder(study, out, opened(study)[0])
        if not (folder / STUDY).is_file():
            problem = f"no study was begun in {folder}"
            raise UserError("--resume", problem, "leave it out to begin one")
    made = run_study(study, out, quiet=as_json)
    if as_json:
        print_json({"folder": str(made.folder), "failed": list(made.failed), **made.result})
    else:
        from winnow.cli.compare_table import comparison_lines
        from winnow.storage.paths import shown

        for line in comparison_lines(made.result):
            say(line)
        say(f"\npage:    {shown(made.page)}\nruns:    {shown(made.folder / 'runs')}")
    if made.failed:
        some = "; ".join(made.failed[:3])
        more = f"; and {len(made.failed) - 3} more" if len(made.failed) > 3 else ""
        failed = number_of(len(made.failed), "run")
        raise FailedRuns(f"{failed} failed: {some}{more}; fix it and run it again")


def _plan(study: Path, out: Path | None, difference: float | None, as_json: bool) -> None:
    from dataclasses import asdict

    from winnow.cli.compare_table import plan_lines
    from winnow.studies.planning import plan_study
    from winnow.studies.running import opened, study_folder

    if difference is None:
        problem = "it says how many seeds a difference needs"
        raise UserError("--plan", problem, "give --difference 0.02 (of the metric) with it")
    made = plan_study(study, difference, study_folder(study, out, opened(study)[0]))
    if as_json:
        print_json(asdict(made))
        return
    for line in plan_lines(made):
        say(line)


def _dry_run(study: Path, out: Path | None, as_json: bool) -> None:
    from dataclasses import asdict

    from winnow.cli.compare_table import preview_lines
    from winnow.studies.preview import preview_study

    made = preview_study(study, out)
    if as_json:
        print_json(asdict(made))
        return
    for line in preview_lines(made):
        say(line)


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "compare": (compare, "Example: winnow compare STUDY.toml --out studies/mine"),
}
