"""How often comparisons over seeds err, in worlds made anew many times: docs/metrics.md.

    python -m tests.theory.calibration [errors families power coverage]

prints the tables there. A world says how outcomes of runs are distributed; variants that are equal
have one distribution, and runs of one seed may share an effect.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from winnow.theory.comparison import Difference, holm, paired, sign_flip, unpaired
from winnow.theory.student import power
from winnow.theory.summaries import interquartile_mean, probability_of_improvement
from winnow.theory.verdicts import Rule, told

Outcomes = NDArray[np.float64]
"""Outcomes of runs, shape (variants, seeds)."""

SEEDS = (3, 5, 6, 10, 20)
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


TESTS = ("verdict", "paired t", "Welch's t", "sign flips", "bootstrap")


def called(world: str, seeds: int, shared: bool, sets: int) -> dict[str, float]:
    """How often two equal variants are called different at 95 %, by each of `TESTS`."""
    rng = np.random.default_rng([0, seeds])
    return _called([runs(rng, world, 2, seeds, shared) for _ in range(sets)])


def called_unlike(seeds: int, sets: int) -> dict[str, float]:
    """Likewise of two of equal mean that are not alike: one hardly varies, one is log-normal."""
    rng = np.random.default_rng([4, seeds])
    made = []
    for _ in range(sets):
        own = rng.normal(size=(2, seeds))
        made.append(np.stack([0.01 * own[0], np.exp(own[1]) - np.exp(0.5)]))
    return _called(made)


def _called(made: list[Outcomes]) -> dict[str, float]:
    count = dict.fromkeys(TESTS, 0)
    for a, b in made:
        d = paired(a, b)
        count["verdict"] += told(d, d.p, Rule())
        count["paired t"] += d.p <= 0.05
        count["Welch's t"] += unpaired(a, b).p <= 0.05
        count["sign flips"] += d.exact_p is not None and d.exact_p <= 0.05
        count["bootstrap"] += bootstrap(a, b).p <= 0.05
    return {test: number / len(made) for test, number in count.items()}


def called_in_family(world: str, variants: int, seeds: int, sets: int) -> tuple[float, float]:
    """How often any two of many equal variants are called different, corrected for all pairs.

    By the verdict, and by the paired t test alone.
    """
    rng = np.random.default_rng([1, seeds])
    pairs = list(combinations(range(variants), 2))
    rule = Rule(comparisons=len(pairs))
    by_verdict = by_t = 0
    for _ in range(sets):
        outcomes = runs(rng, world, variants, seeds, shared=True)
        differences = [paired(outcomes[i], outcomes[j]) for i, j in pairs]
        adjusted = holm([d.p for d in differences])
        by_verdict += any(told(d, p, rule) for d, p in zip(differences, adjusted, strict=True))
        by_t += min(adjusted) <= 0.05
    return by_verdict / sets, by_t / sets


def held(world: str, seeds: int, sets: int) -> dict[str, float]:
    """How often intervals hold the truth; one that cannot be had does.

    Of a difference of one unit, where seeds share an effect; of the probability of improvement
    where it is a half and of the interquartile mean, where they do not.
    """
    rng = np.random.default_rng([2, seeds])
    out = seeds // 4 / seeds
    many = np.sort(runs(np.random.default_rng(9), world, 1, 400_000, shared=False)[0])
    middle = float(many[int(out * many.size) : many.size - int(out * many.size)].mean())
    count: dict[str, int] = {}
    for _ in range(sets):
        a, b = runs(rng, world, 2, seeds, shared=True)
        c, d = runs(rng, world, 2, seeds, shared=False)
        flips = sign_flip(a, b + 1.0)
        t, welch = paired(a, b + 1.0), unpaired(a, b + 1.0)
        for name, low, high, truth in (
            ("paired t", t.low, t.high, 1.0),
            ("Welch's t", welch.low, welch.high, 1.0),
            ("sign flips", flips.low, flips.high, 1.0),
            ("improvement, paired", *probability_of_improvement(c, d, True)[1:], 0.5),
            ("improvement", *probability_of_improvement(c, d, False)[1:], 0.5),
            ("interquartile mean", *interquartile_mean(c)[1:], middle),
        ):
            holds = low is None or high is None or low <= truth <= high
            count[name] = count.get(name, 0) + holds
    return {name: number / sets for name, number in count.items()}


def found(effect: float, seeds: int, sets: int) -> tuple[float, float]:
    """How often a difference of `effect` standard deviations of the differences is found.

    By the verdict, and by the paired t test alone.
    """
    rng = np.random.default_rng([3, seeds])
    by_verdict = by_t = 0
    for _ in range(sets):
        a, b = runs(rng, "normal", 2, seeds, shared=True)
        d = paired(a, b + effect * np.sqrt(2))
        by_verdict += told(d, d.p, Rule())
        by_t += d.p <= 0.05
    return by_verdict / sets, by_t / sets


def table_of_errors(sets: int, seeds: int) -> Iterator[str]:
    """Rows for equal variants: the larger one with and without an effect that seeds share."""
    columns = [[called(world, seeds, shared, sets) for shared in (False, True)] for world in WORLDS]
    unlike = called_unlike(seeds, sets)
    for test in TESTS:
        cells = [max(each[test] for each in both) for both in columns]
        yield _row([test, str(seeds)], [*cells, unlike[test]])


def table_of_families(sets: int, seeds: int) -> Iterator[str]:
    """Rows for 8 equal variants, all pairs."""
    rates = [called_in_family(world, 8, seeds, sets) for world in WORLDS]
    yield _row(["verdict, 28 pairs", str(seeds)], [rate for rate, _ in rates])
    yield _row(["paired t, 28 pairs", str(seeds)], [rate for _, rate in rates])


def table_of_power(sets: int, seeds: int) -> Iterator[str]:
    """Rows for a true difference of two standard errors."""
    effect = 2 / np.sqrt(seeds)
    yield _row(["found", str(seeds)], [power(effect, seeds), *found(effect, seeds, sets)[::-1]])


def table_of_coverage(sets: int, seeds: int) -> Iterator[str]:
    """Rows for intervals."""
    columns = [held(world, seeds, sets) for world in WORLDS]
    for name in columns[0]:
        yield _row([f"interval, {name}", str(seeds)], [column[name] for column in columns])


TABLES: dict[str, tuple[Callable[[int, int], Iterator[str]], int]] = {
    "errors": (table_of_errors, 2000),
    "families": (table_of_families, 400),
    "power": (table_of_power, 4000),
    "coverage": (table_of_coverage, 1000),
}
"""By name, with how many sets of outcomes are made."""


def _row(names: list[str], cells: Sequence[float]) -> str:
    return f"| {' | '.join([*names, *(f'{cell:.3f}' for cell in cells)])} |"


if __name__ == "__main__":
    for chosen in sys.argv[1:] or TABLES:
        table, sets = TABLES[chosen]
        for number in SEEDS:
            for line in table(sets, number):
                print(line, flush=True)
