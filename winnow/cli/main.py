"""The command line: thin, and quick to answer; heavy imports happen only inside commands."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from winnow import __version__
from winnow.cli import (
    analysis,
    audit,
    cluster,
    coefficients,
    compare,
    doctor,
    listing,
    report,
    samples,
    show,
    upkeep,
)
from winnow.cli.options import (
    Accept,
    CompletionTokens,
    DeviceModel,
    EvalOut,
    Json,
    PromptTokens,
    Ranks,
    Recipe,
    Set,
    TrainOut,
    as_setting,
    only_resuming,
    print_json,
    say,
    unseen,
)
from winnow.cli.scale import Numbers, calculated
from winnow.engines.devices import collector_paused, launched, spin_briefly
from winnow.errors import DiskError, Stopped, UserError, WinnowError, notes

if TYPE_CHECKING:
    from winnow.config.schema import Config
    from winnow.training.run import Result

app = typer.Typer(
    name="winnow",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Click's; some versions of Typer bring a Click of their own."""


@app.callback(invoke_without_command=True, epilog="Example: winnow train")
def winnow(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Post-train language models by keeping their good samples."""
    if version:
        say(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())


@app.command(
    epilog="Example: winnow train --set algorithm=grpo --set steps=20 --out runs/mine. "
    "Every setting: winnow settings."
)
def train(
    recipe: Recipe = None,
    sets: Set = None,
    out: TrainOut = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume this run folder where it stopped.")
    ] = None,
    accept_changes: Accept = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Write nothing: print settings, a prompt as the model sees it, steps, samples, "
            "disk and memory.",
        ),
    ] = False,
    device_model: DeviceModel = None,
    ranks: Ranks = None,
    prompt_tokens: PromptTokens = None,
    completion_tokens: CompletionTokens = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster: HOST:PORT, 'auto' (that of RAY_ADDRESS, or of this "
            "machine), 'local' (one for this run alone).",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sample, score, keep the good samples, learn from them.

    Without a recipe: SmolLM2-135M-Instruct on two-digit addition.
    """
    with collector_paused():
        from winnow.config.recipe import load
        from winnow.reporting.terminal import observing
        from winnow.storage.paths import located, shown
        from winnow.storage.run_folder import RunStore, next_folder
        from winnow.training.run import run

    asked = Numbers(device_model, ranks, prompt_tokens, completion_tokens)
    asked.check(dry_run)
    if dry_run:
        if resume is not None or accept_changes:
            raise UserError("--dry-run", "it is for a run that is new", "leave out --resume")
        if ray is not None:
            raise UserError("--dry-run", "it asks no cluster", "leave out --ray")
        if device_model is None:
            _dry_run(recipe, sets or [], out, as_json)
        else:
            calculated(recipe, sets or [], out, asked, as_json)
        return
    if resume is not None and (recipe is not None or sets or out is not None):
        RunStore.open(located(resume, "resume"))  # first: else no settings are kept
        remedy = (
            "give no recipe, --set or --out, and to make the run longer raise steps in "
            f"{shown(resume)}/config.toml"
        )
        raise UserError("--resume", "a run keeps its settings", remedy)
    config = None
    if resume is None:
        only_resuming(accept_changes)
        config = load(recipe, sets or ())
        out = out or next_folder(_run_name(recipe, config))
    if ray is not None:
        tell = (lambda result: _print_result(result, as_json)) if as_json else None
        cluster.train(ray, recipe, sets or (), out, resume, accept_changes, tell)
    with observing(as_json) as observers:
        result = run(
            config, out=out, resume=resume, observers=observers, accept_changes=accept_changes
        )
    _print_result(result, as_json)


def _print_result(result: Any, as_json: bool) -> None:
    from winnow.storage.paths import shown
    from winnow.storage.sizes import told
    from winnow.training.summary import gain_line

    if as_json:
        print_json(_result_table(result))
        return
    if line := gain_line(result):
        say(f"\n{line}")
    say(f"model:   {shown(result.checkpoint)}")
    say(f"samples: {shown(result.folder / 'rollouts')}")
    say(f"disk:    {told(result.folder)}")
    if result.report is not None:
        say(f"report:  {shown(result.report)}")


def _result_table(result: Result) -> dict[str, Any]:
    return {
        "folder": str(result.folder),
        "checkpoint": str(result.checkpoint),
        "before": result.before,
        "after": result.after,
        "gain": result.gain,
        "gain_low": result.gain_low,
        "gain_high": result.gain_high,
        "tested": result.tested,
        "selected": result.selected,
        "evaluations": result.evaluations,
        "reward_before": result.reward_before,
        "reward_after": result.reward_after,
        "reward_gain": result.reward_gain,
        "reward_gain_low": result.reward_gain_low,
        "reward_gain_high": result.reward_gain_high,
        "last_step": result.metrics[-1],
        "report": None if result.report is None else str(result.report),
    }


def _run_name(recipe: str | None, config: Config) -> str:
    """Of the recipe and its algorithm; of phases each has its own."""
    stem = Path(recipe or "arithmetic").stem
    return stem if config.phases else f"{stem}-{config.algorithm.name}"


def _dry_run(recipe: str | None, sets: list[str], out: Path | None, as_json: bool) -> None:
    from winnow.cli.preview import as_json_table, preview_lines
    from winnow.config.recipe import load
    from winnow.reporting.console import Console
    from winnow.storage.run_folder import next_folder
    from winnow.training.preview import preview

    config = load(recipe, sets)
    folder = out or next_folder(_run_name(recipe, config))
    made = preview(config, out=folder, recipe=recipe, sets=sets)
    if as_json:
        print_json(as_json_table(made))
        return
    for line in preview_lines(made, Console().width):
        say(line)


@app.command(
    name="eval",
    epilog="Example: winnow eval --set model=runs/mine/checkpoints/step-30 --set eval.samples=4. "
    "A whole file: --set eval.source=FILE.jsonl --set eval.size=100000.",
)
def evaluate(
    recipe: Recipe = None, sets: Set = None, out: EvalOut = None, as_json: Json = False
) -> None:
    """Sampled accuracy on held-out prompts.

    Training with the same settings never sees them.
    """
    from dataclasses import asdict

    from winnow.config.recipe import load
    from winnow.evaluation.held_out import run_evaluation
    from winnow.reporting.terminal import observing
    from winnow.storage.paths import located, shown
    from winnow.storage.run_folder import next_folder

    config = load(recipe, sets or ())
    folder = out or next_folder(f"{Path(recipe or 'arithmetic').stem}-eval")
    with observing(as_json) as observers:
        result = run_evaluation(config, out=folder, observers=observers)
    if as_json:
        print_json({"folder": str(located(folder, "out")), **asdict(result)})
    else:
        say(f"samples: {shown(located(folder, 'out') / 'rollouts')}")


for _module in (
    samples,
    show,
    report,
    compare,
    analysis,
    coefficients,
    audit,
    upkeep,
    listing,
    doctor,
):
    for _name, (_function, _example) in _module.COMMANDS.items():
        app.command(name=_name, epilog=_example)(_function)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, never a traceback.

    Of processes that were started together the first runs the command, and the others follow it.
    """
    spin_briefly()
    if (number_and_ranks := launched())[0]:
        from winnow.engines.factory import follow

        code = follow()
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # what torch's groups of processes leave running would abort an ordinary end
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _run()
    finally:
        if number_and_ranks[1] > 1:
            from winnow.engines.factory import dismiss

            dismiss()


def _run() -> None:
    try:
        code = app(prog_name="winnow", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # what it has not taken is known now, not at exit
    except WinnowError as error:
        rest = notes(error)
        if isinstance(error, DiskError) and not rest:
            rest = ["then run the command again"]
        sys.exit(_say("; ".join([str(error), *rest]), error.exit_code))
    except _UsageError as error:
        context: Any = getattr(error, "ctx", None)
        command = context.command_path if context else "winnow"
        message = unseen(str(getattr(error, "format_message", error.__str__)()).rstrip("."))
        meant = as_setting(str(getattr(error, "option_name", "")), message)
        sys.exit(_say(f"{message[:1].lower()}{message[1:]}; {meant}see {command} --help", 2))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_say("stopped", 130))
    except OSError as error:
        if not _stdout_fails():
            raise
        reason = f"cannot write to standard output: {error.strerror}"
        sys.exit(_say(f"{reason}; what is on the disk is whole", DiskError.exit_code))
    sys.exit(_say("stopped", 130) if code == 130 else code if isinstance(code, int) else 0)


def _say(message: str, code: int) -> int:
    """Print why the command ends: one line, in a terminal broken at words; return the exit code."""
    line = f"winnow: {' '.join(message.split())}"
    with suppress(OSError):  # the exit code tells it too
        if sys.stderr is not None and sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        say(line, err=True)
    return _TERMINATED if code == Stopped.exit_code and _terminated.is_set() else code


_TERMINATED = 128 + signal.SIGTERM
_terminated = threading.Event()


def _terminate(*_: object) -> None:
    """SIGTERM stops a run as Ctrl-C does; a second one ends the process at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _terminated.set()
    raise KeyboardInterrupt


def _stdout_fails() -> bool:
    """Whether standard output takes nothing; then it is let go of, so that the exit is quiet."""
    try:
        print(flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False
