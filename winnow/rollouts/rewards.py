"""The reward of a config, made: one verifier, reward model or judge, or the sum of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from winnow.config.schema import Config, from_dict
from winnow.config.schema.reward import VerifierConfig
from winnow.engines.factory import check_model, judge_for
from winnow.errors import UserError, nearest
from winnow.rewards.base import AnyReward
from winnow.rewards.factory import JUDGE, LEARNED, LENGTH, make_reward
from winnow.rewards.given import (
    RewardFunction,
    RewardGiven,
    functions_of,
    reward_name,
    reward_setting,
)
from winnow.rewards.length import LengthPenalty
from winnow.rewards.several import Part, WeightedSum
from winnow.rollouts.reward_errors import probe
from winnow.storage.answers import Answers
from winnow.types import Prompt

ANSWERS = "judge.jsonl"
"""A folder's file of what judges answered."""


@contextmanager
def reward_for(
    config: Config,
    reward: RewardGiven | None = None,
    first: Prompt | None = None,
    *,
    folder: Path | None = None,
    sampled: bool = True,
) -> Iterator[AnyReward]:
    """The reward of a config, or functions instead of its names; closed on leaving.

    Args:
        first: A prompt to try it on (`reward_errors.probe`), unless `reward.probe` says not to.
        folder: Of the run: there the answers of a judge are kept, and found again.
        sampled: Whether the samples are made with this config.

    Raises:
        UserError: it cannot be loaded, or fails on that prompt; no answer from a judge's server.
    """
    tables = config.reward.each
    functions: Sequence[RewardFunction | None] = functions_of(reward)
    if isinstance(reward, str) or reward is None:
        functions = [None] * len(tables)
    if len(functions) != len(tables):
        problem = f"{len(functions)} given, where the settings have {len(tables)}"
        raise UserError("reward", problem, "give as many, in their order")
    answers = Answers(None if folder is None else folder / ANSWERS)
    most = config.sampling.max_tokens if sampled else None
    tried = first is not None and config.reward.probe
    with ExitStack() as made:
        parts = []
        for (key, table), function in zip(tables, functions, strict=True):
            with _about(key):
                if function is None and table.name == JUDGE:
                    own: AnyReward = judge_for(table.options, key, answers, check=tried)
                elif function is None and table.name == LENGTH:
                    own = _length(table, most)
                elif function is None and table.name.startswith(LEARNED):
                    own = _learned(config, table, key)
                else:
                    own = _verifier(table, function)
            made.callback(own.close)
            parts.append(own)
        whole = parts[0] if not config.reward.parts else _sum(config, parts)
        if first is not None and tried:
            probe(whole, first)
        yield whole


def otherwise_named(config: Config, reward: RewardGiven | None) -> Iterator[str]:
    """Notes where functions are given to resume with that have other names than those before."""
    pairs = zip(config.reward.each, functions_of(reward), strict=False)
    for (key, table), function in pairs:
        if function is not None and (name := reward_name(function)) != table.name:
            yield f"{key}: {name} scores from now on; what there is was scored by {table.name}"


def counts_tokens(config: Config) -> bool:
    """Whether what is right depends on a length in tokens, which texts alone do not have."""
    reward = config.reward
    named = any(table.name == LENGTH for _, table in reward.each)
    return named and (not reward.parts or reward.right_by == "sum")


def check_reward(config: Config) -> None:
    """Raise a `UserError` if the reward of a config is not there, without loading a model."""
    for key, table in config.reward.each:
        if table.name.startswith(LEARNED):
            check_model(table.name.removeprefix(LEARNED), key)
        else:
            alone = config.reward.model_copy(
                update={"parts": [], "name": table.name, "options": table.options}
            )
            with reward_for(config.model_copy(update={"reward": alone})):
                pass


def from_judge(error: UserError) -> bool:
    """Whether an error is of a judge's server: work resumes when that is up again."""
    return error.setting.endswith((".options.url", ".options.key_env"))


def rescoring(reward: RewardGiven, options: object = None) -> Config:
    """A config of a reward alone, to score samples with that are there."""
    setting = reward_setting(reward)
    if not options:
        return from_dict({"reward": setting})
    if not isinstance(setting, str):
        problem = "several rewards have options of their own"
        raise UserError("reward_options", problem, "write them in each part")
    return from_dict({"reward": {"name": setting, "options": options}})


def columns_of(config: Config) -> set[str]:
    """The columns of samples that the reward of a config reads, beside the texts."""
    return {"tokens" for _, table in config.reward.each if table.name == LENGTH}


def _sum(config: Config, rewards: Sequence[AnyReward]) -> WeightedSum:
    parts = zip(config.reward.parts, rewards, strict=True)
    return WeightedSum([Part(p.called, p.weight, own) for p, own in parts], config.reward.decides)


@contextmanager
def _about(key: str) -> Iterator[None]:
    """In the block, errors about `reward` are about that table."""
    try:
        yield
    except UserError as error:
        setting = error.setting
        if key == "reward" or not (setting == "reward" or setting.startswith("reward.")):
            raise
        if setting.startswith(f"{key}."):
            raise
        raise error.with_(setting=key + setting.removeprefix("reward")) from error


def _length(table: VerifierConfig, most: int | None) -> LengthPenalty:
    """The penalty, up to `sampling.max_tokens` where nothing else is said.

    Raises:
        UserError: it has no such option, or one that is no number of tokens.
    """
    given = {"max": most, "cache": None, **table.options}
    for name, value in given.items():
        if name not in ("max", "cache"):
            problem = f"unknown option {name!r} of length"
            raise UserError("reward.options", problem, nearest(name, ("max", "cache")))
        if name in table.options and (type(value) is not int or value < 1):
            raise UserError(
                f"reward.options.{name}", f"must be an int from 1 on (got {value!r:.60})"
            )
    if given["max"] is None:
        problem = "length needs this option where samples are there already"
        raise UserError("reward.options.max", problem, "set it to what they were cut off at")
    try:
        return LengthPenalty(given["max"], given["cache"])
    except ValueError as error:
        raise UserError("reward.options.cache", str(error)) from error


def _learned(config: Config, table: VerifierConfig, key: str) -> AnyReward:
    """A reward model, on the device of the run's model.

    Raises:
        UserError: it cannot be loaded, or has no such option.
    """
    from winnow.engines.devices import pick_device
    from winnow.engines.reward_models.model import RewardModel

    options = dict(table.options)
    label = options.pop("label", None)
    if options:
        problem = "no such option"
        raise UserError(f"reward.options.{next(iter(options))}", problem, "known: label")
    return RewardModel(
        table.name.removeprefix(LEARNED),
        device=pick_device(config.device),
        dtype=config.dtype,
        label=label,
        field=key,
    )


def _verifier(table: VerifierConfig, function: RewardFunction | None) -> AnyReward:
    return make_reward(
        table.name if function is None else function,
        options=table.options,
        time_limit=table.time_limit,
        workers=table.workers,
        import_seconds=table.import_seconds,
        memory_gib=table.memory_gib,
    )
