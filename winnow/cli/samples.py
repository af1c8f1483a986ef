"""Commands that make files of samples and select from them. Heavy imports happen only inside."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from winnow.cli.options import (
    Accept,
    Form,
    Json,
    Pool,
    Recipe,
    RightAt,
    Samples,
    Seed,
    Set,
    form_of,
    only_resuming,
    print_json,
    say,
)
from winnow.errors import UserError

if TYPE_CHECKING:
    from winnow.rewards.given import RewardGiven

_Folder = Annotated[
    Path | None, typer.Option(help="Folder for the samples. Default: runs/NAME-sample-001.")
]


def sample(
    recipe: Recipe = None,
    sets: Set = None,
    out: _Folder = None,
    resume: Annotated[
        Path | None, typer.Option(help="Resume this folder where it stopped.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Sample for the held-out prompts instead.")
    ] = False,
    accept_changes: Accept = False,
    as_json: Json = False,
) -> None:
    """Sample completions, score them, keep them all.

    Nothing is trained. A kill loses nothing: --resume samples what is missing.
    Samples come from the model in this process, or with engine.sampler=openai from any
    OpenAI-compatible server (engine.url).
    """
    from dataclasses import asdict

    from winnow.config.recipe import load
    from winnow.reporting.terminal import observing
    from winnow.rollouts.collect import resume_sample, run_sample
    from winnow.storage.paths import located, shown
    from winnow.storage.run_folder import next_folder
    from winnow.storage.sample_folder import Journal

    with observing(as_json) as observers:
        if resume is not None:
            if recipe is not None or sets or out is not None or held_out:
                Journal.check(located(resume, "resume"))  # first: else no settings are kept
                remedy = (
                    "give no recipe, --set, --out or --held-out, and for more samples raise "
                    f"samples_per_prompt in {shown(resume)}/config.toml"
                )
                raise UserError("--resume", "a folder keeps its settings", remedy)
            result = resume_sample(resume, observers=observers, accept_changes=accept_changes)
        else:
            only_resuming(accept_changes)
            config = load(recipe, sets or ())
            folder = out or next_folder(f"{Path(recipe or 'arithmetic').stem}-sample")
            result = run_sample(config, out=folder, held_out=held_out, observers=observers)
    if as_json:
        print_json({"folder": str(result.folder), **asdict(result.sampled)})
        return
    say(str(result))


def select(
    samples: Samples,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="A rule; repeatable, each sees what is left. Default: correct."),
    ] = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="A .parquet or .jsonl file to write; repeatable.")
    ] = None,
    form: Form = "auto",
    prompts: Annotated[
        Path | None,
        typer.Option(help="A .jsonl file for the prompts that have survivors, with pass_rate."),
    ] = None,
    control: Annotated[
        bool,
        typer.Option("--control", help="Write as many of all prompts beside it, at random."),
    ] = False,
    rejected: Annotated[
        bool,
        typer.Option("--rejected", help="Write rejected samples to Parquet too, with reasons."),
    ] = False,
    rescore: Annotated[
        str | None,
        typer.Option(help="Score all samples with this reward first, or with a TOML list of them."),
    ] = None,
    options: Annotated[str, typer.Option("--reward-options", help="Its options, as JSON.")] = "{}",
    right_at: RightAt = None,
    pool: Pool = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Decide which samples survive, and why.

    Rules: correct, best(4), distinct (by reasoning path), distinct-text, mixed, drop-all-wrong,
    drop-all-right, length(low=1, high=200), at-most(4), band(0.2, 0.8), gibbs(beta=0.5,
    r_max=1), rso(beta=0.5, k=8), everything, as-recorded, or module:function.
    """
    from winnow.cli.render import selection_report
    from winnow.rollouts.outputs import written
    from winnow.rollouts.select import select as select_samples

    selected = select_samples(
        list(samples),
        rule or ["correct"],
        out=list(out or ()),
        form=form_of(form),
        rejected=rejected,
        prompts=prompts,
        control=control,
        rescore_with=None if rescore is None else _reward(rescore),
        reward_options=_json_table("--reward-options", options),
        right_at=right_at,
        pool=pool,
        seed=seed,
        quiet=as_json,
    )
    if as_json:
        print_json(
            {
                "samples": selected.samples,
                "prompts": selected.prompts,
                "survivors": selected.survivors,
                "prompts_left": selected.prompts_left,
                "rules": [{**vars(t), "reasons": dict(t.reasons)} for t in selected.tallies],
                "notes": selected.notes,
            }
        )
        return
    selection_report(selected)
    for path in written(list(out or ()), prompts, control):
        say(f"written:  {path}")


def _reward(text: str) -> RewardGiven:
    """The name of a reward, or several rewards or a table of one in TOML."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        given: RewardGiven = tomllib.loads(f"reward = {text}")["reward"]
    except ValueError as error:
        problem = f"{text!r:.80} is not TOML: {error}"
        remedy = 'write it like \'["math", {name = "length", options = {max = 256}}]\''
        raise UserError("--rescore", problem, remedy) from error
    return given


def _json_table(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(option, f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(option, f"{text!r} is not a JSON object", "try '{\"ignore_case\": true}'")
    return value


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "sample": (
        sample,
        "Example: winnow sample gsm8k --set prompts.source=train.jsonl "
        "--set samples_per_prompt=100 --out samples",
    ),
    "select": (
        select,
        "Example: winnow select samples --rule correct --rule distinct --rule 'at-most(4)' "
        "--out kept.parquet --out kept.jsonl",
    ),
}
