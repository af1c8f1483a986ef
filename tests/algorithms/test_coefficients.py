"""The coefficients of `winnow coefficients`, against closed forms and enumeration in order.

C is linear in the samples: with k of n right, samples of advantage A+ and A-, and a mean over n,
C = [k A+ / p - (n - k) A- / (1 - p)] / n.
"""

import json
import math
from math import comb
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.algorithms.test_expected_gradient import EXPECTED, expected_coefficient
from winnow.algorithms.coefficients import coefficient
from winnow.algorithms.selection import AtMost, Correct
from winnow.algorithms.table import ALGORITHMS
from winnow.cli import main

PS = (0.1, 0.5, 0.8)
NS = (2, 5, 8)
DOCS = Path(__file__).parent.parent.parent / "docs" / "algorithms.md"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_means_are_the_closed_forms(name):
    for p in PS:
        for n in NS:
            got = coefficient(ALGORITHMS[name], p, n)
            assert got.mean == pytest.approx(EXPECTED[name](p, n), rel=1e-10)


def any_right(p, n):
    """1/p with probability q = 1 - (1 - p)^n, else 0: q (1 - q) / p^2."""
    q = 1 - (1 - p) ** n
    return q * (1 - q) / p**2


def share(p, n):
    """C = k / (n p), and Var k = n p (1 - p)."""
    return (1 - p) / (n * p)


def signed(p, n):
    """r = +1, -1: C = [k / p + (n - k) / (1 - p)] / n, linear in k with slope
    [1/p - 1/(1-p)] / n = (1 - 2p) / (n p (1-p)); times Var k = n p (1 - p)."""
    return (1 - 2 * p) ** 2 / (n * p * (1 - p))


def others(p, n):
    """Leave-one-out: A+ = (n-k)/(n-1), A- = -k/(n-1), so C = k (n-k) / (n (n-1) p (1-p))."""
    return moments(p, n, lambda k: k * (n - k) / (n * (n - 1) * p * (1 - p)))


def standardised(p, n):
    """A+ - A- = 1/s with s^2 = k (n-k) / (n (n-1)), so C = s (n-1) / n / (p (1-p))."""
    return moments(
        p, n, lambda k: math.sqrt(k * (n - k) / (n * (n - 1))) * (n - 1) / n / (p * (1 - p))
    )


def paired(p, n):
    """beta/2 [1/p + 1/(1-p)] where there is a pair, with probability m: a coin."""
    m = 1 - p**n - (1 - p) ** n
    return m * (1 - m) * (0.1 / 2 / (p * (1 - p))) ** 2


def moments(p, n, of):
    """The variance of a function of k, from its first two moments."""
    weights = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    first = sum(w * of(k) for k, w in enumerate(weights))
    return sum(w * of(k) ** 2 for k, w in enumerate(weights)) - first**2


VARIANCES = {
    "rft": any_right,
    "raft": any_right,
    "raft++": share,
    "reinforce": signed,
    "grpo": standardised,
    "gspo": standardised,
    "dapo": standardised,
    "rloo": others,
    "dr-grpo": lambda p, n: others(p, n) * ((n - 1) / n) ** 2,
    "dpo": paired,
}


@pytest.mark.parametrize("name", VARIANCES)
def test_the_variances_are_closed_forms(name):
    for p in PS:
        for n in NS:
            got = coefficient(ALGORITHMS[name], p, n)
            assert got.variance == pytest.approx(VARIANCES[name](p, n), rel=1e-9, abs=1e-12)


def test_two_samples_accepted_at_random():
    """`gibbs` with two samples: a right one is accepted, a wrong one with c = exp(-2). With both
    right C = 1/p. With one: the mean over the accepted of 1/p and -1/(1-p), or 1/p alone. With none
    right: -1/(1-p) if either is accepted."""
    p, c = 0.3, math.exp(-2)
    good, bad = 1 / p, -1 / (1 - p)
    one, none = 2 * p * (1 - p), (1 - p) ** 2
    some = 1 - (1 - c) ** 2
    cases = [
        (p * p, good),
        (one * c, (good + bad) / 2),
        (one * (1 - c), good),
        (none * some, bad),
        (none * (1 - some), 0.0),
    ]
    mean = sum(w * x for w, x in cases)
    got = coefficient(ALGORITHMS["gibbs"], p, 2)
    assert got.mean == pytest.approx(mean, rel=1e-12)
    assert got.variance == pytest.approx(sum(w * (x - mean) ** 2 for w, x in cases), rel=1e-12)


def test_changed_cells_are_enumerated_in_order_too():
    """Against all 2^n sequences, by automatic differentiation in p."""
    cells = {"select": ["best(2)"], "advantage": "centred", "denominator": "survivor-means"}
    row = ALGORITHMS["grpo"].with_cells(cells)
    assert coefficient(row, 0.3, 4).mean == pytest.approx(expected_coefficient(row, 0.3, 4))


def test_what_has_no_coefficient_says_why():
    assert "n of 2 or more" in coefficient(ALGORITHMS["grpo"], 0.5, 1).why
    entropy = ALGORITHMS["grpo"].with_cells({"entropy": 0.1})
    assert "entropy" in coefficient(entropy, 0.5, 4).why
    recorded = ALGORITHMS["raft"].with_cells({"select": ["as-recorded"]})
    assert "as-recorded" in coefficient(recorded, 0.5, 4).why
    some = ALGORITHMS["raft"].with_cells({"select": [str(Correct()), str(AtMost(2))]})
    got = coefficient(some, 0.5, 4)
    assert got.mean is None
    assert "at-most(2)" in got.why


def test_the_table_in_the_manual_is_what_is_printed(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    printed = CliRunner().invoke(main.app, ["coefficients"]).output
    assert f"```\n{printed}```" in DOCS.read_text(encoding="utf-8")
    assert max(map(len, printed.splitlines())) <= 80


def test_the_command():
    run = CliRunner().invoke(
        main.app, ["coefficients", "raft", "grpo", "--p", "0.3", "--n", "1", "--n", "2", "--json"]
    )
    rows = json.loads(run.output)
    assert [(row["row"], row["n"]) for row in rows] == [
        ("raft", 1), ("raft", 2), ("grpo", 1), ("grpo", 2),
    ]  # fmt: skip
    assert rows[1]["mean"] == pytest.approx(1.7)  # (1 - .7^2) / .3
    assert rows[2]["mean"] is None
    assert rows[2]["why"]
    narrow = CliRunner().invoke(main.app, ["coefficients", "raft"], env={"COLUMNS": "40"})
    assert max(map(len, narrow.output.splitlines()[:-3])) <= 40
    for given in (["grpoo"], ["--p", "1"], ["--p", "nan"], ["--n", "0"]):
        assert CliRunner().invoke(main.app, ["coefficients", *given]).exception is not None
