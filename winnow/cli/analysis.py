"""Commands that learn something from files of samples. Heavy imports happen only inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from winnow.cli.options import (
    Form,
    Json,
    Pool,
    RightAt,
    Samples,
    Seed,
    Set,
    form_of,
    print_json,
    say,
)
from winnow.errors import UserError

_Plot = Annotated[Path | None, typer.Option(help="Plot to write: .svg, .png or .pdf.")]
_SomeSamples = Annotated[
    list[str] | None,
    typer.Argument(help="Scored samples: Parquet files or folders. Default: sample some first."),
]
_By = Annotated[
    str,
    typer.Option(
        help="verifier (the recorded reward), majority, weighted, or a reward to score with: "
        "model:FOLDER, a built-in name, module:function."
    ),
]
_Answers = Annotated[
    str, typer.Option(help="How a vote compares completions: number, math or text.")
]
_Winners = Annotated[
    list[Path] | None, typer.Option(help="A .parquet or .jsonl file for the winners; repeatable.")
]
_SampleBy = Annotated[
    str | None, typer.Option(help="Where no samples are given: the recipe to sample by.")
]
_SampleTo = Annotated[
    Path | None,
    typer.Option(
        help="Where no samples are given: the folder for them. Default: runs/NAME-best-of-001."
    ),
]


def best_of(
    samples: _SomeSamples = None,
    n: Annotated[
        int | None,
        typer.Option("--n", help="Samples to choose from. Default: all; 16 where none are given."),
    ] = None,
    by: _By = "verifier",
    votes: Annotated[
        str, typer.Option(help="Weights of the votes with --by weighted; values as for --by.")
    ] = "verifier",
    answers: _Answers = "number",
    out: _Winners = None,
    form: Form = "auto",
    plot: _Plot = None,
    right_at: RightAt = None,
    pool: Pool = False,
    seed: Seed = 0,
    recipe: _SampleBy = None,
    sets: Set = None,
    folder: _SampleTo = None,
    as_json: Json = False,
) -> None:
    """The best of n samples, and how accuracy grows with n.

    By verifier, reward model, majority or weighted vote; with
    pass@n, best-of-n and vote curves from one set of samples, and the KL that best-of-n spends.
    Without samples, the held-out prompts are sampled first, n times each.
    """
    from dataclasses import asdict

    from winnow.cli.render import best_of_report
    from winnow.evaluation import best_of

    files, shape = list(out or ()), form_of(form)
    best_of.check(n, by=by, votes=votes, answers=answers, outputs=files, form=shape, plot=plot)
    if samples and (recipe or sets or folder):
        raise UserError(
            "--recipe, --set, --folder", "they say how to sample", "give them or samples"
        )
    if not samples:
        best_of.check_scorer(by, votes)
        samples = [
            _sample_first(recipe, [f"samples_per_prompt={n or 16}", *(sets or ())], folder, as_json)
        ]
    made = best_of.best_of(
        samples,
        n,
        by=by,
        votes=votes,
        answers=answers,  # type: ignore[arg-type]  # checked above
        out=files,
        form=shape,
        plot=plot,
        right_at=right_at,
        pool=pool,
        seed=seed,
        quiet=as_json,
    )
    if as_json:
        shown = {key: getattr(made, key) for key in ("by", "n", "prompts", "accuracy", "first")}
        shown |= {"samples": samples, "curves": asdict(made.curves), "notes": made.notes}
        print_json(shown)
        return
    best_of_report(made)
    for path in [*files, *([plot] if plot else ())]:
        say(f"written:  {path}")


def _sample_first(recipe: str | None, sets: list[str], folder: Path | None, quiet: bool) -> str:
    """A new folder of samples for the held-out prompts."""
    from winnow.config.recipe import load
    from winnow.reporting.terminal import observing
    from winnow.rollouts.collect import run_sample
    from winnow.storage.run_folder import next_folder

    config = load(recipe, sets)
    where = folder or next_folder(f"{Path(recipe or 'arithmetic').stem}-best-of")
    with observing(quiet) as observers:
        run_sample(config, out=where, held_out=True, observers=observers)
    return str(where)


def overoptimisation(
    samples: Samples,
    proxy: Annotated[str, typer.Option(help="The proxy, which chooses, e.g. model:FOLDER.")],
    gold: Annotated[
        str, typer.Option(help="The gold reward. Default: the recorded one.")
    ] = "verifier",
    largest: Annotated[
        int | None, typer.Option("--n", help="The largest n. Default: all samples of a prompt.")
    ] = None,
    drop_from: Annotated[
        int | None,
        typer.Option(
            help="Measure gold's drop from this n (or step), chosen beforehand. "
            "Default: from where gold is highest, with the choice accounted for."
        ),
    ] = None,
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints", help="SAMPLES is a run folder: its evaluations, on the same axes."
        ),
    ] = False,
    plot: _Plot = None,
    pool: Pool = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Proxy and gold reward against KL.

    For best-of-n, or for a run's checkpoints; with Gao et al.'s fit, where gold is
    highest and how far it drops from there.
    """
    from winnow.cli.render import study_report
    from winnow.evaluation import overoptimisation as studies
    from winnow.evaluation.overoptimisation_fit import as_json_table

    if checkpoints:
        if len(samples) != 1 or largest is not None or pool:
            problem = "it takes one run"
            raise UserError("--checkpoints", problem, "give one run folder, without --n or --pool")
        study = studies.run_overoptimisation(
            samples[0],
            proxy,
            gold=gold,
            drop_from=drop_from,
            plot=plot,
            seed=seed,
            quiet=as_json,
        )
    else:
        study = studies.overoptimisation(
            list(samples),
            proxy,
            gold=gold,
            largest=largest,
            drop_from=drop_from,
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
        say(f"written:  {plot}")


def fit_reward(
    samples: Samples,
    out: Annotated[Path, typer.Option(help="Folder for the reward model.")],
    model: Annotated[
        str, typer.Option(help="Causal language model to start from.")
    ] = "smollm2-135m",
    per_prompt: Annotated[int, typer.Option(help="Most pairs per prompt.")] = 4,
    prompts: Annotated[
        int | None, typer.Option(help="Learn from only so many prompts, chosen at random.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the prompts held out to measure on.")
    ] = 0.2,
    epochs: Annotated[int, typer.Option(help="Passes over the pairs.")] = 1,
    lr: Annotated[float, typer.Option(help="Learning rate; it falls linearly to 0.")] = 1e-5,
    batch_pairs: Annotated[int, typer.Option(help="Pairs per update.")] = 16,
    layers: Annotated[
        int | None, typer.Option(help="Keep only so many first layers of the model: small, fast.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a reward model on scored samples.

    On pairs of a better and a worse sample (Bradley-Terry). Use it as reward = "model:FOLDER" in
    training, select and best-of.
    """
    from dataclasses import asdict

    from winnow.cli.render import fit_report
    from winnow.engines.reward_models.fit import fit_reward as fit

    made = fit(
        list(samples),
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


COMMANDS: Mapping[str, tuple[Callable[..., None], str]] = {
    "best-of": (best_of, "Example: winnow best-of samples --n 16 --by majority --plot curves.svg"),
    "overoptimisation": (
        overoptimisation,
        "Example: winnow overoptimisation samples --proxy model:proxy --plot goodhart.svg",
    ),
    "fit-reward": (fit_reward, "Example: winnow fit-reward samples --prompts 32 --out proxy"),
}
