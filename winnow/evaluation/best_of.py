"""The best of n samples: `winnow.best_of(...)`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from winnow.algorithms.selection import SURVIVED
from winnow.config.schema import Config
from winnow.config.schema.reward import RewardConfig
from winnow.engines.process_state import own_state
from winnow.errors import UserError, choices
from winnow.evaluation.curves import Curves, PromptSamples, curves
from winnow.evaluation.plots import check_picture, plot_curves
from winnow.evaluation.scores import RECORDED, scored_samples, scores
from winnow.evaluation.voting import Answers, ballots, winner
from winnow.reporting.observer import Observers
from winnow.reporting.terminal import observing
from winnow.rewards.factory import make_reward
from winnow.rewards.given import RewardFunction, reward_name
from winnow.rollouts.export import Form, check_lines, check_output, export
from winnow.rollouts.rewards import check_reward
from winnow.rollouts.selected import Selected
from winnow.storage.paths import Paths, paths_of
from winnow.storage.reading import has_folder
from winnow.storage.sample_table import SampleTable
from winnow.theory.best_of import sizes
from winnow.theory.checks import Array
from winnow.theory.intervals import rate_interval
from winnow.theory.ties import levels
from winnow.types import Group

Interval = tuple[float | None, float | None, float | None]

_VOTES = ("majority", "weighted")


@dataclass(frozen=True)
class BestOf:
    """The winners, and what n buys.

    Attributes:
        n: Samples among which each winner was chosen: the first n of a prompt that have a score.
        prompts: Prompts that took part: those with n such samples.
        accuracy: Share of prompts whose winner is right, with its 95 % interval (Wilson); a prompt
            without any vote counts as wrong.
        first: The same of each prompt's first sample.
        won: For each row of the samples, in their order, whether it is a winner.
        notes: What a person should know.
    """

    by: str
    n: int
    prompts: int
    accuracy: Interval
    first: Interval
    curves: Curves
    won: NDArray[np.bool_]
    notes: list[str]


@own_state()
def best_of(
    samples: Paths,
    n: int | None = None,
    *,
    by: str | RewardFunction = RECORDED,
    votes: str | RewardFunction = RECORDED,
    answers: Answers = "number",
    out: Paths = (),
    form: Form = "auto",
    plot: str | Path | None = None,
    right_at: float | None = None,
    pool: bool = False,
    seed: int = 0,
    quiet: bool = True,
) -> BestOf:
    """The best of n samples of each prompt, and curves over n from all samples.

    Args:
        samples: Scored samples: folders or Parquet files.
        n: Samples to choose among; default: as many as every prompt has.
        by: `verifier`, the recorded reward (an oracle: best-of-n is then pass@n); `majority`, the
            answer given most often; `weighted`, a vote weighted by `votes`; or a reward to score
            with, such as `model:FOLDER`.
        votes: The weights of a `weighted` vote: the recorded reward or another; below 0 counts as
            0, so a reward whose zero means nothing (a reward model's logit) makes poor weights.
        answers: How answers are compared for a vote: see `voting.ballots`.
        out: Files for the winners, as `winnow.select` writes them.
        plot: A picture of the curves.
        pool: Take samples of several policies as one set.

    Raises:
        UserError: something that the caller can fix, such as n above the number of samples.
    """
    outputs = paths_of(out, "out")
    check(n, by=by, votes=votes, answers=answers, outputs=outputs, form=form, plot=plot)
    name = reward_name(by) or ""
    scorer = _scorer(by, votes)
    with observing(quiet) as observers:
        table = scored_samples(samples, ["text"], [scorer], right_at, pool, "best-of")
        groups = list(table)
        values = scores(table, scorer, observers)
        labels, notes = None, list[str]()
        if name in _VOTES:
            labels, notes = _labels(groups, answers, observers)
        weights = np.ones_like(values)
        if name == "weighted":
            weights = np.maximum(values, 0.0)
            notes += _weightless(values)
        prompts = _prompts(table, groups, values, weights, labels)
        made = _choose(prompts, n, name, table.rows, notes, np.random.default_rng(seed))
        for path in outputs:
            export(table, _as_selected(table, made), path, form=form)
        if plot is not None:
            plot_curves(made.curves, paths_of(plot, "plot")[0], name, made.prompts)
    return made


def check(
    n: int | None,
    *,
    by: str | RewardFunction,
    votes: str | RewardFunction,
    answers: str,
    outputs: Sequence[Path],
    form: Form,
    plot: str | Path | None,
) -> None:
    """Raise a `UserError` for wrong arguments, before anything is sampled or scored."""
    if n is not None and n < 1:
        raise UserError("n", f"must be at least 1 (got {n})")
    if answers not in get_args(Answers):
        raise UserError(
            "answers", f"unknown kind of answers {answers!r}", choices(get_args(Answers))
        )
    if votes != RECORDED and by != "weighted":
        problem = "it is read only with by = 'weighted'"
        raise UserError("votes", problem, "set by, or leave it out")
    if form == "preference":
        problem = "only winners are written, and a pair needs a loser"
        raise UserError("form", problem, "use winnow select SAMPLES --form preference")
    check_lines(form, outputs)
    for path in outputs:
        check_output(path)
        if not has_folder(path.absolute().parent, "out"):
            raise UserError("out", f"no folder {path.parent}")
    if plot is not None:
        check_picture(paths_of(plot, "plot")[0])


def _choose(
    prompts: Sequence[PromptSamples],
    n: int | None,
    by: str,
    rows: int,
    notes: list[str],
    rng: np.random.Generator,
) -> BestOf:
    """The winners of all prompts that have n samples, and the curves."""
    enough, notes = _enough(prompts, n, notes)
    fewest = min(len(prompt.right) for prompt in enough)
    size = n or fewest
    winners = [_winner(prompt, size, rng) for prompt in enough]
    pairs = list(zip(enough, winners, strict=True))
    won = np.zeros(rows, dtype=bool)
    won[[prompt.rows[place] for prompt, place in pairs if place is not None]] = True
    return BestOf(
        by=by,
        n=size,
        prompts=len(enough),
        accuracy=_accuracy([place is not None and p.right[place] for p, place in pairs]),
        first=_accuracy([prompt.right[0] for prompt in enough]),
        curves=curves(enough, sorted({*sizes(fewest), size}), rng),
        won=won,
        notes=notes,
    )


def check_scorer(by: str | RewardFunction, votes: str | RewardFunction) -> None:
    """Raise a `UserError` if the scorer is not there, without loading a model."""
    scorer = _scorer(by, votes)
    if isinstance(scorer, str) and scorer != RECORDED:
        check_reward(Config(reward=RewardConfig(name=scorer)))


def _scorer(by: str | RewardFunction, votes: str | RewardFunction) -> str | RewardFunction:
    return RECORDED if by == "majority" else votes if by == "weighted" else by


def _weightless(values: Array) -> list[str]:
    none = int((values < 0).sum())
    return [f"{none} of {values.size} votes weigh nothing: a score below 0"] if none else []


def _labels(
    groups: Sequence[Group], answers: Answers, observers: Observers
) -> tuple[list[list[int | None]], list[str]]:
    observers.progress("vote", 0, 1)
    if answers != "math":
        return ballots(groups, answers).labels, []
    with closing(make_reward("math")) as equal:
        made = ballots(groups, answers, equal)
    failed = f"comparisons of formulas that failed: {made.failed}; their answers count as different"
    return made.labels, [failed] if made.failed else []


def _prompts(
    table: SampleTable,
    groups: Sequence[Group],
    scores: Array,
    weights: Array,
    labels: Sequence[list[int | None]] | None,
) -> list[PromptSamples]:
    """The samples of each prompt that both verifier and scorer gave a number."""
    prompts = []
    for number, group in enumerate(groups):
        rows = table.rows_of(number)
        usable = np.flatnonzero(np.array(group.valid) & np.isfinite(scores[rows]))
        prompts.append(
            PromptSamples(
                rows=rows[usable],
                right=np.array(group.right, dtype=bool)[usable],
                scores=scores[rows][usable],
                weights=weights[rows][usable],
                labels=[labels[number][i] for i in usable] if labels is not None else [],
            )
        )
    return prompts


def _enough(
    prompts: Sequence[PromptSamples], n: int | None, notes: list[str]
) -> tuple[list[PromptSamples], list[str]]:
    """The prompts with n samples; a `UserError` if there are none."""
    enough = [p for p in prompts if len(p.right) >= (n or 1)]
    if not enough:
        most = max(len(p.right) for p in prompts)
        if not most:
            raise UserError("samples", "no sample has a score, all are errors")
        raise UserError("n", f"no prompt has {n} samples with a score, only up to {most}")
    left = len(prompts) - len(enough)
    if left:
        few = f"fewer than {n} samples" if n and n > 1 else "no sample"
        notes = [*notes, f"left out: {left} of {len(prompts)} prompts, with {few} with a score"]
    return enough, notes


def _winner(prompt: PromptSamples, n: int, rng: np.random.Generator) -> int | None:
    """The place of the best of the first n samples, ties broken at random."""
    if prompt.labels:
        return winner(prompt.labels[:n], prompt.weights[:n].tolist(), rng.random)
    top = np.flatnonzero(levels(prompt.scores[:n]) == 0)
    return int(rng.choice(top))


def _accuracy(right: Sequence[bool]) -> Interval:
    return rate_interval(np.array(right, dtype=np.float64), 1.0)


def _as_selected(table: SampleTable, made: BestOf) -> Selected:
    """The winners as survivors, for writing."""
    count = int(made.won.sum())
    return Selected(
        samples=table.rows,
        prompts=len(table),
        survivors=count,
        prompts_left=count,
        survived=made.won,
        reasons=np.where(made.won, 0, 1).astype(np.int32),
        words=[SURVIVED, f"not the best by {made.by}"],
        tallies=[],
        notes=[],
        scores=None,
    )
