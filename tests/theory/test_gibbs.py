"""The Gibbs optimum against numbers worked out by hand, mpmath-free enumeration and scipy."""

import subprocess
import sys
from fractions import Fraction
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy

from winnow.theory import (
    acceptance_rate,
    entropy,
    kl,
    log_optimal_m,
    log_partition,
    log_pi_star,
    log_target,
    objective,
    pi_star,
    pi_star_limit,
)

PI = np.array([0.1, 0.2, 0.3, 0.4])
R = np.array([1.0, 1.0, 0.0, 0.0])
LOG_PI = np.log(PI)

logits = st.lists(st.floats(-5, 5), min_size=2, max_size=6)
betas = st.sampled_from([1e-3, 0.05, 0.5, 2.0, 100.0])


@st.composite
def problems(sample):
    log_ref = log_softmax(np.array(sample(logits)))
    n = len(log_ref)
    rewards = np.array(sample(st.lists(st.floats(-3, 3), min_size=n, max_size=n)))
    return log_ref, rewards, sample(betas)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.5, [0.2533, 0.5067, 0.1029, 0.1371]),
        (0.05, [1 / 3, 2 / 3, 0, 0]),
        (1e9, PI),
    ],
)
def test_pi_star_of_the_toy_policy(beta, expected):
    assert pi_star(LOG_PI, R, beta) == pytest.approx(expected, abs=5e-5)


def test_pi_star_by_hand():
    """At e^(1/beta) = 3: weights .3, .6, .3, .4 over 1.6."""
    got = pi_star(LOG_PI, R, 1 / log(3))
    assert got == pytest.approx([3 / 16, 6 / 16, 3 / 16, 4 / 16], rel=1e-14)
    assert log_partition(LOG_PI, R, 1 / log(3)) == pytest.approx(log(1.6), rel=1e-14)


@pytest.mark.parametrize(("beta", "rate"), [(0.5, 0.3947), (0.05, 0.3), (100, 0.993)])
def test_acceptance_of_the_toy_policy(beta, rate):
    assert acceptance_rate(LOG_PI, R, beta) == pytest.approx(rate, abs=5e-5)


def test_acceptance_with_a_looser_bound():
    """Z / M with M = e^(r_max / beta): e^(1/beta) = 3, r_max = 2 gives 1.6 / 9."""
    beta = 1 / log(3)
    assert acceptance_rate(LOG_PI, R, beta, 2.0) == pytest.approx(1.6 / 9, rel=1e-14)
    assert acceptance_rate(LOG_PI, R, beta) == pytest.approx(1.6 / 3, rel=1e-14)
    assert acceptance_rate(LOG_PI, R, beta, [1.0, 2.0]) == pytest.approx([1.6 / 3, 1.6 / 9])


def test_the_best_m():
    assert log_optimal_m(LOG_PI, R, 0.5) == 2.0
    q = np.array([0.4, 0.1, 0.1, 0.4])
    ratios = PI * np.exp(R / 0.5) / q
    got = log_optimal_m(LOG_PI, R, 0.5, np.log(q))
    assert got == pytest.approx(log(ratios.max()), rel=1e-14)
    impossible = [log(0.5), log(0.5), -np.inf]
    assert log_optimal_m(impossible, [0.0, 1.0, 9.0], 0.5) == 2.0  # 9 can never be sampled


@given(problems())
def test_pi_star_is_the_only_maximum(problem):
    """beta log Z at pi*, and below it by beta KL(pi || pi*) anywhere else."""
    log_ref, rewards, beta = problem
    best = beta * log_partition(log_ref, rewards, beta)
    star = log_pi_star(log_ref, rewards, beta)
    assert objective(star, log_ref, rewards, beta) == pytest.approx(best, rel=1e-9, abs=1e-9)
    other = log_softmax(np.sin(np.arange(len(log_ref)) + 1.0))
    gap = beta * kl(other, star)
    got = objective(other, log_ref, rewards, beta)
    assert got == pytest.approx(best - gap, rel=1e-9, abs=1e-9)


def test_an_optimizer_finds_pi_star():
    def loss(z):
        p = softmax(z)
        return -(p @ R) + 0.5 * (p @ np.log(p / PI))

    found = softmax(minimize(loss, np.zeros(4), tol=1e-12).x)
    assert pi_star(LOG_PI, R, 0.5) == pytest.approx(found, abs=1e-5)


@given(problems(), st.floats(-1e6, 1e6))
def test_a_constant_in_the_reward_changes_nothing(problem, shift):
    log_ref, rewards, _ = problem
    before = pi_star(log_ref, rewards, 0.5)
    assert pi_star(log_ref, rewards + shift, 0.5) == pytest.approx(before, abs=1e-8)


def test_the_limit_keeps_all_maximisers():
    limit = pi_star_limit(LOG_PI, R)
    assert limit == pytest.approx([1 / 3, 2 / 3, 0, 0], rel=1e-15)
    assert limit[2] == limit[3] == 0
    assert pi_star(LOG_PI, R, 1e-4) == pytest.approx(limit, abs=1e-15)
    with_zero = np.array([-np.inf, log(0.5), log(0.25), log(0.25)])
    got = pi_star_limit(with_zero, [9.0, 0.0, 1.0, 1.0])  # the maximiser must be possible
    assert got == pytest.approx([0, 0, 0.5, 0.5])


