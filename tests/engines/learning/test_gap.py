"""Sampler and learner compute one number twice: how far apart are they?"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests import local, tiny
from winnow.algorithms.denominators import SampleMeans
from winnow.algorithms.losses import NLL, Clipped
from winnow.algorithms.objective import Term, totals
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.models.forward import PolicyForward
from winnow.types import Group, Outcome, Prompt, Sample, Score, Sums

PROMPT = (5, 9, 2)
COMPLETIONS = ((3, 4), (7,), (6, 6, 8), (1, 2))
RATIO, LIKELIHOOD = Term(Clipped(0.2, 0.28), SampleMeans()), Term(NLL(), SampleMeans())


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return tiny.model(3).double()


def exact(net: torch.nn.Module, completion: tuple[int, ...], heat: float) -> tuple[float, ...]:
    """log pi of each token, by a plain pass of the model over the one sequence."""
    with torch.no_grad():
        logits = net(input_ids=torch.tensor([PROMPT + completion])).logits[0]
    logp = (logits / heat).log_softmax(-1)[len(PROMPT) - 1 : -1]
    return tuple(float(row[token]) for row, token in zip(logp, completion, strict=True))


def groups(net: torch.nn.Module, shifts: tuple[float, ...], heat: float = 1.0) -> list[Group]:
    """Two groups of samples of version 4, whose log-probs are recorded so far from the true."""
    made = [
        Sample(y, tuple(x + by for x in exact(net, y, heat)), "", "length", 4)
        for y, by in zip(COMPLETIONS, shifts, strict=True)
    ]
    return [of(made[:2], "a"), of(made[2:], "b")]


def of(samples: list[Sample], name: str) -> Group:
    n = len(samples)
    scores, outcomes = (Score(1.0),) * n, (Outcome(True, ""),) * n
    return Group(Prompt(name, name), PROMPT, tuple(samples), scores, outcomes, (1.0,) * n)


def measured(
    net: torch.nn.Module,
    made: list[Group],
    term: Term = RATIO,
    heat: float = 1.0,
    limit: int = 1000,
    version: int | None = 4,
) -> Sums:
    net.zero_grad()
    models = Models(PolicyForward(net))
    return accumulate(models, made, [term], totals(made), heat, limit, version)


@pytest.mark.parametrize("heat", [1.0, 0.7])
def test_log_probs_recorded_too_high_or_too_low_are_that_far_off(net, heat) -> None:
    """By sample .1, .2, .3 and .4 with 2, 1, 3 and 2 tokens: .2 + .2 + .9 + .8 of 8 tokens."""
    done = measured(net, groups(net, (0.1, -0.2, 0.3, -0.4), heat), heat=heat)
    assert done.gap_tokens == 8
    assert done.gap_sum == pytest.approx(2.1, abs=1e-9)
    # s is exp of minus the shift: k3 is s - 1 + shift, the variation |s - 1| / 2
    shifts = [0.1] * 2 + [-0.2] + [0.3] * 3 + [-0.4] * 2
    assert done.gap_kl_sum == pytest.approx(sum(math.exp(-by) - 1 + by for by in shifts), abs=1e-9)
    off = sum(abs(math.exp(-by) - 1) for by in shifts)
    assert done.gap_tv_sum == pytest.approx(off / 2, abs=1e-9)
    assert measured(net, groups(net, (0.0,) * 4, heat), heat=heat).gap_sum < 1e-12


def test_in_float32_a_small_kl_to_the_sampling_policy_is_more_than_rounding(net) -> None:
    """Recorded 3e-4 too high: k3 = exp(-x) - 1 + x = x^2 / 2 = 4.5e-8 a token, and exp(-x) alone is
    rounded by up to 6e-8; recorded as it is, it is 0 and never below."""
    single = tiny.model(3)
    single.load_state_dict({name: x.float() for name, x in net.state_dict().items()})
    done = measured(single, groups(single, (3e-4,) * 4))
    assert done.kl_sum / done.ratio_tokens == pytest.approx(4.5e-8, rel=0.05)
    for seed in range(8):
        own = tiny.model(seed)
        assert 0 <= measured(own, groups(own, (0.0,) * 4)).kl_sum < 1e-11


@pytest.mark.parametrize("limit", [1, 7, 20])
def test_micro_batches_add_up(net, limit) -> None:
    made = groups(net, (0.1, -0.2, 0.3, -0.4))
    whole, cut = measured(net, made), measured(net, made, limit=limit)
    assert cut.gap_tokens == whole.gap_tokens
    assert cut.gap_sum == pytest.approx(whole.gap_sum, abs=1e-12)
    assert cut.gap_kl_sum == pytest.approx(whole.gap_kl_sum, abs=1e-12)
    assert cut.gap_tv_sum == pytest.approx(whole.gap_tv_sum, abs=1e-12)


def test_only_samples_of_this_very_version_are_compared(net) -> None:
    own, other = groups(net, (0.5, 0.5, 9.0, 9.0))
    first, second = other.samples
    made = [own, other.with_(samples=(replace(first, policy_version=3), second))]
    assert measured(net, made).gap_tokens == 3 + 2
    spanned = replace(second, version_spans=((1, 5),))
    made[1] = other.with_(samples=(replace(first, policy_version=5), spanned))
    done = measured(net, made)
    assert (done.gap_tokens, done.gap_sum) == (3, pytest.approx(1.5))
    assert measured(net, made, version=None).gap_tokens == 0
    nothing = of([replace(sample, logprobs=()) for sample in own.samples], "c")
    assert measured(net, [nothing], LIKELIHOOD).gap_tokens == 0


def test_a_loss_at_another_temperature_than_the_samples_tells_nothing(net) -> None:
    shifts = (0.1, -0.2, 0.3, -0.4)
    assert measured(net, groups(net, shifts, 0.7), LIKELIHOOD, heat=0.7).gap_tokens == 0
    assert measured(net, groups(net, shifts), LIKELIHOOD).gap_sum == pytest.approx(2.1, abs=1e-9)


def test_the_measure_leaves_the_gradient_as_it_is(net) -> None:
    made, gradients = groups(net, (0.1, -0.2, 0.3, -0.4)), []
    for version in (None, 4):
        done = measured(net, made, version=version)
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert done.gap_tokens
    assert all(map(torch.equal, *gradients))


def test_the_second_update_is_of_other_weights_than_sampled() -> None:
    net = tiny.model(3)
    learner = local.learner(PolicyForward(net), lr=1e-3)
    learner.version = 4
    made = groups(net, (0.0,) * 4)
    first, second = (local.step(learner, made, [RATIO]) for _ in range(2))
    assert (first.gap_tokens, second.gap_tokens) == (8, 0)
    assert first.gap_sum / 8 < 1e-5  # float32
