"""Importance weights against enumeration, closed forms and repeated sampling."""

from math import exp, log, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import binom, geom

from winnow.theory import (
    effective_sample_size,
    log_importance_weights,
    normalised_weights,
    samples_for_success,
    self_normalised,
    self_normalised_bias,
    weight_variance,
    weight_variance_bound,
)

PI = np.array([0.1, 0.2, 0.3, 0.4])
R = np.array([1.0, 1.0, 0.0, 0.0])
LOG_PI = np.log(PI)

rows = st.lists(st.floats(-6, 6), min_size=1, max_size=7)


def test_variance_of_the_toy_policy():
    log_p = LOG_PI + R / 0.5
    assert weight_variance(log_p, LOG_PI) == pytest.approx(1.0076, abs=5e-5)
    assert weight_variance_bound(log_p, LOG_PI) == pytest.approx(1.5333, abs=5e-5)


@given(rows, st.data())
def test_variance_by_enumeration_and_its_bound(target, data):
    n = len(target)
    proposal = data.draw(st.lists(st.floats(-6, 6), min_size=n, max_size=n))
    q, p = np.exp(log_softmax(proposal)), np.exp(log_softmax(target))
    got = weight_variance(np.array(target) + 3.0, np.log(q))
    w = p / q
    assert got == pytest.approx((q * w**2).sum() - 1, rel=1e-8, abs=1e-8)
    bound = weight_variance_bound(np.array(target) + 3.0, np.log(q))
    assert bound == pytest.approx(w.max() - 1, rel=1e-8, abs=1e-8)
    assert got <= bound * (1 + 1e-12) + 1e-12


@given(rows, st.data())
def test_equality_where_the_weights_are_zero_or_the_largest(proposal, data):
    """Weights 0 and 1/s, s the share of q that is kept: variance 1/s - 1 = M*/Z - 1."""
    log_q = log_softmax(proposal)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(log_q), max_size=len(log_q))))
    assume(kept.any())
    log_p = np.where(kept, log_q, -np.inf)
    share = np.exp(log_q[kept]).sum()
    assert weight_variance(log_p, log_q) == pytest.approx(1 / share - 1, rel=1e-9, abs=1e-9)
    assert weight_variance_bound(log_p, log_q) == pytest.approx(1 / share - 1, rel=1e-9, abs=1e-9)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0.1, 3))
def test_inequality_is_strict_with_three_weights(a, b, beta):
    q = np.array([a * b, a * (1 - b), 1 - a])
    log_p = np.log(q) + np.array([0.0, 0.5, 1.0]) / beta
    assert weight_variance(log_p, np.log(q)) < weight_variance_bound(log_p, np.log(q))


def test_no_difference_no_variance():
    assert weight_variance(LOG_PI + 7, LOG_PI) == pytest.approx(0, abs=1e-28)
    assert weight_variance_bound(LOG_PI, LOG_PI) == pytest.approx(0, abs=1e-15)


def test_variances_of_any_size():
    """p certain of an answer that q gives probability s: (1 - s)/s."""
    for log_s in (-5.0, -300.0, -700.0):
        log_q = np.array([log_s, np.log1p(-exp(log_s))])
        got = weight_variance([0.0, -np.inf], log_q)
        assert got == pytest.approx(exp(-log_s) - 1, rel=1e-11)
    assert weight_variance([0.0, -np.inf], [-1000.0, 0.0]) == np.inf  # e^1000: no float64 holds it
    assert weight_variance_bound([0.0, -np.inf], [-1000.0, 0.0]) == np.inf
    assert weight_variance(LOG_PI + R * 5000, LOG_PI) == pytest.approx(1 / 0.3 - 1, rel=1e-11)


