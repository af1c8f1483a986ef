import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from winnow.losses import (
    DENOMINATORS,
    NLL,
    Clipped,
    Constant,
    DrawMeans,
    Importance,
    PromptMeans,
    SurvivorMeans,
    SurvivorSums,
    SurvivorTokens,
    Tokens,
    Totals,
)


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
