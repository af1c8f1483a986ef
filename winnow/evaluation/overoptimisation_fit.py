"""Over-optimization of a proxy reward: proxy and gold against the KL spent. Pure.

Gao, Schulman & Hilton 2022 (2210.10760): with d = sqrt(KL), gold reward above that of one sample is

    best-of-n   R(d) = d (alpha - beta d)         peak at d = alpha / (2 beta)
    RL          R(d) = d (alpha - beta log d)     peak at d = exp(alpha / beta - 1)

Both are linear in alpha and beta and are fitted by least squares; their intervals come from
resampling prompts, since the points of a curve share their samples. That gold falls is shown by
`winnow.theory.drops`, which knows that the peak was chosen where gold is highest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from winnow.theory import best_of_n_weights, kl_best_of_n_bound, kl_best_of_n_plugin
from winnow.theory.checks import Array
from winnow.theory.drops import Drop, drop_between, drop_from_highest, highest_columns
from winnow.theory.intervals import mean_interval, rate_interval, resampled_interval

Form = Literal["best-of-n", "rl"]

_RESAMPLES = 1000
_LEVEL = 0.05
_HIGHEST = 700.0
"""The highest exponent whose exponential a float can hold."""


@dataclass(frozen=True)
class Rewards:
    """A reward of each prompt at each point of the curve.

    Attributes:
        values: Expected reward, shape (prompts, points).
        top: The highest score of a sample.
        blocks: For each point, of how many separate samples a value is made, where scores are 0 or
            1; infinite where they lie between; empty where they are not within 0 to 1.
    """

    values: Array
    top: float
    blocks: tuple[float, ...]


def rewards_of(values: Array, scores: Array, blocks: Sequence[float]) -> Rewards:
    """The rewards of a curve, with what the scores of its samples (of any shape) say of them.

    Args:
        values: Expected reward, shape (prompts, points).
        blocks: For each point, of how many separate samples a value is made.
    """
    known: tuple[float, ...] = ()
    if scores.min() >= 0 and scores.max() <= 1:
        two = bool(np.isin(scores, (0.0, 1.0)).all())
        known = tuple(float(number) if two else math.inf for number in blocks)
    return Rewards(values, float(scores.max()), known)


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One place of the curve.

    Attributes:
        at: n of best-of-n, or the step of a checkpoint.
        kl: In nats; `bound` is the most that best-of-n can have (NaN for checkpoints).
        proxy, gold: Mean reward over prompts.
    """

    at: int
    kl: float
    bound: float
    proxy: Measured
    gold: Measured


@dataclass(frozen=True)
class Study:
    """Proxy and gold against the KL spent.

    Attributes:
        alpha, beta: Of the fit to gold, d in sqrt(nat).
        peak: Where measured gold is highest, n or a step; the interval spans a 95 % confidence set.
        fitted_peak: d of the fitted curve's top; infinite where it does not turn over.
        drop: How far gold at the end is below its highest (the choice of the peak is accounted
            for), or below gold at `drop_from` if that was set beforehand.
        drop_from: The n or step that was set beforehand; ``None``: from the peak.
        left_out: Prompts with too few scores to take part.
    """

    form: Form
    prompts: int
    points: list[Point]
    alpha: Measured
    beta: Measured
    peak: Measured
    fitted_peak: float
    drop: Drop
    drop_from: int | None = None
    left_out: int = 0

    @property
    def falls(self) -> bool:
        """Whether the data show that gold falls, at a level of 5 %."""
        return self.drop.p <= _LEVEL


def best_of_n_study(
    proxies: Sequence[Array],
    golds: Sequence[Array],
    ns: Sequence[int],
    seed: int = 0,
    drop_from: int | None = None,
) -> Study:
    """The study of best-of-n, from one set of samples.

    Args:
        proxies: For each prompt the proxy's score of each of its N samples, shape (N,).
        golds: The gold score of the same samples.
        ns: From 1 upwards, at most the smallest N.
        drop_from: One of them, chosen without these samples, that the drop is counted from.
    """
    weights = [best_of_n_weights(proxy, ns) for proxy in proxies]
    blocks = [min(map(len, proxies)) / n for n in ns]
    proxy, gold = (
        rewards_of(
            np.array([w @ values for w, values in zip(weights, scores, strict=True)]),
            np.concatenate(scores),
            blocks,
        )
        for scores in (list(proxies), list(golds))
    )
    kl = np.array([kl_best_of_n_plugin(values, ns) for values in proxies])
    bounds = kl_best_of_n_bound(ns).tolist()
    return study_of(ns, kl, proxy, gold, "best-of-n", bounds, seed, drop_from)