def test_rows_are_taken_one_by_one():
    log_p = np.stack([LOG_PI + R, LOG_PI - R])
    both = weight_variance(log_p, LOG_PI)
    assert both.shape == (2,)
    assert both[1] == pytest.approx(weight_variance(log_p[1], LOG_PI), rel=1e-14)
    log_w = np.log([[1.0, 1, 2], [1, 1, 1]])
    assert effective_sample_size(log_w) == pytest.approx([16 / 6, 3])
    assert normalised_weights(log_w).sum(axis=-1) == pytest.approx([1, 1])


def test_log_weights():
    got = log_importance_weights([-1.0, -np.inf, -np.inf], [-3.0, -2.0, -np.inf])
    assert got.tolist() == [2.0, -np.inf, -np.inf]


@pytest.mark.parametrize("shift", [-1e4, 0.0, 700.0, 1e6])
def test_weights_do_not_hang_on_a_constant(shift):
    log_w = np.log([1.0, 2.0, 5.0]) + shift
    assert normalised_weights(log_w) == pytest.approx([1 / 8, 2 / 8, 5 / 8], rel=1e-9)
    assert effective_sample_size(log_w) == pytest.approx(64 / 30, rel=1e-9)
    assert self_normalised([4, 0, 8], log_w).value == pytest.approx(44 / 8, rel=1e-9)


def test_huge_log_weights():
    assert normalised_weights([1e308, 1e308, -1e308, -np.inf]).tolist() == [0.5, 0.5, 0, 0]
    assert effective_sample_size([1e308, 1e308, -1e308]) == 2


@given(st.lists(st.floats(-800, 800), min_size=1, max_size=9))
def test_effective_sample_size_is_between_1_and_n(log_w):
    assert 1 <= effective_sample_size(log_w) <= len(log_w)
    assert effective_sample_size(np.zeros(len(log_w))) == pytest.approx(len(log_w))


def test_self_normalised_by_hand():
    """Weights 1/4, 3/4 of 2 and 6: 5, sqrt((3/4)^2 + (3/4)^2)."""
    got = self_normalised([2, 6], np.log([1.0, 3.0]))
    assert got.value == pytest.approx(5)
    assert got.standard_error == pytest.approx(0.75 * sqrt(2))
    assert got.ess == pytest.approx(16 / 10)


def test_equal_weights_give_the_mean_and_its_error():
    x = np.random.default_rng(0).normal(size=50)
    got = self_normalised(x, np.full(50, 3.0))
    assert got.value == pytest.approx(x.mean())
    assert got.standard_error == pytest.approx(x.std() / sqrt(50))


class TestBias:
    PS = np.array([0.05, 0.3, 0.6])
    """Share right of three prompts; a right sample weighs 4, a wrong one 1."""
    N = 6

    def truth(self):
        return float((4 * self.PS).sum() / (4 * self.PS + 1 - self.PS).sum())

    def exact(self, copies):
        """E[4 K / (4 K + n - K)] minus its limit, K the right samples of so many of each prompt."""
        pmf = np.ones(1)
        for p in np.repeat(self.PS, copies):
            pmf = np.convolve(pmf, binom.pmf(np.arange(self.N + 1), self.N, p))
        k = np.arange(len(pmf))
        n = len(pmf) - 1
        return float(pmf @ (4 * k / (4 * k + n - k))) - self.truth()

    def test_the_estimate_is_the_bias_by_enumeration(self):
        """Mean of the estimate over samples made anew, 40 prompts of each kind."""
        rng, copies = np.random.default_rng(0), 40
        ps = np.repeat(self.PS, copies)
        found = []
        for _ in range(300):
            right = (rng.random((len(ps), self.N)) < ps[:, None]).astype(float)
            log_w = np.log(np.where(right, 4.0, 1.0)).ravel() + 7.0
            found.append(self_normalised_bias(right.ravel(), log_w, [self.N] * len(ps)))
        exact = self.exact(copies)
        assert exact == pytest.approx(self.exact(4 * copies) * 4, rel=0.02)  # O(1/n)
        assert np.mean(found) == pytest.approx(exact, rel=0.05)

    def test_strata_of_one_are_one_stratum(self):
        f, log_w = [1.0, 0.0, 0.0, 1.0], np.log([3.0, 1.0, 2.0, 1.0])
        assert self_normalised_bias(f, log_w, [1, 1, 1, 1]) == self_normalised_bias(f, log_w, [4])
        assert self_normalised_bias([1.0], [0.0], [1]) == 0

    def test_bad_input(self):
        for f, log_w, strata in (([1, 0], [0, 0], [1]), ([1, 0], [0, 0, 0], [2]), ([1], [0], [2])):
            with pytest.raises(ValueError, match="one shape"):
                self_normalised_bias(f, log_w, strata)


