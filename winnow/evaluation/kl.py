"""KL of a policy to the weights that it started with, from samples of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from winnow.config.schema import Config
from winnow.engines.base import PRESENT, START, Engine, Sampler, Weights
from winnow.reporting.metrics import KL
from winnow.rollouts.generate import evaluation_params
from winnow.theory.checks import Array
from winnow.theory.intervals import mean_interval
from winnow.types import Group


def kl_by_prompt(engine: Engine, groups: Sequence[Group], of: Weights = PRESENT) -> Array:
    """Mean over each prompt's samples of log pi(y) - log pi_of(y) (k1), nats, shape (prompts,).

    Over whole completions at the temperature that they were sampled at. All samples count, with
    whatever score: their mean is without bias only over what the policy samples.

    Args:
        groups: With the log-probs of their samplers.
    """
    heat = groups[0].origin.temperature if groups[0].origin else 1.0
    others = engine.logprobs(groups, heat, of)
    return np.array(
        [
            np.mean([sum(s.logprobs) - x for s, x in zip(group.samples, own, strict=True)])
            for group, own in zip(groups, others, strict=True)
        ]
    )


def kl_to_start(engine: Engine, groups: Sequence[Group], step: int) -> KL:
    """Mean over prompts with its 95 % interval; the start's own is 0, without asking."""
    if step == 0:
        return KL(0.0, 0.0, 0.0, len(groups))
    value, low, high = mean_interval(kl_by_prompt(engine, groups, START))
    assert value is not None
    return KL(value, low, high, len(groups))


def measures_kl(config: Config, sampler: Sampler) -> bool:
    """Whether evaluations have a KL to the start."""
    return _asked(config) and without_kl(config, sampler) is None


def _asked(config: Config) -> bool:
    return config.eval.size != 0 and config.eval.kl_prompts > 0


def without_kl(config: Config, sampler: Sampler) -> str | None:
    """Why evaluations have no KL to the start though `eval.kl_prompts` asks for it, in a line."""
    if not _asked(config):
        return None
    params = evaluation_params(config)
    if params.greedy:
        return (
            "eval.kl_prompts: no KL to the start, since it is a mean over what the policy samples, "
            "and at temperature 0 there is only the likeliest completion"
        )
    if params.truncated:
        return (
            "eval.kl_prompts: no KL to the start, since top-k or top-p sample from another "
            "distribution than the log-probs are of"
        )
    if not sampler.capabilities.true_logprobs:
        return (
            f"eval.kl_prompts: no KL to the start, since the sampler {config.engine.sampler!r} "
            "does not give the log-probs of what it samples"
        )
    return None
