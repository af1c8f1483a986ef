"""How near pi* rows come with a number of samples, on a policy that can be enumerated.

    python -m tests.theory.distances

prints the table of docs/algorithms.md. Every prompt is asked of one policy of four answers, so what
a row's survivors teach it (maximum likelihood) is their share of the sum of advantages; where none
survives it stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tests.build import group, with_advantages
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.table import ALGORITHMS
from winnow.theory import pi_star

POLICY = np.array([0.02, 0.03, 0.25, 0.7])
REWARDS = np.array([1.0, 1.0, 0.0, 0.0])
BETAS = (0.5, 0.05)
N = 8
"""Samples a prompt."""
PROMPTS = (8, 32, 128, 512, 2048)


def rows(beta: float) -> list[Algorithm]:
    gibbs, snis = ALGORITHMS["gibbs"], ALGORITHMS["snis"]
    return [
        gibbs.with_cells({"select": [f"gibbs({beta}, 1)"]}),
        snis.with_cells({"advantage": f"softmax({beta})"}),
        snis.with_cells({"advantage": f"softmax({beta}, group)"}),
        ALGORITHMS["raft"],
    ]


def target(beta: float) -> NDArray[np.float64]:
    return np.asarray(pi_star(np.log(POLICY), REWARDS, beta))


def fitted(row: Algorithm, answers: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """The policy that a row's survivors teach.

    Args:
        answers: What was sampled, shape (prompts, n).
    """
    groups = [group(REWARDS[own].tolist()) for own in answers]
    advantages = [made.advantages for made in with_advantages(groups, row, seed)]
    sums = np.bincount(answers.ravel(), np.ravel(advantages), len(POLICY))
    return sums / sums.sum() if sums.any() else POLICY


def distance(row: Algorithm, beta: float, prompts: int, sets: int) -> float:
    """Total variation to pi*, mean over sets of samples made anew."""
    rng = np.random.default_rng(0)
    found = [
        fitted(row, rng.choice(len(POLICY), (prompts, N), p=POLICY), seed) for seed in range(sets)
    ]
    return float(np.mean([0.5 * np.abs(own - target(beta)).sum() for own in found]))


def table(prompts: Sequence[int], sets: int) -> Iterator[str]:
    for count in prompts:
        cells = [f"{distance(row, b, count, sets):.3f}" for b in BETAS for row in rows(b)]
        yield f"| {count * N} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in table(PROMPTS, 200):
        print(line, flush=True)
