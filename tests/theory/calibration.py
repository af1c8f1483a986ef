"""How often comparisons over seeds err, in worlds made anew many times: docs/metrics.md.

    python -m tests.theory.calibration

prints the tables there. A world says how outcomes of runs are distributed; variants that are equal
have one distribution, and runs of one seed may share an effect.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from winnow.theory.comparison import Difference, holm, paired, sign_flip, unpaired
from winnow.theory.verdicts import Rule, told

Outcomes = NDArray[np.float64]
"""Outcomes of runs, shape (variants, seeds)."""
Test = Callable[[Outcomes, Outcomes], Difference]

SEEDS = (3, 5, 10, 20)
PROMPTS = 64
"""Of which the accuracies are."""
SHARED = 1.0
"""Standard deviation of the effect of a seed, in that of a run's own."""


def _accuracies(rng: np.random.Generator, own: Outcomes, centre: float) -> Outcomes:
    """Of 64 prompts each, with a logit that varies from run to run."""
    rates = 1 / (1 + np.exp(-np.log(centre / (1 - centre)) - 0.3 * own))
    return rng.binomial(PROMPTS, rates) / PROMPTS


def _learned(rng: np.random.Generator, own: Outcomes) -> Outcomes:
    """Runs that learn or fail, about half of each."""
    return np.where(own > 0, 0.9, 0.1) + 0.01 * rng.normal(size=own.shape)


WORLDS: dict[str, Callable[[np.random.Generator, Outcomes], Outcomes]] = {
    "normal": lambda rng, own: own,
    "log-normal": lambda rng, own: np.exp(own),
    "t, 2 degrees of freedom": lambda rng, own: own / np.sqrt(rng.exponential(size=own.shape)),
    "accuracy near 1 %": lambda rng, own: _accuracies(rng, own, 0.01),
    "accuracy near 50 %": lambda rng, own: _accuracies(rng, own, 0.5),
    "accuracy near 98 %": lambda rng, own: _accuracies(rng, own, 0.98),
    "learns or fails": _learned,
}
"""Outcomes from each run's own standard normal number, the seed's effect in it."""


def runs(rng: np.random.Generator, world: str, variants: int, seeds: int, shared: bool) -> Outcomes:
    own = rng.normal(size=(variants, seeds))
    if shared:
        own = own + SHARED * rng.normal(size=seeds)
    return WORLDS[world](rng, own)


def bootstrap(a: Outcomes, b: Outcomes) -> Difference:
    """The percentile bootstrap of paired differences, which is no part of Winnow: it errs."""
    d = b - a
    means = d[np.random.default_rng(0).integers(0, d.size, (1000, d.size))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    p = 1.0 if low <= 0 <= high else 0.0
    return Difference(float(d.mean()), low, high, p, d.size, "bootstrap")


def by_verdict(a: Outcomes, b: Outcomes) -> Difference:
    """That of the only comparison of a study, its p that of what the verdict says."""
    d = paired(a, b)
    p = min(d.p, 0.05) if told(d, d.p, Rule()) else 1.0
    return Difference(d.estimate, d.low, d.high, p, d.seeds, "verdict")


TESTS: dict[str, Test] = {
    "paired t": paired,
    "Welch": unpaired,
    "sign flips": sign_flip,
    "verdict": by_verdict,
    "bootstrap": bootstrap,
}


def called(test: Test, world: str, seeds: int, shared: bool, sets: int) -> float:
    """How often two equal variants are called different at 95 %."""
    rng = np.random.default_rng([0, seeds])
    found = 0
    for _ in range(sets):
        a, b = runs(rng, world, 2, seeds, shared)
        found += test(a, b).p <= 0.05
    return found / sets


def called_in_family(test: Test, world: str, variants: int, seeds: int, sets: int) -> float:
    """How often any two of many equal variants are called different, corrected for all pairs."""
    rng = np.random.default_rng([1, seeds])
    pairs = list(combinations(range(variants), 2))
    rule = Rule(comparisons=len(pairs))
    found = 0
    for _ in range(sets):
        outcomes = runs(rng, world, variants, seeds, shared=True)
        differences = [test(outcomes[i], outcomes[j]) for i, j in pairs]
        adjusted = holm([d.p for d in differences])
        found += any(told(d, p, rule) for d, p in zip(differences, adjusted, strict=True))
    return found / sets


def held(test: Test, world: str, seeds: int, sets: int) -> float:
    """How often the interval of a difference of one unit holds it; seeds share an effect."""
    rng = np.random.default_rng([2, seeds])
    count = 0
    for _ in range(sets):
        a, b = runs(rng, world, 2, seeds, shared=True)
        d = test(a, b + 1.0)
        count += d.low is None or d.high is None or d.low <= 1.0 <= d.high
    return count / sets


def found(test: Test, effect: float, seeds: int, sets: int) -> float:
    """How often a difference of `effect` standard deviations of the differences is found."""
    rng = np.random.default_rng([3, seeds])
    count = 0
    for _ in range(sets):
        a, b = runs(rng, "normal", 2, seeds, shared=True)
        count += test(a, b + effect * np.sqrt(2)).p <= 0.05
    return count / sets
