"""How often `winnow overoptimisation` shows a fall, and holds the truth: docs/metrics.md.

    python -m tests.evaluation.overoptimisation_levels

prints the tables there. In each world a study's prompts and samples are made anew; gold is flat,
rises to a plateau or rises throughout (a fall would be a false one), or rises and falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from winnow.evaluation.overoptimisation_fit import Form, Rewards, fit, rewards_of, study_of
from winnow.theory import best_of_n_weights, kl_best_of_n_plugin
from winnow.theory.drops import drop_from_highest

Numbers = NDArray[np.float64]

PROMPTS = (32, 64, 256)
SAMPLES = 64
NS = (1, 2, 4, 8, 16, 32, 64)
STEPS = 7
_EVERYTHING = 20_000
"""Prompts that stand for all there are; the truth of a curve with noise is that of their mean."""


@dataclass(frozen=True)
class World:
    """Where the data of a study come from.

    Attributes:
        name: As the tables show it.
        falls: Whether gold falls in truth.
        golds: From proxy scores, ascending, shape (prompts, samples): gold's, the same shape.
        run: Samples of a prompt at each evaluation of a training run; 0: best of n.
    """

    name: str
    falls: bool
    golds: Callable[[np.random.Generator, Numbers], Numbers]
    run: int = 0

    @property
    def form(self) -> Form:
        return "rl" if self.run else "best-of-n"


def _rate(rng: np.random.Generator, probability: Numbers) -> Numbers:
    return (rng.random(probability.shape) < probability).astype(np.float64)


def _difficulty(rng: np.random.Generator, proxy: Numbers, rate: float) -> Numbers:
    """Beta-distributed with a + b = 1: prompts that differ much."""
    own = rng.beta(rate, 1 - rate, (len(proxy), 1))
    return np.asarray(np.broadcast_to(own, proxy.shape))


def _noise(rng: np.random.Generator, proxy: Numbers) -> Numbers:
    return np.asarray(rng.normal(size=proxy.shape) + rng.normal(size=(len(proxy), 1)))


def _logistic(x: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-x)))


WORLDS = (
    World("flat, 5 % right, prompts alike", False, lambda r, z: _rate(r, np.full(z.shape, 0.05))),
    World("flat, 5 % right", False, lambda r, z: _rate(r, _difficulty(r, z, 0.05))),
    World("flat, 30 % right", False, lambda r, z: _rate(r, _difficulty(r, z, 0.3))),
    World("flat, normal", False, _noise),
    World("flat, log-normal", False, lambda r, z: np.exp(1.5 * r.normal(size=z.shape))),
    World("flat, a run of 1 sample", False, lambda r, z: _rate(r, _difficulty(r, z, 0.3)), 1),
    World("flat, a run of 4 samples", False, lambda r, z: _rate(r, _difficulty(r, z, 0.05)), 4),
    World("to a plateau, 5 %", False, lambda r, z: _rate(r, (z > -0.5) * _difficulty(r, z, 0.05))),
    World("to a plateau, 30 %", False, lambda r, z: _rate(r, (z > -0.5) * _difficulty(r, z, 0.3))),
    World("to a plateau, normal", False, lambda r, z: np.minimum(z, 0) + _noise(r, z)),
    World("rises, rate", False, lambda r, z: _rate(r, _logistic(0.5 * z - 2))),
    World("rises, normal", False, lambda r, z: 0.3 * z + _noise(r, z)),
    World("falls, rate", True, lambda r, z: _rate(r, np.where(z > 1.8, 0.05, _logistic(z - 1.5)))),
    World("falls, rare", True, lambda r, z: _rate(r, np.where(z > 1.3, 0.01, 0.06))),
    World("falls, normal", True, lambda r, z: np.where(z > 1.6, -0.25, 0.5 * z) + _noise(r, z)),
)


def data(world: World, rng: np.random.Generator, prompts: int) -> tuple[Numbers, Rewards]:
    """KL, shape (prompts, points), and gold of one study."""
    if world.run:
        golds = world.golds(rng, np.zeros((prompts, STEPS * world.run)))
        by_step = golds.reshape(prompts, STEPS, world.run).mean(axis=2)
        kl = np.tile(0.3 * np.arange(STEPS), (prompts, 1))
        return kl, rewards_of(by_step, golds, [world.run] * STEPS)
    golds = world.golds(rng, np.sort(rng.normal(size=(prompts, SAMPLES))))
    weights = best_of_n_weights(np.arange(SAMPLES), NS)
    kl = np.tile(kl_best_of_n_plugin(np.arange(SAMPLES), NS), (prompts, 1))
    return kl, rewards_of(golds @ weights.T, golds, [SAMPLES / n for n in NS])


@cache
def truth(world: World) -> Numbers:
    """The true curve of gold; exactly flat where it is."""
    rng = np.random.default_rng(11)
    means = [data(world, rng, _EVERYTHING)[1].values.mean(axis=0) for _ in range(25)]
    curve = np.mean(means, axis=0)
    return np.full_like(curve, curve[0]) if world.name.startswith("flat") else curve


def shown(world: World, prompts: int, sets: int) -> float:
    """In what share of data sets a fall is shown."""
    rng = np.random.default_rng(12)
    found = 0
    for _ in range(sets):
        _, gold = data(world, rng, prompts)
        found += drop_from_highest(gold.values, gold.values.shape[1] - 1, gold.top).p <= 0.05
    return found / sets


def held(world: World, prompts: int, sets: int) -> Numbers:
    """In what share of data sets each interval of a study holds the truth.

    Of gold at the first point and the last, the drop, the peak (the last of several), alpha, beta.
    """
    rng = np.random.default_rng(13)
    curve = truth(world)
    kl = data(world, rng, 2)[0][0]
    alpha, beta = fit(kl, curve, world.form)
    at = list(range(STEPS)) if world.run else list(NS)
    peak = at[int(np.flatnonzero(curve >= curve.max() - 1e-12)[-1])]
    true = (curve[0], curve[-1], curve.max() - curve[-1], peak, alpha, beta)
    found = np.zeros(len(true))
    for _ in range(sets):
        kl_, gold = data(world, rng, prompts)
        study = study_of(at, kl_, gold, gold, world.form)
        first, last = study.points[0].gold, study.points[-1].gold
        measured = (first, last, study.drop, study.peak, study.alpha, study.beta)
        found += [m.low - 1e-12 <= t <= m.high + 1e-12 for m, t in zip(measured, true, strict=True)]
    return found / sets


def _row(name: str, cells: list[float]) -> str:
    return f"| {' | '.join([name, *(f'{cell:.3f}' for cell in cells)])} |"


def tables(sets: int, fewer: int) -> Iterator[str]:
    """Rows of the docs' tables: falls shown by number of prompts, then coverage at each."""
    for world in WORLDS:
        yield _row(world.name, [shown(world, prompts, sets) for prompts in PROMPTS])
    for prompts in PROMPTS[1:]:
        for world in WORLDS:
            yield _row(f"{prompts} | {world.name}", held(world, prompts, fewer).tolist())


if __name__ == "__main__":
    for line in tables(2000, 400):
        print(line, flush=True)
