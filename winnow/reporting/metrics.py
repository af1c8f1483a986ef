"""The metrics of a step, defined here and in docs/metrics.md. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from winnow.reporting.evaluation_line import evaluation_line
from winnow.theory.best_of import pass_at_k, sizes
from winnow.theory.checks import Array, logsumexp
from winnow.theory.importance import effective_sample_size
from winnow.theory.intervals import rate_interval
from winnow.theory.ties import all_equal
from winnow.types import Batch, Group, StepStats

Metrics = dict[str, Any]

MEASURES = (
    "preference_margin",
    "preference_accuracy",
    "kl_term",
    "entropy_term",
    "value_error",
    "critic_grad_norm",
    "anchor_loss",
)
"""Measures of terms in updates: means over their tokens, samples or groups."""
OF_SAMPLING = (
    "kl_to_reference",
    "kl_beta",
    "prompts_refilled",
    "distinct_right",
    "identical_pairs",
    "identical_expected",
    "retokenised_rate",
    "transfer_seconds",
    "requests_resent",
    "servers_failed",
    "servers_back",
)
"""Measures that are taken when samples are made or read."""
_LOG_LARGEST = math.log(np.finfo(np.float64).max)


def step_metrics(
    *,
    step: int,
    policy_version: int,
    batch: Batch,
    updates: Sequence[tuple[Sequence[int], StepStats]],
    empty_minibatches: int,
    seconds: Mapping[str, float],
    evaluation: Evaluation | None,
    phase: int | None = None,
) -> Metrics:
    """One row of metrics.jsonl; the same keys at every step, ``None`` where there is no value.

    Args:
        step: Steps done, this one included.
        batch: The groups of the step, with advantages. Earlier rounds are in no sample metric.
        updates: For each update the positions of its groups, and its statistics.
        empty_minibatches: Mini-batches with nothing to learn from, so without an update.
        phase: Number of the phase, in a run that has several.
    """
    groups = batch.groups[: len(batch.groups) - batch.merged]
    made = [(positions, stats) for positions, stats in updates if stats.applied]
    applied = [stats for _, stats in made]
    effective, share = concentration(batch.groups, made)
    kl = evaluation.kl if evaluation else None
    return {
        "step": step,
        "phase": phase,
        "policy_version": policy_version,
        **_of_samples(groups, batch.fresh),
        "samples_trained": sum(
            g.has_advantage(i) for g in groups for i in range(len(g.advantages))
        ),
        "merged": batch.merged,
        "effective_survivors": effective,
        "largest_prompt_share": share,
        "updates": len(applied),
        "updates_skipped": len(updates) - len(applied),
        "minibatches_empty": empty_minibatches,
        **_of_updates(applied),
        **{name: batch.measures.get(name) for name in OF_SAMPLING},
        "explained_variance": explained_variance(groups),
        "success_by_difficulty": success_by_difficulty(groups),
        "eval_accuracy": evaluation.accuracy if evaluation else None,
        "eval_low": evaluation.low if evaluation else None,
        "eval_high": evaluation.high if evaluation else None,
        "kl_to_start": kl.value if kl else None,
        "kl_to_start_low": kl.low if kl else None,
        "kl_to_start_high": kl.high if kl else None,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _of_samples(groups: Sequence[Group], fresh: bool) -> Metrics:
    samples = [sample for group in groups for sample in group.samples]
    pairs = [pair for group in groups for pair in zip(group.samples, group.right, strict=True)]
    values = [value for group in groups for value in group.values]
    kinds = Counter(group.kind for group in groups)
    return {
        "reward_mean": _mean(values),
        "reward_parts": reward_parts(groups),
        "right_rate": _ratio(sum(sum(g.right) for g in groups), len(values)),
        "prompts": len(groups),
        "prompts_all_wrong": kinds["all-wrong"],
        "prompts_mixed": kinds["mixed"],
        "prompts_all_right": kinds["all-right"],
        "prompts_no_score": kinds["no-score"],
        "samples": len(samples),
        "errors": len(samples) - len(values),
        "survivors": sum(outcome.survived for group in groups for outcome in group.outcomes),
        "entropy": _mean([x for sample in samples for x in sample.entropies]),
        "entropy_right": _mean([x for sample, right in pairs if right for x in sample.entropies]),
        "completion_tokens_mean": _mean([len(sample.token_ids) for sample in samples]),
        "cut_off_rate": _ratio(sum(s.finish_reason == "length" for s in samples), len(samples)),
        "tokens_sampled": sum(len(sample.token_ids) for sample in samples) if fresh else 0,
    }


def _of_updates(applied: Sequence[StepStats]) -> Metrics:
    ratio_tokens = sum(stats.ratio_tokens for stats in applied)

    gap_tokens = sum(s.gap_tokens for s in applied)

    return {
        "tokens_trained": sum(stats.tokens for stats in applied),
        "positions_trained": sum(stats.positions for stats in applied),
        "loss": _mean([stats.loss for stats in applied]),
        "grad_norm": _mean([stats.grad_norm for stats in applied]),
        "grad_clip_fraction": _ratio(sum(stats.grad_clipped for stats in applied), len(applied)),
        "lr": applied[-1].lr if applied else None,
        "clip_fraction": _ratio(sum(s.clipped for s in applied), ratio_tokens),
        "ratio_mean": _ratio(sum(s.ratio_sum for s in applied), ratio_tokens),
        "ratio_max_deviation": max((s.ratio_max for s in applied), default=None)
        if ratio_tokens
        else None,
        "kl_to_sampling_policy": _ratio(sum(s.kl_sum for s in applied), ratio_tokens),
        "logprob_gap": _ratio(sum(s.gap_sum for s in applied), gap_tokens),
        "sampler_kl": _ratio(sum(s.gap_kl_sum for s in applied), gap_tokens),
        "sampler_tv": _ratio(sum(s.gap_tv_sum for s in applied), gap_tokens),
        "ratio_quantiles": _quantiles([x for stats in applied for x in stats.token_ratios]),
        **_of_weights([stats.log_weights for stats in applied if stats.log_weights]),
        **{name: _measured(applied, name) for name in MEASURES},
    }


def _of_weights(log_weights: Sequence[Sequence[float]]) -> Metrics:
    """Of the importance weights of whole completions, by update.

    The effective sample size knows weights up to a factor, so it is shown with their mean.
    """
    sizes = [_relative_ess(own) for own in log_weights]
    last = log_weights[-1] if log_weights else []
    return {
        "ess": _mean(sizes),
        "ess_last": sizes[-1] if sizes else None,
        "ess_samples": len(last) or None,
        "weight_mean": _mean_of_exponentials(last) if last else None,
    }


def concentration(
    groups: Sequence[Group], updates: Sequence[tuple[Sequence[int], StepStats]]
) -> tuple[float | None, float | None]:
    """Effective number of survivors, and the largest share that one prompt has in the update.

    With u the influence of a sample, sum over its tokens of |coefficient x advantage|, summed over
    the step's updates: (sum u)^2 / sum u^2 (Kish), and max over prompts of their part of sum u. One
    lucky sample among 64 gives 1.0 and 1.0. ``None`` where nothing was trained.
    """
    influence: dict[tuple[int, int], float] = defaultdict(float)
    for positions, stats in updates:
        for position, row in zip(positions, stats.influence, strict=True):
            for sample, value in enumerate(row):
                influence[position, sample] += value
    largest = max(influence.values(), default=0.0)
    if largest == 0:
        return None, None
    influence = {key: value / largest for key, value in influence.items()}  # squares underflow
    total = math.fsum(influence.values())
    by_prompt: defaultdict[str, float] = defaultdict(float)
    for (position, _), value in influence.items():
        by_prompt[groups[position].prompt.id] += value
    squares = math.fsum(value * value for value in influence.values())
    return total * total / squares, max(by_prompt.values()) / total


def explained_variance(groups: Sequence[Group]) -> float | None:
    """1 - Var(R - V)/Var(R) over tokens: how much of the returns the critic predicted.

    ``None`` without a critic, or where all returns are equal.
    """
    own = [s for group in groups for s in group.annotations if s.values and s.returns]
    returns = np.array([x for one in own for x in one.returns])
    if all_equal(returns):
        return None
    left = returns - np.array([x for one in own for x in one.values])
    return float(1 - left.var() / returns.var())


def _measured(updates: Sequence[StepStats], name: str) -> float | None:
    found = [stats.measures[name] for stats in updates if name in stats.measures]
    count = sum(number for _, number in found)
    return sum(total for total, _ in found) / count if count else None


def reward_parts(groups: Iterable[Group]) -> dict[str, float] | None:
    """Of several rewards the mean of each over the valid samples, before its weight; else ``None``.

    Keys are the labels of the parts, in their order.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for group in groups:
        for score in group.scores:
            for label, value in score.parts if score.value is not None else ():
                found[label].append(value)
    return {label: float(np.mean(values)) for label, values in found.items()} or None


