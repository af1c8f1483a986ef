"""What the estimators estimate, and where they pull as losses, on a policy of two tokens.

The policy samples a first token (0 or 1) and then a second given the first: three logits, four
answers. Expectations are sums over the four, gradients are central differences.
"""

from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from winnow.theory import ESTIMATORS, k1, k2, k3

ANSWERS = [(0, 0), (0, 1), (1, 0), (1, 1)]
THETA = np.array([0.4, -0.7, 1.1])
REF = np.array([-0.3, 0.5, 0.2])


def token_logs(theta):
    """log pi of the first and of the second token of each answer, shape (4, 2)."""

    def log_bernoulli(logit, token):
        return -np.logaddexp(0, logit if token == 0 else -logit)

    return np.array(
        [[log_bernoulli(theta[0], a), log_bernoulli(theta[1 + a], b)] for a, b in ANSWERS]
    )


def logs(theta):
    return token_logs(theta).sum(axis=1)


def kl(theta_p, theta_q):
    return entropy(np.exp(logs(theta_p)), np.exp(logs(theta_q)))


def gradient(f, theta, step=1e-5):
    return np.array([(f(theta + d) - f(theta - d)) / (2 * step) for d in step * np.eye(3)])


def expected_gradient(loss):
    """Of a loss of each answer, the samples being those of the policy at THETA."""
    sampled = np.exp(logs(THETA))
    return gradient(lambda theta: sampled @ loss(theta), THETA)


GRADIENTS = {
    "k1": np.zeros(3),
    "k2": gradient(lambda theta: kl(theta, REF), THETA),
    "k3": gradient(lambda theta: kl(REF, theta), THETA),
}


def test_the_three_directions_differ():
    assert np.abs(GRADIENTS["k2"]).min() > 0.01
    assert np.abs(GRADIENTS["k2"] - GRADIENTS["k3"]).max() > 0.05


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradient_as_a_loss(name):
    got = expected_gradient(lambda theta: ESTIMATORS[name].value(logs(theta), logs(REF)))
    assert got == pytest.approx(GRADIENTS[name], abs=1e-8)


def test_the_table_says_what_the_gradients_are():
    says = {name: row.gradient for name, row in ESTIMATORS.items()}
    assert says["k1"].startswith("0:")
    assert says["k2"].startswith("that of KL(p || q)")
    assert says["k3"].startswith("that of KL(q || p)")
    assert all(name == row.name for name, row in ESTIMATORS.items())
    with pytest.raises(TypeError):
        ESTIMATORS["k4"] = ESTIMATORS["k1"]


def test_token_wise_k2_leaves_out_the_effect_on_later_tokens():
    """It is the gradient of the tokens' KLs with the prefixes held fixed."""
    got = expected_gradient(lambda theta: k2(token_logs(theta), token_logs(REF)).sum(axis=1))
    first = np.exp(token_logs(THETA)[[0, 2], 0])  # P(first token = 0), P(= 1)

    def without_the_effect(theta):
        p, q = token_logs(theta), token_logs(REF)
        of_first = entropy(np.exp(p[[0, 2], 0]), np.exp(q[[0, 2], 0]))
        of_second = [entropy(np.exp(p[a : a + 2, 1]), np.exp(q[a : a + 2, 1])) for a in (0, 2)]
        return of_first + first @ of_second

    assert got == pytest.approx(gradient(without_the_effect, THETA), abs=1e-8)
    assert got[1:] == pytest.approx(GRADIENTS["k2"][1:], abs=1e-8)  # no token comes after these
    assert abs(got[0] - GRADIENTS["k2"][0]) > 0.01


def test_k1_in_the_reward_pulls_towards_pi_star():
    """E[(log p/q, held fixed) grad log p] = grad KL(p || q)."""
    fixed = k1(logs(THETA), logs(REF))
    got = expected_gradient(lambda theta: fixed * logs(theta))
    assert got == pytest.approx(GRADIENTS["k2"], abs=1e-8)


def test_values_in_expectation():
    p, log_p, log_q = np.exp(logs(THETA)), logs(THETA), logs(REF)
    exact = kl(THETA, REF)
    assert p @ k1(log_p, log_q) == pytest.approx(exact, rel=1e-12)
    assert p @ k3(log_p, log_q) == pytest.approx(exact, rel=1e-12)
    assert p @ k2(log_p, log_q) == pytest.approx(p @ (log_p - log_q) ** 2 / 2, rel=1e-12)
    assert abs(p @ k2(log_p, log_q) - exact) > 0.01  # biased


def test_k2_is_nearly_unbiased_near_the_reference():
    """Its bias falls with the cube of the distance."""

    def bias(step):
        near = REF + step * (THETA - REF)
        return np.exp(logs(near)) @ k2(logs(near), logs(REF)) - kl(near, REF)

    assert bias(0.02) / bias(0.01) == pytest.approx(8, rel=0.1)


def test_k3_misses_what_p_does_not_cover():
    """p on the first of two, q even: KL = log 2, k3 has 1/2 - 1 + log 2."""
    assert k1(0.0, log(0.5)) == pytest.approx(log(2))
    assert k3(0.0, log(0.5)) == pytest.approx(log(2) - 0.5)


@given(st.floats(-700, 0), st.floats(-700, 0))
def test_values_by_formula(log_p, log_q):
    d = log_q - log_p
    assert k1(log_p, log_q) == -d
    assert k2(log_p, log_q) == pytest.approx(d * d / 2)
    assert k3(log_p, log_q) >= 0
    assert k3(log_p, log_q) == pytest.approx(exp(d) - 1 - d, rel=1e-9, abs=1e-9)


def test_k3_of_a_tiny_ratio_keeps_its_digits():
    assert k3(0.0, -1e-6) == pytest.approx(5e-13, rel=1e-3)


def test_values_of_any_size():
    for f in (k1, k2, k3):
        assert f(-1.0, -np.inf) == np.inf
        assert f([-1.0, -2.0], -1.5).shape == (2,)
    assert k3(-1000.0, -1.0) == np.inf  # e^999
    assert k3(-1.0, -5000.0) == pytest.approx(4998.0)


@pytest.mark.parametrize("f", [k1, k2, k3])
def test_wrong_arguments(f):
    with pytest.raises(ValueError, match="log_p"):
        f(-np.inf, -1.0)
    with pytest.raises(ValueError, match="log_q"):
        f(-1.0, np.nan)
    with pytest.raises(ValueError, match="log_q"):
        f(-1.0, np.inf)
    with pytest.raises(ValueError, match="shapes"):
        f([-1.0, -1.0], [-1.0, -1.0, -1.0])
