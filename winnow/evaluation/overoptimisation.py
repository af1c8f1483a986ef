"""Over-optimization of a proxy on real samples: `winnow.overoptimisation(...)`.

By best-of-n, from one set of samples; or by a training run, from the samples of its evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from winnow.config.recipe import load_folder
from winnow.config.schema import Config
from winnow.engines.factory import engine_for
from winnow.engines.process_state import own_state
from winnow.errors import UserError, choices
from winnow.evaluation.kl import kl_by_prompt
from winnow.evaluation.overoptimisation_fit import Study, best_of_n_study, rewards_of, study_of
from winnow.evaluation.plots import check_picture, plot_study
from winnow.evaluation.scores import RECORDED, scored_samples, scores
from winnow.reporting.observer import Observers
from winnow.reporting.terminal import observing
from winnow.rewards.given import RewardFunction, reward_name
from winnow.storage.paths import Paths, paths_of
from winnow.storage.rollouts import rollout_files, rollout_of
from winnow.storage.sample_table import SampleTable
from winnow.theory.best_of import sizes
from winnow.theory.checks import Array

_TOKENS = ["prompt", "text", "prompt_ids", "token_ids", "logprobs"]


@own_state()
def overoptimisation(
    samples: Paths,
    proxy: str | RewardFunction,
    *,
    gold: str | RewardFunction = RECORDED,
    largest: int | None = None,
    drop_from: int | None = None,
    plot: str | Path | None = None,
    pool: bool = False,
    seed: int = 0,
    quiet: bool = True,
) -> Study:
    """Proxy and gold of best-of-n against the KL it spends, from one set of samples.

    Args:
        samples: Scored samples: folders or Parquet files.
        proxy, gold: Rewards to score with, such as `model:FOLDER`; `verifier` is the recorded one.
        largest: The largest n; default: as many as every prompt has.
        drop_from: The n from which gold's drop to the end is measured, if it was chosen without
            these samples; default: from where gold is highest, with the choice accounted for.

    Raises:
        UserError: something that the caller can fix.
    """
    if plot is not None:
        plot = paths_of(plot, "plot")[0]
        check_picture(plot)
    with observing(quiet) as observers:
        table = scored_samples(samples, ["text"], [proxy, gold], None, pool, "the study")
        by_proxy, by_gold = (scores(table, scorer, observers) for scorer in (proxy, gold))
        proxies, golds = [], []
        fewest = 1 if largest is None else largest
        for number in range(len(table)):
            rows = table.rows_of(number)
            rows = rows[np.isfinite(by_proxy[rows]) & np.isfinite(by_gold[rows])]
            if len(rows) >= fewest:
                proxies.append(by_proxy[rows])
                golds.append(by_gold[rows])
        if len(proxies) < 2:
            raise UserError(
                "samples",
                f"the study needs 2 prompts with {fewest} samples that have both scores, "
                f"and there are {len(proxies)}",
            )
        top = min(map(len, proxies)) if largest is None else largest
        if top < 4:
            raise UserError("n", f"the study needs 4 samples a prompt at least (got {top})")
        ns = sizes(top)
        if drop_from is not None:
            if not 1 <= drop_from < top:
                problem = f"must be from 1 to below the largest n, {top} (got {drop_from})"
                raise UserError("drop_from", problem)
            ns = sorted({*ns, drop_from})
        made = best_of_n_study(proxies, golds, ns, seed, drop_from)
        made = replace(made, left_out=len(table) - len(proxies))
        if plot is not None:
            plot_study(made, Path(plot), reward_name(proxy) or "", reward_name(gold) or "")
    return made


@own_state()
def run_overoptimisation(
    run: str | Path,
    proxy: str | RewardFunction,
    *,
    gold: str | RewardFunction = RECORDED,
    drop_from: int | None = None,
    plot: str | Path | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> Study:
    """Proxy and gold of a training run's policies against their KL to the starting model.

    The policies are those of its evaluations (`eval.every`), whose samples are on the disk. KL is
    the mean over their samples of log pi - log pi_start of the whole completion (k1: unbiased), at
    the sampling temperature.

    Args:
        run: A run folder with at least three evaluations, the first of step 0.
        drop_from: The step from which gold's drop to the end is measured, if it was chosen without
            these samples; default: from where gold is highest, with the choice accounted for.

    Raises:
        UserError: something that the caller can fix.
    """
    if plot is not None:
        plot = paths_of(plot, "plot")[0]
        check_picture(plot)
    folder = paths_of(run)[0]
    found = rollout_files(folder, "eval")
    files = [file for _, _, file in found]
    if len(files) < 3 or not (folder / "config.toml").is_file():
        problem = f"the study needs 3 evaluations with samples, and {folder} has {len(files)}"
        raise UserError("run", problem, "train with --set eval.every=5, say")
    steps = [step for step, _, _ in found]
    if drop_from is not None and drop_from not in steps[:-1]:
        problem = f"{folder} has no evaluation of step {drop_from} before its last"
        raise UserError("drop_from", problem, choices([str(step) for step in steps[:-1]]))
    config = load_folder(folder)
    with observing(quiet) as observers:
        tables = [
            scored_samples(file, _TOKENS, [proxy, gold], None, False, "the study") for file in files
        ]
        _check_evaluations(folder, files, tables)
        proxies = [scores(table, proxy, observers) for table in tables]
        golds = [scores(table, gold, observers) for table in tables]
        kl = _kl_to_start(config, tables, observers)
        by_prompt = [np.array(list(map(_by_prompt, tables, some))).T for some in (proxies, golds)]
        whole = np.isfinite(np.hstack(by_prompt)).all(axis=1)
        if whole.sum() < 2:
            raise UserError(
                "run",
                f"the study needs 2 prompts with scores in every evaluation and has {whole.sum()}",
            )
        each = [table.rows / len(table) for table in tables]
        proxy_rewards, gold_rewards = (
            rewards_of(values[whole], _finite(some), each)
            for values, some in zip(by_prompt, (proxies, golds), strict=True)
        )
        made = study_of(
            steps,
            np.array(kl).T[whole],
            proxy_rewards,
            gold_rewards,
            "rl",
            seed=seed,
            drop_from=drop_from,
        )
        made = replace(made, left_out=len(whole) - made.prompts)
        if plot is not None:
            plot_study(made, Path(plot), reward_name(proxy) or "", reward_name(gold) or "")
    return made


def _finite(scores: Sequence[Array]) -> Array:
    together = np.concatenate(scores)
    return together[np.isfinite(together)]


def _check_evaluations(folder: Path, files: Sequence[Path], tables: Sequence[SampleTable]) -> None:
    """Raise a `UserError` unless these are one run's samples, from its start, on the same prompts.

    Their log-probs must be those of what sampled.
    """
    if rollout_of(files[0]) != (0, "eval"):
        raise UserError("run", f"{folder} has no evaluation of step 0, from which KL is counted")
    prompts = [[group.prompt.id for group in table.only(["prompt"])] for table in tables]
    for file, table, own in zip(files, tables, prompts, strict=True):
        if own != prompts[0]:
            raise UserError("run", f"{file} holds other prompts than {files[0]}")
        if table.empty_lists("logprobs"):
            raise UserError("run", f"{file} has no log-probs of its samples, and KL needs them")
        if 0.0 in table.values("temperature"):
            problem = f"{file} was sampled at temperature 0, where there is no KL to the start"
            raise UserError("run", problem, "train with eval.temperature above 0")
        if table.count("truncated", True):
            problem = f"{file} was sampled with top-k or top-p, which change the log-probs"
            raise UserError("run", problem, "train with sampling.top_k = 0 and sampling.top_p = 1")


def _by_prompt(table: SampleTable, values: Array) -> Array:
    """The mean score of each prompt's samples; NaN where none has one."""
    means = np.full(len(table), np.nan)
    for number in range(len(table)):
        own = values[table.rows_of(number)]
        if np.isfinite(own).any():
            means[number] = np.nanmean(own)
    return means


def _kl_to_start(
    config: Config, tables: Sequence[SampleTable], observers: Observers
) -> list[Array]:
    """By evaluation and prompt, the mean log-ratio of its samples to the starting model."""
    observers.progress("load model", 0, 1)
    engine = engine_for(config)
    found = []
    for number, table in enumerate(tables):
        observers.progress("read", number, len(tables))
        found.append(kl_by_prompt(engine, list(table)))
    return found
