import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from winnow.denominators import (
    DENOMINATORS,
    Constant,
    DrawMeans,
    PromptMeans,
    SurvivorMeans,
    SurvivorSums,
    SurvivorTokens,
    Tokens,
    Totals,
)
from winnow.losses import LOSSES, NLL, Clipped, Importance, Truncated


def value_and_slope(loss, ratio, weight):
    """Loss of one token with ratio s, and its derivative with respect to log pi."""
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old = torch.zeros(1, dtype=torch.float64)
    out = loss(logp, old, torch.tensor([weight], dtype=torch.float64))
    out.sum().backward()
    return out.item(), logp.grad.item()


@pytest.mark.parametrize(
    ("ratio", "weight", "value", "slope"),
    [
        # A > 0: only the upper bound acts, and it takes the gradient away
        (1.0, 1.0, -1.0, -1.0),
        (1.1, 1.0, -1.1, -1.1),
        (1.5, 1.0, -1.28, 0.0),
        (0.5, 1.0, -0.5, -0.5),
        # A < 0: only the lower bound does: min(s r, clip(s) r), not min(s, clip(s)) r
        (1.5, -1.0, 1.5, 1.5),
        (0.5, -1.0, 0.8, 0.0),
        (0.9, -1.0, 0.9, 0.9),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_clipped_by_hand(ratio, weight, value, slope):
    got = value_and_slope(Clipped(0.2, 0.28), ratio, weight)
    assert got == pytest.approx((value, slope), rel=1e-12, abs=1e-12)


def test_clips_marks_exactly_the_tokens_without_gradient():
    ratios = torch.linspace(0.05, 3, 300, dtype=torch.float64)
    for sign in (1.0, -1.0):
        logp = ratios.log().requires_grad_()
        weight = torch.full_like(ratios, sign)
        loss = Clipped(0.2, 0.28)
        loss(logp, torch.zeros_like(logp), weight).sum().backward()
        marked = loss.clips(logp.detach(), torch.zeros_like(logp), weight)
        assert torch.equal(marked, logp.grad == 0)
        assert 0 < int(marked.sum()) < len(ratios)


def test_likelihood_and_importance_by_hand():
    assert value_and_slope(NLL(), 0.25, 1.0) == pytest.approx((-math.log(0.25), -1.0))
    assert value_and_slope(NLL(), 0.25, -0.5) == pytest.approx((0.5 * math.log(0.25), 0.5))
    assert value_and_slope(Importance(), 1.7, 2.0) == pytest.approx((-3.4, -3.4))


@pytest.mark.parametrize(
    ("ratio", "weight", "value", "slope"),
    [
        # cap 2: -min(s, 2) A log pi, whose slope is the weight; log pi is log s here
        (0.5, 1.0, 0.5 * math.log(2), -0.5),
        (1.5, 2.0, -3.0 * math.log(1.5), -3.0),
        (2.0, 1.0, -2.0 * math.log(2), -2.0),
        (3.0, 1.0, -2.0 * math.log(3), -2.0),  # above the cap: bounded, and still a gradient
        (3.0, -1.5, 3.0 * math.log(3), 3.0),
        (0.5, -1.5, -0.75 * math.log(2), 0.75),
    ],
)
def test_truncated_by_hand(ratio, weight, value, slope):
    got = value_and_slope(Truncated(2.0), ratio, weight)
    assert got == pytest.approx((value, slope), rel=1e-12)


def gradient(loss, logits, proposal, advantages):
    """Of the expected loss of one draw of the proposal, by enumeration of the answers."""
    logits = logits.clone().requires_grad_()
    losses = loss(logits.log_softmax(0), proposal.log(), advantages)
    (proposal * losses).sum().backward()
    return logits.grad


@pytest.mark.parametrize("cap", [0.3, 1.0, 2.0, math.inf])
def test_the_expected_gradient_of_truncated(cap):
    """-sum_y min(pi, cap q) A grad log pi, which without a cap is importance weighting's:
    that of -E_pi[A], whatever drew."""
    logits = torch.tensor([1.5, 0.0, -1.0, 0.3], dtype=torch.float64)
    q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    advantages = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    pi = logits.softmax(0)
    weighted = pi.minimum(cap * q) * advantages
    expected = -(weighted - weighted.sum() * pi)  # d log pi_y / d logit_k = [y = k] - pi_k
    got = gradient(Truncated(cap), logits, q, advantages)
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-15)
    unbiased = -pi * (advantages - (pi * advantages).sum())  # of -E_pi[A]
    assert torch.allclose(gradient(Importance(), logits, q, advantages), unbiased, rtol=1e-12)
    assert torch.allclose(got, unbiased, rtol=1e-12) == (cap == math.inf)


def test_every_loss_is_in_the_vocabulary():
    assert set(LOSSES) == {"nll", "clipped", "importance", "truncated"}
    assert [name for name, loss in LOSSES.items() if not loss.needs_old] == ["nll"]


@given(st.floats(0.05, 5), st.floats(-3, 3))
def test_clipping_never_raises_the_objective(ratio, weight):
    """-loss is the pessimistic side: never above the unclipped objective."""
    clipped, _ = value_and_slope(Clipped(0.2, 0.28), ratio, weight)
    unclipped, _ = value_and_slope(Importance(), ratio, weight)
    assert clipped >= unclipped - 1e-12


# Two prompts. The first: three valid draws of 1, 2 and 5 tokens, of which the first two survive.
# The second: two valid draws of 4 and 3 tokens, of which the last survives.
TOTALS = Totals(prompts=2, draws=5, survivors=3, tokens=15, survivor_tokens=6)
SURVIVORS = [(1, 2), (2, 2), (3, 1)]  # (length, survivors of the same prompt)


@pytest.mark.parametrize(
    ("denominator", "factors"),
    [
        (DrawMeans(), [1 / 5, 1 / 10, 1 / 15]),
        (SurvivorMeans(), [1 / 3, 1 / 6, 1 / 9]),
        (PromptMeans(), [1 / 4, 1 / 8, 1 / 6]),
        (SurvivorSums(), [1 / 3, 1 / 3, 1 / 3]),
        (Tokens(), [1 / 15, 1 / 15, 1 / 15]),
        (SurvivorTokens(), [1 / 6, 1 / 6, 1 / 6]),
        (Constant(10), [1 / 50, 1 / 50, 1 / 50]),
    ],
    ids=str,
)
def test_denominators_by_hand(denominator, factors):
    got = [denominator(length, siblings, TOTALS) for length, siblings in SURVIVORS]
    assert got == pytest.approx(factors, rel=1e-15)


def test_means_over_survivors_sum_to_one():
    """A mean of ones is one: for all that divide by what they sum over."""
    for denominator in (SurvivorMeans(), PromptMeans(), SurvivorTokens()):
        total = sum(n * denominator(n, siblings, TOTALS) for n, siblings in SURVIVORS)
        assert total == pytest.approx(1.0)
    assert set(DENOMINATORS) == {
        "draw-means", "survivor-means", "prompt-means", "survivor-sums",
        "tokens", "survivor-tokens", "constant",
    }  # fmt: skip
