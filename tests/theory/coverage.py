"""What share of data sets made anew each 95 % interval holds the truth in: docs/metrics.md.

    python -m tests.theory.coverage

prints the tables there. A prompt's difficulty, the probability that a sample is right, is
beta-distributed with the true rate as its mean; a small `spread` (a + b) makes prompts unlike.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from winnow.theory import pass_at_k
from winnow.theory.intervals import (
    clustered_interval,
    mean_interval,
    paired_difference,
    rate_interval,
)

Rates = NDArray[np.float64]

PROMPTS = (64, 256)
SPREADS = (0.5, 2.0, 8.0)
RATES = (0.01, 0.05, 0.2, 0.5)
"""Of p and of 1 - p the intervals are mirror images: `tests/theory/test_intervals.py`."""
SAMPLES = (1, 2, 4, 8, 16)
SHARES = (0.5, 0.6, 0.75, 0.9, 0.99)
"""Of pairs in the right order."""
KINDS = ("normal", "exponential", "log-normal")
FEW = (2, 8, 32, 256)
CHANGES = ((0.01, 0.01), (0.01, 0.05), (0.05, 0.75), (0.2, 0.3), (0.5, 0.5), (0.01, 0.99))


def difficulties(rng: np.random.Generator, rate: float, spread: float, prompts: int) -> Rates:
    return rng.beta(rate * spread, (1 - rate) * spread, prompts)


@cache
def population(rate: float, spread: float) -> Rates:
    """Difficulties of all prompts there are, the hardest first."""
    rng = np.random.default_rng(2)
    return np.sort(difficulties(rng, rate, spread, 100_000))


def holds(interval: tuple[float | None, float | None], truth: float) -> bool:
    low, high = interval
    assert low is not None
    assert high is not None
    return low <= truth <= high


def of_rates(sets: int, prompts: int, rate: float, samples: int, spread: float) -> float:
    """Coverage of `rate_interval`."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(sets):
        right = rng.binomial(samples, difficulties(rng, rate, spread, prompts))
        _, low, high = rate_interval(right / samples, samples)
        held += holds((low, high), rate)
    return held / sets


def of_pairs(sets: int, prompts: int, share: float) -> float:
    """Coverage of `clustered_interval`: pairs of a prompt, 1 to 4, that go together."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(sets):
        sizes = rng.integers(1, 5, prompts)
        clusters = np.repeat(np.arange(prompts), sizes)
        right = rng.random(len(clusters)) < difficulties(rng, share, 2.0, prompts)[clusters]
        _, low, high = clustered_interval(right.astype(float), clusters)
        held += holds((low, high), share)
    return held / sets


def of_passes(sets: int, prompts: int, rate: float, n: int, spread: float) -> float:
    """Coverage of pass@n from 16 samples a prompt."""
    rng = np.random.default_rng(4)
    true = float((1 - (1 - population(rate, spread)) ** n).mean())
    held = 0
    for _ in range(sets):
        own = rng.choice(population(rate, spread), prompts)
        right = rng.binomial(16, own)
        _, low, high = rate_interval(pass_at_k(16, right, n), 16 / n)
        held += holds((low, high), true)
    return held / sets


def of_means(sets: int, prompts: int, kind: str) -> float:
    """Coverage of `mean_interval`: values of prompts that are normal, or skewed to the right."""
    rng = np.random.default_rng(5)
    made = {
        "normal": lambda: rng.normal(size=prompts),
        "exponential": lambda: rng.exponential(size=prompts) - 1.0,
        "log-normal": lambda: rng.lognormal(size=prompts) - np.exp(0.5),
    }[kind]
    held = 0
    for _ in range(sets):
        _, low, high = mean_interval(made())
        held += holds((low, high), 0.0)
    return held / sets


def of_differences(
    sets: int, prompts: int, change: tuple[float, float], samples: int, spread: float, alike: bool
) -> float:
    """Coverage of `paired_difference`; `alike`: what is hardest before is hardest after."""
    rng = np.random.default_rng(1)
    everything = [population(rate, spread) for rate in change]
    true = float(everything[1].mean() - everything[0].mean())
    held = 0
    for _ in range(sets):
        chosen = rng.integers(0, len(everything[0]), (2, prompts))
        places = (chosen[0], chosen[0 if alike else 1])
        before, after = (
            rng.binomial(samples, all_[own]) / samples
            for all_, own in zip(everything, places, strict=True)
        )
        _, low, high = paired_difference(before, after, (samples, samples))
        held += holds((low, high), true)
    return held / sets


def tables(sets: int) -> Iterator[str]:
    """Rows of the docs' tables: in each cell the lowest coverage over `SPREADS` (and `alike`)."""
    for prompts in PROMPTS:
        for rate in RATES:
            cells = [
                min(of_rates(sets, prompts, rate, samples, spread) for spread in SPREADS)
                for samples in SAMPLES
            ]
            yield _row([str(prompts), f"{rate:g}, {1 - rate:g}"], cells)
    for prompts in PROMPTS:
        for change in CHANGES:
            cells = [
                min(
                    of_differences(sets, prompts, change, samples, spread, alike)
                    for spread in SPREADS
                    for alike in (True, False)
                )
                for samples in SAMPLES
            ]
            yield _row([str(prompts), f"{change[0]:g} to {change[1]:g}"], cells)
    for prompts in PROMPTS:
        for rate in RATES:
            cells = [
                min(of_passes(sets, prompts, rate, n, spread) for spread in SPREADS)
                for n in SAMPLES
            ]
            yield _row([str(prompts), f"pass@n, {rate:g}"], cells)
    for prompts in PROMPTS:
        cells = [of_pairs(sets, prompts, share) for share in SHARES]
        yield _row([str(prompts), "pairs"], cells)
    for kind in KINDS:
        cells = [of_means(sets, prompts, kind) for prompts in FEW]
        yield _row(["means", kind], cells)


def _row(names: list[str], cells: list[float]) -> str:
    return f"| {' | '.join([*names, *(f'{cell:.3f}' for cell in cells)])} |"


if __name__ == "__main__":
    for line in tables(4000):
        print(line, flush=True)
