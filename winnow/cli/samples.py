"""Commands that work on files of draws. Heavy imports happen only inside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from winnow.cli.options import Json, Recipe, Set, print_json
from winnow.errors import UserError

if TYPE_CHECKING:
    from winnow.rollouts.collect import Sampled

_Draws = Annotated[
    list[str], typer.Argument(help="Parquet files, or folders: of winnow sample, of a run.")
]
_Folder = Annotated[Path | None, typer.Option(help="Folder for the draws. Default: runs/NAME-001.")]
_Form = Annotated[str, typer.Option(help="Of a .jsonl file: messages or prompt-completion.")]
_RightAt = Annotated[
    float | None, typer.Option(help="A reward of at least this is right. Default: as recorded.")
]
_Pool = Annotated[bool, typer.Option("--pool", help="Take draws of several models as one set.")]
_Seed = Annotated[int, typer.Option(help="Of all that is decided by lot.")]
_Plot = Annotated[Path | None, typer.Option(help="A picture: .svg, .png or .pdf.")]
_SomeDraws = Annotated[
    list[str] | None,
    typer.Argument(help="Scored draws: Parquet files or folders. Without any, draws are made."),
]
_By = Annotated[
    str,
    typer.Option(
        help="verifier (the recorded reward), majority, weighted, or a reward to score with: "
        "model:FOLDER, a built-in name, module:function."
    ),
]
_Answers = Annotated[
    str, typer.Option(help="How answers are compared for a vote: number, math or text.")
]
_Winners = Annotated[
    list[Path] | None, typer.Option(help="A .parquet or .jsonl file for the winners; repeatable.")
]
_DrawBy = Annotated[
    str | None, typer.Option(help="Where no draws are given: draw as this recipe says.")
]
_DrawTo = Annotated[
    Path | None, typer.Option(help="Where no draws are given: the folder for them.")
]


def sample(
    recipe: Recipe = None,
    sets: Set = None,
    out: _Folder = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this folder where it stopped.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Draw for the held-out prompts instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Draw answers, score them, keep them all.

    Nothing is trained. A kill loses nothing: --resume makes what is missing.
    Draws come from the model in this process, or from any OpenAI-compatible server (server.url).
    """
    from dataclasses import asdict

    from winnow.config.recipe import load
    from winnow.reporting.console import reporter
    from winnow.rollouts.collect import resume_sample, run_sample
    from winnow.storage.run_folder import next_folder

    with reporter(as_json) as listener:
        if resume is not None:
            if recipe is not None or sets or out is not None or held_out:
                problem = "a folder keeps its settings"
                raise UserError("--resume", problem, "give no recipe, --set, --out or --held-out")
            result = resume_sample(resume, reporter=listener)
        else:
            config = load(recipe, sets or ())
            folder = out or next_folder(f"{Path(recipe or 'arithmetic').stem}-sample")
            result = run_sample(config, out=folder, held_out=held_out, reporter=listener)
    done = result.sampled
    if as_json:
        print_json({"folder": str(result.folder), **asdict(done)})
        return
    typer.echo(_sampled(done))
    typer.echo(f"draws:  {result.folder}")


def _sampled(done: Sampled) -> str:
    if not (done.made or done.scored):
        return f"nothing to draw: all {done.found} draws were there"
    judged = done.scored - done.errors
    of = "these" if done.scored == done.made else f"the {judged} scored now"
    right = f"; {done.right / judged:.1%} of {of} right" if judged else ""
    errors = f"; {done.errors} verdicts were errors" if done.errors else ""
    there = f" ({done.found} were there)" if done.found else ""
    return f"{done.made} draws, {done.tokens} tokens{there}{right}{errors}"


