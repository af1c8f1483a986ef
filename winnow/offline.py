"""Draw once, decide again and again: `winnow.sample(...)` and `winnow.select(...)`.

folder = winnow.sample(prompts=rows, reward="number", n=100).folder
winnow.select(folder, ["correct", "distinct", "at-most(4)"], out="kept.parquet")
winnow.train(draws="kept.parquet", algorithm="rft", ...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.algorithms.registry import RULES
from winnow.algorithms.selection import Rule, columns_read
from winnow.algorithms.spec import parse
from winnow.config.recipe import dumps, load
from winnow.config.schema import Config, from_dict
from winnow.engines.factory import environment, reward_for, sampler_for
from winnow.errors import Stopped, UserError
from winnow.evaluation.held_out import sampling_params
from winnow.given import Rows, config_of, merge_section
from winnow.prompts.loading import load_held_out, load_prompts
from winnow.reporting.console import ConsoleReporter, reporter
from winnow.reporting.observer import Reporter
from winnow.rewards.factory import RewardFunction, reward_name
from winnow.rollouts.collect import Sampled, Want, collect, complete
from winnow.rollouts.export import Form, check_columns, check_output, export
from winnow.rollouts.select import OF_PROMPT, Sifted, rescore, sift
from winnow.storage.atomic import alone
from winnow.storage.run_folder import next_folder
from winnow.storage.sample_folder import Journal
from winnow.storage.sample_table import Paths, paths_of, read_draws
from winnow.types import Origin, Prompt


@dataclass(frozen=True)
class SampleResult:
    """A folder of draws.

    Attributes:
        folder: What `winnow select`, `winnow best-of` and `winnow train --set draws=` read.
        sampled: What this call did.
    """

    folder: Path
    sampled: Sampled


def sample(
    *,
    model: str | None = None,
    prompts: str | Rows | None = None,
    reward: str | RewardFunction | None = None,
    n: int | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    held_out: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> SampleResult:
    """Draw n answers to every prompt, score them, keep them all.

    Args:
        prompts: A source as in a recipe, or rows with the columns `prompt` and `answer`. Without
            `held_out`, those that training would use.
        n: Answers a prompt: `samples_per_prompt`.
        resume: A folder to go on with; only `reward` may be given beside it, where it is a
            function.
        held_out: Draw for the held-out prompts instead.
        settings: Any other key of the config; `server={"url": ...}` draws from a server.

    Raises:
        UserError: something that the caller can mend.
    """
    given = {"model": model, "prompts": prompts, "reward": reward_name(reward)}
    over = {key: value for key, value in given.items() if value is not None} | settings
    if n is not None:
        over["samples_per_prompt"] = n
    if isinstance(prompts, Sequence) and not isinstance(prompts, str) and "eval" not in over:
        merge_section(over, "eval", {"size": 0})  # all of the rows that were given
    function = None if isinstance(reward, str) else reward
    with reporter(quiet) as listener:
        if resume is not None:
            if over.keys() - {"reward"} or isinstance(reward, str) or recipe or out or held_out:
                raise UserError("resume: sampling goes on with its own settings; give none")
            return resume_sample(Path(resume), reporter=listener, reward=function)
        folder = Path(out) if out is not None else next_folder("sample")
        with config_of(recipe, over, folder) as config:
            return run_sample(
                config, out=folder, held_out=held_out, reporter=listener, reward=function
            )


HELD_OUT = "held-out"
"""A file of this name says that a folder's draws are of the held-out prompts."""


def run_sample(
    config: Config,
    *,
    out: Path,
    held_out: bool,
    reporter: Reporter,
    reward: RewardFunction | None = None,
) -> SampleResult:
    """Draw what a config says into a new folder."""
    Journal.refuse(out)

    def begin(want: Want) -> Journal:
        marks = [HELD_OUT] if held_out else []
        return Journal.create(
            out, dumps(config), environment(config), marks=marks, group=want.empty
        )

    return _sample(config, out, _want(config, held_out), begin, reporter, reward)


def resume_sample(
    folder: Path, *, reporter: Reporter, reward: RewardFunction | None = None
) -> SampleResult:
    """Go on with a folder of `winnow sample`. No model is loaded for one that is complete."""
    Journal.check(folder)
    config = load(str(folder / "config.toml"))
    want = _want(config, held_out=(folder / HELD_OUT).exists())
    if (done := complete(want, Journal(folder, want.empty))) is not None:
        return SampleResult(folder, done)
    return _sample(config, folder, want, lambda want: Journal(folder, want.empty), reporter, reward)


def _sample(
    config: Config,
    folder: Path,
    want: Want,
    begin: Callable[[Want], Journal],
    reporter: Reporter,
    reward: RewardFunction | None,
) -> SampleResult:
    if not config.algorithm.made_in_python:
        config.algorithm.build()  # not needed here, but a mistake in it is one all the same
    with reward_for(config, reward) as verifier:
        sampler = sampler_for(config, want.prompts, reporter)
        journal = begin(want)
        if isinstance(reporter, ConsoleReporter):
            what = f"{len(want.prompts)} prompts x {want.n} draws of {want.origin.model}"
            reporter.console.print(f"{what} -> {folder}", soft_wrap=True)
        try:
            with alone(folder):
                sampled = collect(want, sampler, verifier, journal, reporter)
        except KeyboardInterrupt as stop:
            raise Stopped(f"stopped; go on with: winnow sample --resume {folder}") from stop
        finally:
            for note in getattr(sampler, "notes", list)():
                reporter.note(note)
    return SampleResult(folder, sampled)