@pytest.mark.parametrize("scale", [1e2, 1e3, 1e5, 1e300])
def test_no_size_of_r_over_beta_overflows(scale):
    rewards = np.array([1.0, 1.0, -1.0, 0.0]) * scale
    beta = 1.0
    assert pi_star(LOG_PI, rewards, beta) == pytest.approx([1 / 3, 2 / 3, 0, 0], abs=1e-12)
    assert acceptance_rate(LOG_PI, rewards, beta) == pytest.approx(0.3, rel=1e-12)
    assert log_partition(LOG_PI, rewards, beta) == pytest.approx(scale + log(0.3), rel=1e-12)
    assert log_partition(LOG_PI, -rewards - 2 * scale, beta) < -0.99 * scale
    assert np.isfinite(log_partition(LOG_PI, -rewards, beta))
    assert acceptance_rate(LOG_PI, rewards, beta, 10 * scale) < 1e-300
    star = log_pi_star(LOG_PI, rewards, beta)
    assert not np.isnan(star).any()
    assert objective(star, LOG_PI, rewards, beta) == pytest.approx(scale + log(0.3), rel=1e-12)


def test_exact_rationals():
    """e^(1/beta) = 2, thirds: everything is a fraction."""
    log_ref = np.log([1 / 3, 1 / 3, 1 / 3])
    got = pi_star(log_ref, [0.0, 1.0, 2.0], 1 / log(2))
    assert got == pytest.approx([float(Fraction(k, 7)) for k in (1, 2, 4)], rel=1e-14)


def test_rows_are_taken_one_by_one():
    refs = np.stack([LOG_PI, log_softmax([1.0, -2.0, 0.0, 3.0])])
    rewards = np.stack([R, [0.0, 2.0, 1.0, -1.0]])
    both = pi_star(refs, rewards, 0.5)
    for i in range(2):
        assert both[i] == pytest.approx(pi_star(refs[i], rewards[i], 0.5), rel=1e-15)
    assert pi_star(LOG_PI, rewards, 0.5).shape == (2, 4)
    assert log_partition(refs, R, 0.5).shape == acceptance_rate(refs, R, 0.5).shape == (2,)
    assert kl(refs, LOG_PI).shape == entropy(refs).shape == (2,)


@given(problems())
def test_kl_and_entropy_are_scipys(problem):
    log_p, rewards, _ = problem
    log_q = log_softmax(rewards)
    p, q = np.exp(log_p), np.exp(log_q)
    assert kl(log_p, log_q) == pytest.approx(scipy_entropy(p, q), rel=1e-9, abs=1e-12)
    assert entropy(log_p) == pytest.approx(scipy_entropy(p), rel=1e-9, abs=1e-12)


def test_kl_where_probabilities_vanish():
    half = np.array([log(0.5), log(0.5), -np.inf])
    other = np.array([log(0.25), log(0.25), log(0.5)])
    assert kl(half, other) == pytest.approx(log(2))
    assert kl(other, half) == np.inf
    assert kl(half, half) == 0
    assert entropy(half) == pytest.approx(log(2))
    assert objective(other, half, [0.0, 0.0, 9.0], 1.0) == -np.inf


def test_the_target_is_pi_star_but_for_z():
    log_p = log_target(LOG_PI, R, 0.5)
    assert np.exp(log_p) == pytest.approx(PI * [exp(2), exp(2), 1, 1], rel=1e-14)


BAD = [
    (LOG_PI, R, 0.0, "beta"),
    (LOG_PI, R, -1.0, "beta"),
    (LOG_PI, R, np.nan, "beta"),
    (LOG_PI, R, np.inf, "beta"),
    (LOG_PI, [1, np.nan, 0, 0], 0.5, "rewards"),
    (LOG_PI, [1, np.inf, 0, 0], 0.5, "rewards"),
    (LOG_PI + 0.01, R, 0.5, "normalized"),
    (LOG_PI - 0.01, R, 0.5, "normalized"),
    ([np.nan, 0.0], [0, 0], 0.5, "log_ref"),
    ([-np.inf, -np.inf], [0, 0], 0.5, "normalized"),
    ([], [], 0.5, "at least one"),
    (LOG_PI, [1, 0, 0], 0.5, "shapes"),
]


@pytest.mark.parametrize(("log_ref", "rewards", "beta", "word"), BAD)
@pytest.mark.parametrize("f", [log_partition, pi_star, acceptance_rate, log_optimal_m, log_target])
def test_wrong_arguments(f, log_ref, rewards, beta, word):
    with pytest.raises(ValueError, match=word):
        f(log_ref, rewards, beta)


def test_a_bound_below_a_reward_is_refused():
    with pytest.raises(ValueError, match="r_max"):
        acceptance_rate(LOG_PI, R, 0.5, 0.9)
    impossible = np.array([log(0.5), log(0.5), -np.inf])
    assert acceptance_rate(impossible, [0.0, 1.0, 9.0], 0.5, 1.0) < 1  # 9 is never sampled
    with pytest.raises(ValueError, match="cover"):
        log_optimal_m(LOG_PI, R, 0.5, [-np.inf, log(0.5), log(0.5), -np.inf])
    with pytest.raises(ValueError, match="float64"):
        log_partition(LOG_PI, R * 1e300, 1e-300)


def test_importing_the_theory_imports_no_torch():
    code = "import sys, winnow.theory; print([m for m in ['torch', 'scipy'] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