def success_by_difficulty(groups: Iterable[Group]) -> dict[str, float]:
    """Share of right samples among the valid ones, for each difficulty."""
    right: Counter[str] = Counter()
    valid: Counter[str] = Counter()
    for group in groups:
        if group.prompt.difficulty is not None:
            right[group.prompt.difficulty] += sum(group.right)
            valid[group.prompt.difficulty] += sum(group.valid)
    return {label: right[label] / count for label, count in sorted(valid.items()) if count}


@dataclass(frozen=True)
class KL:
    """KL to the starting weights, nats a completion, with its 95 % interval over prompts.

    Attributes:
        value: Mean over prompts of the mean over their samples of log pi - log pi_start (k1).
        low, high: `theory.intervals.mean_interval`; ``None`` where it has none.
        prompts: So many, always the same.
    """

    value: float
    low: float | None
    high: float | None
    prompts: int


@dataclass(frozen=True)
class PassAt:
    """pass@k: the share of prompts of whose k samples one is right, with its 95 % interval.

    Attributes:
        value: Mean over prompts of `theory.pass_at_k`, which has no bias and uses all samples.
        low, high: `theory.intervals.rate_interval`; ``None`` for fewer than two prompts.
        prompts: Those with k samples that have a score; the others are left out.
    """

    k: int
    value: float
    low: float | None
    high: float | None
    prompts: int


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Accuracy on held-out prompts, with a 95 % interval.

    Attributes:
        accuracy: Mean over prompts of the share of right samples among the valid ones.
        reward: Mean over prompts of the mean reward of their valid samples.
        reward_parts: Of several rewards the mean of each over the valid samples, before its weight.
        low, high: Interval over prompts: `theory.intervals.rate_interval`; ``None`` for fewer than
            two prompts with a score.
        errors: Samples without a score; they are in no rate.
        kl: To the starting weights; ``None`` where it was not asked for or cannot be had.
        pass_at_k: For k = 1, 2, 4, ... and all samples of a prompt, where it has several.
        time: When it was done: UTC, ISO 8601.
    """

    step: int
    accuracy: float | None
    reward: float | None
    low: float | None
    high: float | None
    prompts: int
    samples: int
    errors: int
    by_difficulty: Mapping[str, float]
    seconds: float
    split: str = "eval"
    pass_at_k: Sequence[PassAt] = ()
    kl: KL | None = None
    time: str = ""
    reward_parts: Mapping[str, float] | None = None

    def __repr__(self) -> str:
        return evaluation_line(self)


def evaluation(
    step: int,
    groups: Sequence[Group],
    seconds: float,
    split: str = "eval",
    kl: KL | None = None,
) -> Evaluation:
    """Accuracy of scored groups."""
    scored = [(sum(g.right), sum(g.valid)) for g in groups if any(g.valid)]
    samples = sum(len(group.samples) for group in groups)
    accuracy, low, high = accuracy_of(scored) if scored else (None, None, None)
    return Evaluation(
        step=step,
        accuracy=accuracy,
        reward=_mean([float(np.mean(g.values)) for g in groups if any(g.valid)]),
        low=low,
        high=high,
        prompts=len(groups),
        samples=samples,
        errors=samples - sum(sum(group.valid) for group in groups),
        by_difficulty=success_by_difficulty(groups),
        seconds=seconds,
        split=split,
        pass_at_k=passes(scored),
        kl=kl,
        reward_parts=reward_parts(groups),
    )


def passes(scored: Sequence[tuple[int, int]]) -> list[PassAt]:
    """pass@k for k = 1, 2, 4, ... and the most samples that a prompt has; none if that is one.

    Args:
        scored: For each prompt the number of right samples and of valid ones, at least 1.
    """
    most = max((valid for _, valid in scored), default=0)
    found = []
    for k in sizes(most) if most > 1 else ():
        enough = [pair for pair in scored if pair[1] >= k]
        _, blocks = rates_of(enough)
        right, valid = np.array(enough).T
        interval = rate_interval(pass_at_k(valid, right, k), blocks / k)
        found.append(PassAt(k, *interval, prompts=len(enough)))
    return found


def accuracy_of(
    scored: Sequence[tuple[int, int]],
) -> tuple[float, float | None, float | None]:
    """Mean over prompts of right / valid, with its interval.

    Args:
        scored: For each prompt the number of right samples and of valid ones, at least 1.
    """
    return rate_interval(*rates_of(scored))


def rates_of(scored: Sequence[tuple[int, int]]) -> tuple[Array, float]:
    """The rate of each prompt, and how many samples one rate is worth: the harmonic mean.

    The variance of a prompt's rate falls as 1 / valid, so the mean of 1 / valid is what counts.
    """
    right, valid = np.array(scored, dtype=np.float64).T
    return right / valid, float(1 / np.mean(1 / valid))


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """1 %, 50 % and 99 % quantiles."""
    if not values:
        return None
    marks = {"1%": 0.01, "50%": 0.5, "99%": 0.99}
    found = np.quantile(np.array(values), list(marks.values()))
    return dict(zip(marks, found.tolist(), strict=True))


def _mean_of_exponentials(logs: Sequence[float]) -> float:
    """Mean of exp(x), no larger than the largest float: a row of metrics has no infinity."""
    log_mean = float(logsumexp(np.array(logs))) - math.log(len(logs))
    return math.exp(log_mean) if log_mean < _LOG_LARGEST else float(np.finfo(np.float64).max)


def _relative_ess(log_weights: Sequence[float]) -> float:
    return float(effective_sample_size(np.array(log_weights))) / len(log_weights)