def study_of(
    at: Sequence[int],
    kl: Array,
    proxy: Rewards,
    gold: Rewards,
    form: Form,
    bounds: Sequence[float] | None = None,
    seed: int = 0,
    drop_from: int | None = None,
) -> Study:
    """The study, from per-prompt curves.

    Args:
        at: Where the points are; the first has KL 0.
        kl: Shape (prompts, points), as the values of `proxy` and `gold`.
        drop_from: One of `at` before the last; see `Study`.

    Raises:
        ValueError: fewer than three points or two prompts.
    """
    prompts, count = gold.values.shape
    if count < 3 or prompts < 2:
        raise ValueError("a fit needs three points and two prompts at least")
    choices = np.random.default_rng(seed).integers(prompts, size=(_RESAMPLES, prompts))
    pairs = ((kl[rows].mean(axis=0), gold.values[rows].mean(axis=0)) for rows in choices)
    fits = np.array([fit(k, g, form) for k, g in pairs])
    mean_kl, mean_gold = kl.mean(axis=0), gold.values.mean(axis=0)
    alpha, beta = fit(mean_kl, mean_gold, form)
    highest = [int(at[i]) for i in highest_columns(gold.values, gold.top, seed)]
    if drop_from is None:
        drop = drop_from_highest(gold.values, count - 1, gold.top, seed)
    else:
        start = list(at).index(drop_from)
        drop = drop_between(gold.values, start, count - 1, gold.top, seed)
    return Study(
        form=form,
        prompts=prompts,
        points=[
            Point(
                at=int(at[i]),
                kl=float(mean_kl[i]),
                bound=math.nan if bounds is None else float(bounds[i]),
                proxy=_mean(proxy, i),
                gold=_mean(gold, i),
            )
            for i in range(count)
        ],
        alpha=Measured(alpha, *resampled_interval(fits[:, 0], prompts)),
        beta=Measured(beta, *resampled_interval(fits[:, 1], prompts)),
        peak=Measured(float(at[_first_highest(mean_gold)]), min(highest), max(highest)),
        fitted_peak=_top(alpha, beta, form),
        drop=drop,
        drop_from=drop_from,
    )


def _mean(rewards: Rewards, point: int) -> Measured:
    values = rewards.values[:, point]
    if rewards.blocks:
        value, low, high = rate_interval(values, rewards.blocks[point])
        return _whole(value, low, high)
    return _whole(*mean_interval(values))


def _whole(value: float | None, low: float | None, high: float | None) -> Measured:
    assert value is not None  # of two prompts at least
    if low is None or high is None:
        return Measured(value, math.nan, math.nan)
    return Measured(value, low, high)


def _first_highest(means: Array) -> int:
    """The first place of the highest mean, up to rounding."""
    return int(np.argmax(means >= means.max() - 1e-9 * np.abs(means).max()))


def fit(kl: Array, gold: Array, form: Form) -> tuple[float, float]:
    """alpha and beta of the form by least squares; the first point has KL 0."""
    d = np.sqrt(np.maximum(kl[1:] - kl[0], 0.0))
    gain = gold[1:] - gold[0]
    used = d > 0
    d, gain = d[used], gain[used]
    if d.size < 2:
        return math.nan, math.nan
    second = -d * d if form == "best-of-n" else -d * np.log(d)
    solved = np.linalg.lstsq(np.stack([d, second], axis=1), gain, rcond=None)[0]
    return float(solved[0]), float(solved[1])


def fitted(d: Array, study: Study) -> Array:
    """Gold of the fitted curve at d = sqrt(KL), shape of `d`."""
    start = study.points[0].gold.value
    if study.form == "best-of-n":
        return np.asarray(start + d * (study.alpha.value - study.beta.value * d))
    logs = np.log(np.maximum(d, 1e-12))
    return np.asarray(start + d * (study.alpha.value - study.beta.value * logs))


def as_json_table(study: Study) -> dict[str, Any]:
    """The study as JSON can hold it: ``None`` for infinities and NaN."""
    return {key: _plain(value) for key, value in asdict(study).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _top(alpha: float, beta: float, form: Form) -> float:
    """d of the curve's top, at least 0; infinite where it does not come down again."""
    if math.isnan(beta):
        return math.nan
    if beta <= 0:
        return math.inf
    if form == "best-of-n":
        return max(0.0, alpha / (2 * beta))
    power = alpha / beta - 1
    return math.exp(power) if power < _HIGHEST else math.inf