def _want(config: Config, held_out: bool) -> Want:
    params = sampling_params(config)
    model = config.model
    if config.server.url is not None:
        model = config.server.model or config.model
    return Want(
        prompts=_prompts(config, held_out),
        n=config.samples_per_prompt,
        params=params,
        seed=config.seed,
        right_at=config.reward.right_at,
        origin=Origin(model, params.temperature, params.truncated),
    )


def _prompts(config: Config, held_out: bool) -> list[Prompt]:
    """Each prompt once.

    Raises:
        UserError: two prompts of one id, whose draws nobody could tell apart.
    """
    if held_out:
        prompts: Sequence[Prompt] = load_held_out(config.prompts, config.eval, config.seed)
    else:
        prompts = load_prompts(config.prompts, config.eval, config.seed).train
    once: dict[str, Prompt] = {}
    for prompt in prompts:
        other = once.setdefault(prompt.id, prompt)
        if (other.text, other.messages) != (prompt.text, prompt.messages):
            raise UserError(
                f"prompts.source: two prompts have the id {prompt.id!r}: {other.text!r:.60} and "
                f"{prompt.text!r:.60}; give each row an id of its own, or leave the column out"
            )
    return list(once.values())


def select(
    draws: Paths,
    rules: Sequence[str | Rule] = ("correct",),
    *,
    out: Paths = (),
    form: Form = "messages",
    rejected: bool = False,
    rescore_with: str | RewardFunction | None = None,
    reward_options: dict[str, Any] | None = None,
    right_at: float | None = None,
    pool: bool = False,
    seed: int = 0,
    quiet: bool = True,
) -> Sifted:
    """From draws on the disk to their survivors.

    Args:
        draws: Parquet files or folders: of `winnow sample`, of a run.
        rules: Cells of `select`, as in a recipe; each sees what the ones before it left.
        out: Files to write: .parquet (all columns), .jsonl (as other trainers read it).
        form: Of a .jsonl file.
        rejected: Whether Parquet files are to hold the rejected draws too, with their reasons.
        rescore_with: A reward to score all draws with first; nothing is drawn again.
        reward_options: Of `rescore_with`.
        right_at: A reward of at least this is right. Default: as the file says, else 1; new scores:
            1.
        pool: Take draws of several policies as one set.

    Raises:
        UserError: something that the caller can mend; nothing is written then.
    """
    outputs = paths_of(out)
    _check_outputs(outputs, form, rejected)
    if rescore_with is None and reward_options:
        raise UserError("reward options: they are those of the reward to rescore with; name one")
    rules = [rules] if isinstance(rules, str) else rules
    chosen = [parse("rule", r, RULES) if isinstance(r, str) else r for r in rules]
    if not chosen:
        raise UserError("rule: give at least one, e.g. correct or everything")
    if getattr(chosen[-1], "pairs", False) and any(path.suffix == ".jsonl" for path in outputs):
        raise UserError(
            "out: the lines of a .jsonl file are answers to learn, and best-worst keeps the worst, "
            "too; write .parquet, and train with --set draws=FILE --set algorithm=dpo"
        )
    columns = columns_read(chosen)
    with reporter(quiet) as listener:
        listener.progress("read", 0, 1)
        scores = None
        wanted = columns | {"text", "prompt"} if rescore_with is not None else columns
        table = read_draws(
            paths_of(draws),
            sorted(wanted),
            why="select",
            optional=OF_PROMPT if rescore_with is not None else (),
            right_at=right_at,
        )
        for path in outputs:
            check_columns(table, path)
        if rescore_with is not None:
            name = reward_name(rescore_with) or ""
            config = from_dict({"reward": {"name": name, "options": reward_options or {}}})
            function = None if isinstance(rescore_with, str) else rescore_with
            with reward_for(config, function) as verifier:
                bound = 1.0 if right_at is None else right_at
                scores = rescore(table, verifier, bound, listener.progress)
        sifted = sift(
            table.only(columns),
            chosen,
            seed=seed,
            scores=scores,
            pool=pool,
            progress=listener.progress,
        )
        for path in outputs:
            listener.progress(f"write {path.name}", 0, 1)
            export(table, sifted, path, form=form, rejected=rejected)
    return sifted


def _check_outputs(outputs: Sequence[Path], form: str, rejected: bool) -> None:
    for path in outputs:
        check_output(path, form)
    if len({path.absolute() for path in outputs}) < len(outputs):
        raise UserError("out: one file is named twice")
    if rejected and not any(path.suffix == ".parquet" for path in outputs):
        raise UserError("rejected: only a .parquet file holds rejected draws; name one as output")