def test_the_estimate_and_its_error_over_many_samples():
    """E_pi*[f] from samples of pi, 4,000 times: centred, with the spread that it says."""
    rng = np.random.default_rng(1)
    f = np.array([3.0, -1.0, 2.0, 0.5])
    weights = PI * np.exp(R / 0.5)
    truth = weights @ f / weights.sum()
    runs = []
    for _ in range(4_000):
        y = rng.choice(4, 400, p=PI)
        runs.append(self_normalised(f[y], R[y] / 0.5))
    values = np.array([run.value for run in runs])
    errors = np.array([run.standard_error for run in runs])
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / sqrt(4_000) + 2e-3)
    assert errors.mean() == pytest.approx(values.std(), rel=0.05)
    ess = np.mean([run.ess for run in runs])  # n / (1 + Var w)
    assert ess == pytest.approx(400 / 2.0076, rel=0.02)


@pytest.mark.parametrize("p", [0.001, 0.05, 0.3, 0.5, 0.999])
@pytest.mark.parametrize("delta", [0.5, 0.1, 0.001])
def test_samples_for_success_are_the_geometric_quantile(p, delta):
    n = samples_for_success(p, delta)
    assert geom.sf(n, p) <= delta * (1 + 1e-12)
    assert n == 1 or geom.sf(n - 1, p) > delta


def test_samples_for_success_at_the_ends():
    got = samples_for_success([0.0, 1.0, 0.5, 0.75, 0.9, 1e-12], 0.125)
    assert got[:5].tolist() == [np.inf, 1, 3, 2, 1]
    assert got[5] == pytest.approx(log(8) * 1e12, rel=1e-9)
    for k in range(1, 12):  # log(.7^k) / log(.7) is a hair above k in floating point
        assert samples_for_success(0.3, 0.7**k) == k
    assert samples_for_success(5e-324, 0.5) == np.inf or samples_for_success(5e-324, 0.5) > 1e300
    assert samples_for_success(0.999999, 0.999) == 1


def test_wrong_arguments():
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="p must"):
            samples_for_success(p, 0.1)
    for delta in (0.0, 1.0, -1, np.nan):
        with pytest.raises(ValueError, match="delta"):
            samples_for_success(0.5, delta)
    with pytest.raises(ValueError, match="cover"):
        log_importance_weights([0.0], [-np.inf])
    with pytest.raises(ValueError, match="cover"):
        weight_variance([0.0, 0.0], [0.0, -np.inf])
    with pytest.raises(ValueError, match="normalized"):
        weight_variance([0.0, 0.0], [0.0, 0.0])
    for f in (normalised_weights, effective_sample_size):
        with pytest.raises(ValueError, match="all be -inf"):
            f([-np.inf, -np.inf])
        with pytest.raises(ValueError, match="infinity"):
            f([np.inf, 0])
    for values, log_w in [([1], [0]), ([1, 2], [0, 0, 0]), ([[1, 2]], [[0, 0]])]:
        with pytest.raises(ValueError, match="shape"):
            self_normalised(values, log_w)
    with pytest.raises(ValueError, match="finite"):
        self_normalised([1, np.nan], [0, 0])