def select(
    draws: _Draws,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="A rule; may be repeated, each sees what is left. Default: correct."),
    ] = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="A .parquet or .jsonl file to write; repeatable.")
    ] = None,
    form: _Form = "messages",
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Write rejected draws to Parquet too, with reasons.")
    ] = False,
    rescore: Annotated[
        str | None, typer.Option(help="Score all draws with this reward first; none is drawn.")
    ] = None,
    options: Annotated[str, typer.Option("--reward-options", help="Its options, as JSON.")] = "{}",
    right_at: _RightAt = None,
    pool: _Pool = False,
    seed: _Seed = 0,
    as_json: Json = False,
) -> None:
    """Decide which draws survive, and why.

    Rules: correct, best(4), distinct (by reasoning path), distinct-text, mixed, drop-all-wrong,
    drop-all-right, length(low=1, high=200), at-most(4), band(low=0.1, high=0.9), gibbs(beta=0.5,
    r_max=1), rso(beta=0.5, k=8), everything, as-recorded, or module:function.
    """
    from winnow.cli.render import sifted_report
    from winnow.rollouts.select import select as select_draws

    sifted = select_draws(
        list(draws),
        rule or ["correct"],
        out=list(out or ()),
        form=_form(form),
        rejected=rejected,
        rescore_with=rescore,
        reward_options=_json_table("--reward-options", options),
        right_at=right_at,
        pool=pool,
        seed=seed,
        quiet=as_json,
    )
    if as_json:
        print_json(
            {
                "draws": sifted.draws,
                "prompts": sifted.prompts,
                "survivors": sifted.survivors,
                "prompts_left": sifted.prompts_left,
                "rules": [{**vars(t), "reasons": dict(t.reasons)} for t in sifted.tallies],
                "notes": sifted.notes,
            }
        )
        return
    sifted_report(sifted)
    for path in out or ():
        typer.echo(f"written:  {path}")


def best_of(
    draws: _SomeDraws = None,
    n: Annotated[
        int | None,
        typer.Option("--n", help="Answers to choose among. Default: all; 16 where none are given."),
    ] = None,
    by: _By = "verifier",
    votes: Annotated[
        str, typer.Option(help="What weighs the votes of weighted; as for --by.")
    ] = "verifier",
    answers: _Answers = "number",
    out: _Winners = None,
    form: _Form = "messages",
    plot: _Plot = None,
    right_at: _RightAt = None,
    pool: _Pool = False,
    seed: _Seed = 0,
    recipe: _DrawBy = None,
    sets: Set = None,
    folder: _DrawTo = None,
    as_json: Json = False,
) -> None:
    """The best of n answers, and what n buys.

    By verifier, reward model, majority vote (equal answers as mathematics) or weighted vote; with
    pass@n, best-of-n and vote curves from one set of draws, and the KL that best-of-n spends.
    Without draws, n answers to the held-out prompts are drawn first.
    """
    from dataclasses import asdict

    from winnow.cli.render import best_of_report
    from winnow.evaluation import best_of

    written = [*(out or ()), *([plot] if plot else ())]
    shape = _form(form)
    best_of.check(n, by=by, votes=votes, answers=answers, outputs=list(out or ()), plot=plot)
    if draws and (recipe or sets or folder):
        raise UserError("--recipe, --set, --folder", "they say how to draw", "give them or draws")
    if not draws:
        best_of.check_judge(by, votes)
        draws = [_drawn(recipe, [f"samples_per_prompt={n or 16}", *(sets or ())], folder, as_json)]
    made = best_of.best_of(
        draws,
        n,
        by=by,
        votes=votes,
        answers=answers,  # type: ignore[arg-type]  # checked above
        out=list(out or ()),
        form=shape,
        plot=plot,
        right_at=right_at,
        pool=pool,
        seed=seed,
        quiet=as_json,
    )
    if as_json:
        shown = {key: getattr(made, key) for key in ("by", "n", "prompts", "accuracy", "first")}
        shown |= {"draws": draws, "curves": asdict(made.curves), "notes": made.notes}
        print_json(shown)
        return
    best_of_report(made)
    for path in written:
        typer.echo(f"written:  {path}")


def _drawn(recipe: str | None, sets: list[str], folder: Path | None, quiet: bool) -> str:
    """A new folder of draws for the held-out prompts."""
    from winnow.config.recipe import load
    from winnow.reporting.console import reporter
    from winnow.rollouts.collect import run_sample
    from winnow.storage.run_folder import next_folder

    config = load(recipe, sets)
    where = folder or next_folder(f"{Path(recipe or 'arithmetic').stem}-best-of")
    with reporter(quiet) as listener:
        run_sample(config, out=where, held_out=True, reporter=listener)
    return str(where)


