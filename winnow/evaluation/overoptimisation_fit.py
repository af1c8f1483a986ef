"""Over-optimization of a proxy reward: proxy and gold against the KL spent. Pure.

Gao, Schulman & Hilton 2022 (2210.10760): with d = sqrt(KL), gold reward above that of one sample is

    best-of-n   R(d) = d (alpha - beta d)         peak at d = alpha / (2 beta)
    RL          R(d) = d (alpha - beta log d)     peak at d = exp(alpha / beta - 1)

Both are linear in alpha and beta and are fitted by least squares; intervals come from resampling
prompts, since the points of a curve share their samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from winnow.theory import best_of_n_weights, kl_best_of_n_bound, kl_best_of_n_plugin
from winnow.theory.checks import Array
from winnow.theory.intervals import resampled_interval

Form = Literal["best-of-n", "rl"]

_RESAMPLES = 1000
_HIGHEST = 700.0
"""The highest exponent whose exponential a float can hold."""


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval."""

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
        peak: Where measured gold is highest: n, or a step.
        fitted_peak: d of the fitted curve's top; infinite where it does not turn over.
        turns: Share of the resamples of prompts in which gold at the end is below gold at `peak`;
            0 where `peak` is the end.
        left_out: Prompts with too few scores to take part.
    """

    form: Form
    prompts: int
    points: list[Point]
    alpha: Measured
    beta: Measured
    peak: Measured
    fitted_peak: float
    turns: float
    left_out: int = 0


def best_of_n_study(
    proxies: Sequence[Array], golds: Sequence[Array], ns: Sequence[int], seed: int = 0
) -> Study:
    """The study of best-of-n, from one set of samples.

    Args:
        proxies: For each prompt the proxy's score of each of its N samples, shape (N,).
        golds: The gold score of the same samples.
        ns: From 1 upwards, at most the smallest N.
    """
    rows = [best_of_n_weights(proxy, ns) for proxy in proxies]
    proxy = np.array([w @ values for w, values in zip(rows, proxies, strict=True)])
    gold = np.array([w @ values for w, values in zip(rows, golds, strict=True)])
    kl = np.array([kl_best_of_n_plugin(values, ns) for values in proxies])
    return study_of(ns, kl, proxy, gold, "best-of-n", kl_best_of_n_bound(ns).tolist(), seed)


def study_of(
    at: Sequence[int],
    kl: Array,
    proxy: Array,
    gold: Array,
    form: Form,
    bounds: Sequence[float] | None = None,
    seed: int = 0,
) -> Study:
    """The study, from per-prompt curves.

    Args:
        at: Where the points are; the first has KL 0.
        kl, proxy, gold: Shape (prompts, points).

    Raises:
        ValueError: fewer than three points or two prompts.
    """
    prompts, count = gold.shape
    if count < 3 or prompts < 2:
        raise ValueError("a fit needs three points and two prompts at least")
    choices = np.random.default_rng(seed).integers(prompts, size=(_RESAMPLES, prompts))
    resampled = {
        name: np.array([values[rows].mean(axis=0) for rows in choices])
        for name, values in (("kl", kl), ("proxy", proxy), ("gold", gold))
    }
    pairs = zip(resampled["kl"], resampled["gold"], strict=True)
    fits = np.array([fit(k, g, form) for k, g in pairs])
    mean_kl, mean_gold = kl.mean(axis=0), gold.mean(axis=0)
    alpha, beta = fit(mean_kl, mean_gold, form)
    tops = np.array(at)[_first_highest(resampled["gold"])]
    place = int(_first_highest(mean_gold[None])[0])
    falls = resampled["gold"][:, place] - resampled["gold"][:, -1]
    return Study(
        form=form,
        prompts=prompts,
        points=[
            Point(
                at=int(at[i]),
                kl=float(mean_kl[i]),
                bound=math.nan if bounds is None else float(bounds[i]),
                proxy=_measured(float(proxy[:, i].mean()), resampled["proxy"][:, i]),
                gold=_measured(float(mean_gold[i]), resampled["gold"][:, i]),
            )
            for i in range(count)
        ],
        alpha=_measured(alpha, fits[:, 0]),
        beta=_measured(beta, fits[:, 1]),
        peak=_measured(float(at[place]), tops),
        fitted_peak=_top(alpha, beta, form),
        turns=float((falls > _rounding(gold)).mean()),
    )


def _first_highest(rows: Array) -> NDArray[np.int64]:
    """For each row the first place of its highest value, up to rounding."""
    near = rows >= rows.max(axis=1, keepdims=True) - _rounding(rows)
    return np.asarray(near.argmax(axis=1))


def _rounding(values: Array) -> float:
    return 1e-9 * float(np.abs(values).max())


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


def _measured(value: float, resampled: Array | NDArray[np.int64]) -> Measured:
    return Measured(value, *resampled_interval(resampled))
