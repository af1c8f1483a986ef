"""Fits a reward model to scored samples: `winnow.fit_reward(...)`."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from winnow.engines.devices import pick_device
from winnow.engines.process_state import own_state
from winnow.engines.reward_models.preferences import FitSettings, Pair, pairs
from winnow.errors import UserError
from winnow.reporting.terminal import observing
from winnow.storage.atomic import refuse
from winnow.storage.paths import Paths, located, paths_of
from winnow.storage.sample_table import SampleTable, read_samples

if TYPE_CHECKING:
    from winnow.engines.reward_models.trainer import FitResult


@own_state()
def fit_reward(
    samples: Paths,
    *,
    out: str | Path,
    model: str | Path = "smollm2-135m",
    per_prompt: int = 4,
    prompts: int | None = None,
    held_out: float = 0.2,
    epochs: int = 1,
    lr: float = 1e-5,
    batch_pairs: int = 16,
    layers: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    quiet: bool = True,
) -> FitResult:
    """Train a reward model on pairs of better and worse samples (Bradley-Terry).

    Args:
        samples: Scored samples: folders or Parquet files.
        out: Folder for the model; `reward = "model:FOLDER"` then scores with it.
        model: A causal language model to start from, or a reward model to resume.
        per_prompt: Most pairs of a prompt.
        prompts: Use so many prompts only, chosen at random. Prompts without two samples of
            different reward are not counted.
        held_out: Share of these prompts whose pairs are held out for measuring: if above 0, at
            least one of two or more prompts.
        layers: Keep only the model's first layers.

    Raises:
        UserError: something that the caller can fix.
    """
    if not 0 <= held_out < 1:
        raise UserError("held_out", f"must be a share from 0 to below 1 (got {held_out})")
    for name, value in (("per_prompt", per_prompt), ("prompts", prompts)):
        if value is not None and value < 1:
            raise UserError(name, f"must be at least 1 (got {value})")
    how = FitSettings(epochs, lr, batch_pairs, seed, dtype, layers)
    how.check()
    out = located(out, "out")
    refuse(out)
    with observing(quiet) as observers:
        observers.progress("read", 0, 1)
        table = _scored(samples)
        by_prompt = _by_prompt(table, per_prompt, random.Random(seed))[:prompts]
        held = _number_held_out(len(by_prompt), held_out)
        from winnow.engines.reward_models.trainer import fit_reward_model

        return fit_reward_model(
            str(model),
            _joined(by_prompt[held:]),
            how,
            held_out=_joined(by_prompt[:held]),
            out=out,
            device=pick_device(device),
            progress=lambda done, steps, _: observers.progress("fit", done, steps),
        )


def _scored(samples: Paths) -> SampleTable:
    columns, optional = ["prompt", "text", "reward"], ("messages", "answer")
    table = read_samples(paths_of(samples), columns, why="fit-reward", optional=optional)
    table.need_scores(samples)
    return table


def _number_held_out(prompts: int, share: float) -> int:
    """How many prompts are held out: at least one, at most all but one."""
    return min(max(1, round(prompts * share)), max(0, prompts - 1)) if share else 0


def _by_prompt(table: SampleTable, per_prompt: int, rng: random.Random) -> list[list[Pair]]:
    """The pairs of each prompt that has any, prompts in random order."""
    found = defaultdict[str, list[Pair]](list)  # one text may have several ids
    for group in table:
        for pair in pairs([group], per_prompt=per_prompt, rng=rng):
            found[f"{pair.prompt.text}\n{pair.prompt.messages}"].append(pair)
    by_prompt = list(found.values())
    rng.shuffle(by_prompt)
    return by_prompt


def _joined(parts: Sequence[Sequence[Pair]]) -> list[Pair]:
    return [pair for part in parts for pair in part]
