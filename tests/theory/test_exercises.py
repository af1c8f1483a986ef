"""The four exercises of the seed on rejection sampling as RL, for any input."""

from itertools import product
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import binom, geom

from winnow.theory import (
    entropy,
    kl,
    log_partition,
    pass_at_k,
    pi_star,
    pi_star_limit,
    samples_for_success,
)

policies = st.lists(st.floats(-5, 5), min_size=2, max_size=7)


@st.composite
def yes_no(sample):
    """A policy's log-probabilities, and which answers are right: some, not all."""
    log_ref = log_softmax(np.array(sample(policies)))
    n = len(log_ref)
    size = sample(st.integers(1, n - 1))
    right = np.zeros(n, dtype=bool)
    right[sample(st.permutations(range(n)))[:size]] = True
    return log_ref, right


@given(yes_no(), st.sampled_from([0.01, 0.1, 0.5, 1.0, 10.0, 1000.0]))
def test_1_the_partition_function_bounds_the_optimum(problem, beta):
    """Z >= e^(1/beta) p_ref, so pi* <= pi_ref / p_ref on right answers; Z's rest is 1 - p_ref."""
    log_ref, right = problem
    ref = np.exp(log_ref)
    p_ref = ref[right].sum()
    log_z = log_partition(log_ref, right, beta)
    assert log_z >= 1 / beta + log(p_ref) - 1e-12 / beta
    excess = np.expm1(log_z - 1 / beta - log(p_ref))  # (1 - p_ref) / (e^(1/beta) p_ref)
    assert excess == pytest.approx((1 - p_ref) * exp(-1 / beta) / p_ref, rel=1e-6, abs=1e-9)
    star = pi_star(log_ref, right, beta)
    assert (star[right] <= ref[right] / p_ref * (1 + 1e-9)).all()
    assert star[right].sum() >= p_ref - 1e-12  # mass moves to the right answers


@given(yes_no())
def test_1_the_bound_is_reached_as_beta_goes_to_0(problem):
    log_ref, right = problem
    ref = np.exp(log_ref)
    renormalised = np.where(right, ref, 0) / ref[right].sum()
    assert pi_star_limit(log_ref, right) == pytest.approx(renormalised, rel=1e-12)
    assert pi_star(log_ref, right, 1e-3) == pytest.approx(renormalised, abs=1e-9)


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("n", [1, 3, 6])
def test_2_at_least_one_is_accepted(p, n):
    """1 - (1-p)^n, by all outcomes, the binomial law, and the mean of pass@n over 8 samples."""
    outcomes = product([True, False], repeat=n)
    exact = sum(np.prod([p if hit else 1 - p for hit in o]) for o in outcomes if any(o))
    assert exact == pytest.approx(1 - (1 - p) ** n, rel=1e-12)
    counts = np.arange(9)
    assert binom.pmf(counts, 8, p) @ pass_at_k(8, counts, n) == pytest.approx(exact, rel=1e-10)
    assert exact >= 1 - exp(-n * p)


@pytest.mark.parametrize("p", [1e-4, 0.02, 0.3, 0.9])
def test_2_samples_grow_as_one_over_p(p):
    """1/p on average; between log(1/delta) (1/p - 1) and log(1/delta) / p, rounded up, for sure."""
    assert geom.mean(p) == pytest.approx(1 / p)
    for delta in (0.5, 0.05, 0.001):
        n = samples_for_success(p, delta)
        assert n == geom.ppf(1 - delta, p)
        assert log(1 / delta) * (1 / p - 1) <= n <= log(1 / delta) / p + 1


@given(policies, st.data())
def test_3_likelihood_of_the_accepted_is_a_divergence(model, data):
    """Mean NLL over the accepted = KL(empirical || pi) + H(empirical), whatever pi is."""
    log_pi = log_softmax(np.array(model))
    accepted = data.draw(st.lists(st.integers(0, len(model) - 1), min_size=1, max_size=12))
    shares = np.bincount(accepted, minlength=len(model)) / len(accepted)
    with np.errstate(divide="ignore"):
        log_empirical = np.log(shares)
    nll = -np.mean(log_pi[accepted])
    got = kl(log_empirical, log_pi) + entropy(log_empirical)
    assert nll == pytest.approx(got, rel=1e-9, abs=1e-12)
    assert nll >= entropy(log_empirical) - 1e-12  # least where pi is the empirical law


@given(st.floats(0.01, 0.99))
def test_4_slope_of_the_entropy(p):
    def h(p):
        return entropy(np.log([p, 1 - p]))

    slope = (h(p + 1e-6) - h(p - 1e-6)) / 2e-6
    assert slope == pytest.approx(log((1 - p) / p), abs=1e-5)


@given(st.floats(-3, 3))
def test_4_entropy_falls_once_p_is_above_one_half(logit):
    """Steps of grad log p on the logit of p: p grows for ever, entropy rises to 1/2, then falls."""
    for _ in range(200):
        p = softmax([logit, 0.0])[0]
        before = entropy(log_softmax([logit, 0.0]))
        logit += 0.1 * (1 - p)
        after = entropy(log_softmax([logit, 0.0]))
        if p > 0.5:
            assert after < before
        elif softmax([logit, 0.0])[0] < 0.5:
            assert after > before


RIGHT = np.array([True, True, True, False, False])


def inside(log_pi):
    """The policy's law over the right answers alone."""
    return log_softmax(log_pi[RIGHT])


def test_4_entropy_falls_within_the_right_answers_too():
    """Exact softmax steps on E[r]: d z_y = pi(y) (r(y) - E[r]). The projection would keep it."""
    z = np.log([0.25, 0.2, 0.15, 0.3, 0.1])
    start = z.copy()
    entropies = [float(entropy(inside(log_softmax(z))))]
    for _ in range(3000):
        pi = softmax(z)
        z = z + pi * (RIGHT - pi @ RIGHT)
        entropies.append(float(entropy(inside(log_softmax(z)))))
    assert softmax(z)[RIGHT].sum() > 0.99
    assert (np.diff(entropies) < 0).all()
    assert entropies[0] - entropies[-1] > 0.05
    with np.errstate(divide="ignore"):
        projected = np.log(pi_star_limit(start, RIGHT))
    assert entropy(inside(projected)) == pytest.approx(entropies[0], rel=1e-12)


def test_4_equal_answers_stay_equal_in_expectation_and_drift_apart_in_samples():
    """What exact steps leave alone, finite samples of accepted samples do not."""
    rng = np.random.default_rng(0)
    z, exact = np.zeros(5), np.zeros(5)
    for _ in range(400):
        pi = softmax(exact)
        exact = exact + pi * (RIGHT - pi @ RIGHT)
        pi = softmax(z)
        sampled = rng.choice(5, 8, p=pi)
        kept = sampled[RIGHT[sampled]]
        if len(kept):
            z = z + np.bincount(kept, minlength=5) / len(kept) - pi
    assert entropy(inside(log_softmax(exact))) == pytest.approx(log(3), abs=1e-12)
    assert entropy(inside(log_softmax(z))) < log(3) - 0.3