def overoptimisation(
    draws: _Draws,
    proxy: Annotated[
        str,
        typer.Option(help="The reward that chooses, e.g. model:FOLDER."),
    ],
    gold: Annotated[
        str, typer.Option(help="The reward that judges. Default: the recorded one.")
    ] = "verifier",
    largest: Annotated[
        int | None, typer.Option("--n", help="The largest n. Default: all draws of a prompt.")
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints", help="DRAWS is a training run: its evaluations, on the same axes."
        ),
    ] = False,
    plot: _Plot = None,
    pool: _Pool = False,
    seed: _Seed = 0,
    as_json: Json = False,
) -> None:
    """Proxy and gold reward against KL.

    Of best-of-n, or of the checkpoints of a run: with Gao et al.'s fit, and where gold turns over.
    """
    from winnow.cli.render import study_report
    from winnow.evaluation import overoptimisation as studies
    from winnow.evaluation.overoptimisation_fit import as_json_table

    if checkpoints:
        if len(draws) != 1 or largest is not None or pool:
            problem = "it takes one run"
            raise UserError("--checkpoints", problem, "give one run folder, without --n or --pool")
        study = studies.run_overoptimisation(
            draws[0], proxy, gold=gold, plot=plot, seed=seed, quiet=as_json
        )
    else:
        study = studies.overoptimisation(
            list(draws),
            proxy,
            gold=gold,
            largest=largest,
            plot=plot,
            pool=pool,
            seed=seed,
            quiet=as_json,
        )
    if as_json:
        print_json(as_json_table(study))
        return
    study_report(study)
    if plot:
        typer.echo(f"written:  {plot}")


def fit_reward(
    draws: _Draws,
    out: Annotated[Path, typer.Option(help="Folder for the reward model.")],
    model: Annotated[
        str, typer.Option(help="Causal language model to start from.")
    ] = "smollm2-135m",
    per_prompt: Annotated[int, typer.Option(help="Most pairs of a prompt.")] = 4,
    prompts: Annotated[
        int | None, typer.Option(help="Learn from so many prompts only, chosen by lot.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the prompts whose pairs are kept for measuring.")
    ] = 0.2,
    epochs: Annotated[int, typer.Option(help="Passes over the pairs.")] = 1,
    lr: Annotated[float, typer.Option(help="Learning rate; it falls linearly to 0.")] = 1e-5,
    batch_pairs: Annotated[int, typer.Option(help="Pairs of an update.")] = 16,
    layers: Annotated[
        int | None, typer.Option(help="Keep only the model's first layers: small and quick.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    seed: _Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a reward model on scored draws.

    On pairs of a better and a worse draw (Bradley-Terry). What it makes scores with reward =
    "model:FOLDER", in training, select and best-of.
    """
    from dataclasses import asdict

    from winnow.cli.render import fit_report
    from winnow.engines.reward_models.fit import fit_reward as fit

    made = fit(
        list(draws),
        out=out,
        model=model,
        per_prompt=per_prompt,
        prompts=prompts,
        held_out=held_out,
        epochs=epochs,
        lr=lr,
        batch_pairs=batch_pairs,
        layers=layers,
        device=device,
        dtype=dtype,
        seed=seed,
        quiet=as_json,
    )
    if as_json:
        print_json({**asdict(made), "folder": str(made.folder)})
        return
    fit_report(made)


def _form(form: str) -> Any:
    if form not in ("messages", "prompt-completion"):
        raise UserError("--form", f"unknown form {form!r}", "use messages or prompt-completion")
    return form


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
        "--set samples_per_prompt=100 --out draws",
    ),
    "select": (
        select,
        "Example: winnow select draws --rule correct --rule distinct --rule 'at-most(4)' "
        "--out kept.parquet --out kept.jsonl",
    ),
    "best-of": (
        best_of,
        "Example: winnow best-of draws --n 16 --by majority --plot curves.svg",
    ),
    "overoptimisation": (
        overoptimisation,
        "Example: winnow overoptimisation draws --proxy model:proxy --plot goodhart.svg",
    ),
    "fit-reward": (
        fit_reward,
        "Example: winnow fit-reward draws --prompts 32 --out proxy",
    ),
}
