"""What a run that stops early reports: not the maximum of its evaluations, but a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from winnow.training.early_stopping import best_of_evaluations, reported, stopped_early


def row(step: int, rate: float | None, split: str = "eval") -> dict[str, Any]:
    return {"step": step, "split": split, "reward": rate, "accuracy": rate}


@pytest.mark.parametrize(("number", "expected"), [(2, 0.5641895835), (4, 1.0293753730)])
def test_the_maximum_is_biased_and_the_test_is_not(number: int, expected: float) -> None:
    """A model that never changes, evaluated several times on as many prompts as 512 coins.

    The expected maximum of two and of four standard normal numbers is 1 / sqrt(pi) and 1.02938
    (David & Nagaraja, *Order Statistics*, 2003); a rate of 512 coins deviates by sqrt(0.25 / 512).
    """
    rng, sigma, runs = np.random.default_rng(7), np.sqrt(0.25 / 512), 4000
    selected, after, gains = [], [], []
    for _ in range(runs):
        rates = rng.binomial(512, 0.5, size=number + 2) / 512
        rows = [row(0, rates[0]), row(0, rates[-2], "test")]
        rows += [row(step, rates[step]) for step in range(1, number)]
        step = best_of_evaluations(rows).step
        assert step is not None
        if step:
            rows.append(row(step, rates[-1], "test"))
        told = reported(rows, patience=number, step=step)
        assert told is not None
        assert told.tested
        assert told.number == number
        assert told.selected is not None
        selected.append(told.selected["accuracy"])
        after.append(told.after["accuracy"])
        gains.append(told.after["accuracy"] - told.before["accuracy"])
    error = sigma / np.sqrt(runs)  # of the mean of a rate
    # Ties of counts take some of the maximum: at most the chance of one, times a count.
    assert np.mean(selected) - 0.5 == pytest.approx(expected * sigma, abs=4 * error)
    assert np.mean(after) == pytest.approx(0.5, abs=3 * error)
    assert np.mean(gains) == pytest.approx(0, abs=5 * error)
    assert expected * sigma > 8 * error  # so that the two could not be confused


def test_without_a_test_it_is_the_maximum_and_says_so() -> None:
    rows = [row(0, 0.1), row(1, 0.7), row(2, 0.6), row(3, None)]
    told = reported(rows, patience=2, step=1)
    assert told is not None
    assert (told.before, told.after, told.tested) == (rows[0], rows[1], False)
    assert (told.selected, told.number) == (rows[1], 3)
    final = row(1, 0.65, "final")
    told = reported([*rows, final], patience=2, step=1)
    assert told is not None
    assert (told.after, told.tested, told.selected) == (final, False, rows[1])
    # killed before the checkpoint was tested: the start's test alone is nothing to report
    told = reported([rows[0], row(0, 0.2, "test"), *rows[1:]], patience=2, step=1)
    assert told is not None
    assert (told.before, told.after, told.tested) == (rows[0], rows[1], False)


def test_the_same_scores_in_another_order_are_no_better() -> None:
    """Their mean may be a bit above: patience would begin anew, and the later one be kept."""
    scores = [1 / 3, 1 / 3, 1.0, 1 / 3]
    one, other = sorted([float(np.mean(scores)), float(np.mean(sorted(scores)))])
    assert one < other
    found = best_of_evaluations([row(0, 0.1), row(2, one), row(4, other), row(6, one)])
    assert (found.step, found.stale) == (2, 2)
    assert stopped_early([row(0, 0.0), row(2, 0.0)], patience=1)
    assert best_of_evaluations([row(0, -0.2), row(2, -0.1)]).step == 2


def test_without_early_stopping_it_is_the_last() -> None:
    rows = [row(0, 0.1), row(5, 0.7), row(9, 0.6)]
    told = reported(rows, patience=0, step=9)
    assert told is not None
    assert (told.before, told.after, told.tested) == (rows[0], rows[2], True)
    assert (told.selected, told.number) == (None, None)
    assert reported([], patience=0, step=9) is None
