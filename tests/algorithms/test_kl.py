"""KL to a reference, in the loss and in the reward, and the entropy bonus."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.build import group
from tests.engines.models.test_forward import RAGGED, build, norm_in_full, one_by_one
from winnow.algorithms.advantages import GAE, Centred, LeaveOneOut, One, Reward, Softmax
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages, referred
from winnow.algorithms.denominators import (
    Constant,
    SampleMeans,
    SurvivorMeans,
    SurvivorTokens,
    Tokens,
)
from winnow.algorithms.kl import KL, InLoss, InReward, NoKL
from winnow.algorithms.losses import NLL, Clipped, Entropy, Value
from winnow.algorithms.objective import Term, learned_from, totals
from winnow.algorithms.registry import CRITICS, PENALTIES
from winnow.algorithms.table import ALGORITHMS
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.models import distributions
from winnow.engines.models.distributions import divergences, entropies, frozen
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.rollouts.annotate import Annotator, kl_to_reference
from winnow.types import Group, Outcome, Prompt, Sample, Score, TokenAnnotations

# A policy whose answers can all be enumerated: two tokens out of three, nine answers.
V, PROMPT = 3, (2, 0)
ANSWERS = list(product(range(V), repeat=2))


def small(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=V, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32, pad_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            module.forward = norm_in_full.__get__(module)
    return model


def tables(model, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """log pi of the first token, shape (V,), and of the second behind each first, (V, V)."""
    ids = torch.tensor([[*PROMPT, a] for a in range(V)])
    rows = (model(input_ids=ids).logits / temperature).log_softmax(-1)
    return rows[0, -2], rows[:, -1]


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL of distributions given by their logs, over the last axis."""
    return (p.exp() * (p - q)).sum(-1)


def both_directions(model, other, temperature: float) -> dict[str, torch.Tensor]:
    """Scalars whose gradients are the candidates for what a term does.

    KL(pi || ref) of whole answers is KL_1 + sum_a pi(a) KL_2(a). Taken by position, with the
    beginnings held fixed, pi(a) is a constant: what the first token does to KL_2 is left out.
    """
    p1, p2 = tables(model, temperature)
    with torch.no_grad():
        q1, q2 = tables(other, temperature)
    fixed = p1.detach().exp()
    return {
        "forward": divergence(p1, q1) + (p1.exp() * divergence(p2, q2)).sum(),
        "backward": divergence(q1, p1) + (q1.exp() * divergence(q2, p2)).sum(),
        "forward by position": divergence(p1, q1) + (fixed * divergence(p2, q2)).sum(),
        "backward by position": divergence(q1, p1) + (fixed * divergence(q2, p2)).sum(),
        "left out": (p1.exp() * divergence(p2, q2).detach()).sum(),
    }


def gradient(model, scalar: torch.Tensor) -> dict[str, torch.Tensor]:
    grads = torch.autograd.grad(scalar, list(model.parameters()), retain_graph=True)
    return dict(zip((n for n, _ in model.named_parameters()), grads, strict=True))


def of_answers(table: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """log-probs of both tokens of every answer, shape (answers, 2)."""
    first, second = table
    return torch.stack([torch.stack([first[a], second[a, b]]) for a, b in ANSWERS])


def answer_group(number: int, ref: torch.Tensor) -> Group:
    a, b = ANSWERS[number]
    return Group(
        prompt=Prompt("x", "x"),
        prompt_ids=PROMPT,
        samples=(Sample((a, b), (-1.0, -1.0), "", "length"),),
        scores=(Score(0.0),),
        outcomes=(Outcome(True, "survived"),),
        advantages=(0.0,),
        annotations=(TokenAnnotations(ref_logprobs=tuple(ref[number].tolist())),),
    )


def by_enumeration(model, other, term: Term, temperature: float) -> dict[str, torch.Tensor]:
    """The expected gradient of a term over samples of the policy: that of each answer, by its
    probability, each gone through `accumulate`."""
    forward, reference = PolicyForward(model), PolicyForward(other)
    with torch.no_grad():
        chances = of_answers(tables(model, temperature)).sum(-1).exp().tolist()
        ref = of_answers(tables(other, temperature))
    assert sum(chances) == pytest.approx(1, rel=1e-12)
    models = Models(forward, reference=lambda pieces: frozen(reference, pieces))
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for number, chance in enumerate(chances):
        model.zero_grad()
        accumulate(
            models,
            [answer_group(number, ref)],
            [term],
            totals([answer_group(number, ref)]),
            temperature,
            100,
        )
        for name, parameter in model.named_parameters():
            total[name] += chance * parameter.grad
    return total


def assert_same(got, expected) -> None:
    scale = max(float(x.abs().max()) for x in expected.values())
    assert scale > 1e-3  # it is no gradient of nothing
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("estimator", "over", "does"),
    [
        # With S = grad log pi(y), x = log pi(y)/ref(y): E[x S] is grad KL(pi || ref), as E[S] = 0;
        # grad of x^2/2 is x S, of e^-x - 1 + x it is (1 - ref/pi) S, whose mean is
        # -sum ref grad log pi = grad KL(ref || pi).
        ("k2", "sequence", "forward"),
        ("k3", "sequence", "backward"),
        # By token the same holds of each next token, behind beginnings that are held fixed.
        ("k2", "token", "forward by position"),
        ("full", "token", "forward by position"),
        ("k3", "token", "backward by position"),
    ],
)
def test_the_expected_gradient_of_an_estimator(estimator, over, does, temperature):
    model, other = small(1), small(2)
    term = Term(KL(estimator, over), Constant(1.0), 0.5)
    got = by_enumeration(model, other, term, temperature)
    scalars = both_directions(model, other, temperature)
    assert_same(got, {n: 0.5 * g for n, g in gradient(model, scalars[does]).items()})


@pytest.mark.parametrize("over", ["token", "sequence"])
def test_k1_in_the_loss_does_nothing_in_expectation(over):
    model, other = small(1), small(2)
    got = by_enumeration(model, other, Term(KL("k1", over), Constant(1.0)), 1.0)
    assert max(float(g.abs().max()) for g in got.values()) < 1e-14


def test_what_k2_by_token_leaves_out():
    """grad sum_a pi(a) KL_2(a) with KL_2 held fixed: the effect of the first token on the second;
    and it is not small."""
    model, other = small(1), small(2)
    by_token = by_enumeration(model, other, Term(KL("k2", "token"), Constant(1.0)), 1.0)
    whole = by_enumeration(model, other, Term(KL("k2", "sequence"), Constant(1.0)), 1.0)
    left = gradient(model, both_directions(model, other, 1.0)["left out"])
    assert_same({n: whole[n] - by_token[n] for n in whole}, left)


def test_in_the_reward_k1_of_the_whole_answer_leads_to_pi_star():
    """REINFORCE with r - beta sum_t k1: the gradient of -E[r] + beta KL(pi || ref), as the k1's own
    has mean 0. Its score is the one that `assign_advantages` gave."""
    model, other, beta = small(1), small(2), 0.3
    rewards = [1.0, 0.0, -1.0, 0.5, 0.0, 2.0, 0.0, 0.0, 1.0]
    tokens = of_answers(tables(model, 1.0))
    ref = of_answers(tables(other, 1.0)).detach()
    logp = tokens.sum(-1)
    surrogate = torch.zeros((), dtype=torch.float64)
    for number, reward in enumerate(rewards):
        sampled = answer_group(number, ref)
        own = replace(sampled.samples[0], logprobs=tuple(tokens[number].tolist()))
        sampled = sampled.with_(samples=(own,), scores=(Score(reward),))
        (made,) = assign_advantages([sampled], Reward(), "0/1", InReward(beta))
        surrogate = surrogate - logp[number].exp().detach() * made.advantages[0] * logp[number]
    expected = -(logp.exp() * torch.tensor(rewards)).sum()
    expected = expected + beta * both_directions(model, other, 1.0)["forward"]
    assert_same(gradient(model, surrogate), gradient(model, expected))


def kl_loss(estimator, over, ratios, sample=None):
    logp = torch.tensor(ratios, dtype=torch.float64, requires_grad=True)
    given = (logp, torch.zeros_like(logp), *(() if sample is None else (torch.tensor(sample),)))
    out = KL(estimator, over)(*given)
    out.sum().backward()
    return out.tolist(), logp.grad.tolist()


@pytest.mark.parametrize(
    ("estimator", "values", "slopes"),
    [
        # of log-ratios x = .5, -1: x; x^2/2; e^-x - 1 + x, whose slope is 1 - e^-x
        ("k1", [0.5, -1.0], [1.0, 1.0]),
        ("k2", [0.125, 0.5], [0.5, -1.0]),
        ("k3", [math.exp(-0.5) - 0.5, math.e - 2], [1 - math.exp(-0.5), 1 - math.e]),
    ],
)
def test_estimators_by_hand(estimator, values, slopes):
    got = kl_loss(estimator, "token", [0.5, -1.0])
    assert got == (pytest.approx(values, rel=1e-13), pytest.approx(slopes, rel=1e-13))
    # the same of whole answers, x = .2 + .3 and -1
    losses, per_token = kl_loss(estimator, "sequence", [0.2, 0.3, -1.0], [0, 0, 1])
    assert losses == pytest.approx(values, rel=1e-13)
    assert per_token == pytest.approx([slopes[0], slopes[0], slopes[1]], rel=1e-13)


def test_full_is_what_it_is_given():
    given = torch.tensor([0.1, 0.7])
    assert KL("full", "token")(given) is given
    assert KL("full", "token").measure(given)["kl_term"] is given


# Whole distributions of tiny models.

TEMPERATURES = [1.0, 0.7, 1.6]


def plain_rows(model, piece: Piece, temperature: float) -> torch.Tensor:
    """log pi of the whole vocabulary before each answer token, each answer alone."""
    out = []
    for answer in piece.answers:
        logits = model(input_ids=torch.tensor([[*piece.prompt, *answer]])).logits[0]
        out.append((logits[len(piece.prompt) - 1 : -1] / temperature).log_softmax(-1))
    return torch.cat(out)


PIECES = [
    Piece([(t + k) % 61 for t in p.prompt], [[(t + k) % 61 for t in a] for a in p.answers])
    for k in (0, 17, 30)
    for p in RAGGED
]
"""More contexts than the least that a part holds, which is 16."""


def plain(model, temperature: float) -> torch.Tensor:
    return torch.cat([plain_rows(model, piece, temperature) for piece in PIECES])


def grads(model, scalar) -> list[torch.Tensor]:
    return torch.autograd.grad(scalar, list(model.parameters()), retain_graph=True)


def weights_of_tokens(number: int) -> torch.Tensor:
    """Arbitrary ones, so that no two tokens' gradients could be exchanged."""
    return torch.linspace(-1, 2, number, dtype=torch.float64)


@pytest.mark.parametrize("parts", [None, 1, 2 * 16 * 61], ids=["whole", "least", "two"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("share", [True, False], ids=["tree", "rows"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_entropies_and_divergences(name, share, temperature, parts, monkeypatch):
    """Value and gradient, in one part and in several; 16 contexts at a time are the least."""
    if parts is not None:
        monkeypatch.setattr(distributions, "_ELEMENTS", parts)
    model = build(name)
    other = build(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    forward, reference = (PolicyForward(m, share_prefix=share) for m in (model, other))
    at = forward.contexts(PIECES)
    assert len(at.features) > 32
    entropy = entropies(forward, at, temperature)
    kl = divergences(forward, at, frozen(reference, PIECES), temperature)

    logp = plain(model, temperature)
    ref = plain(other, temperature).detach()
    expected = -(logp.exp() * logp).sum(-1), (logp.exp() * (logp - ref)).sum(-1)
    assert (kl > 0.001).all()
    weight = weights_of_tokens(len(kl))
    for got, wanted in zip((entropy, kl), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)
        pairs = zip(
            grads(model, (got * weight).sum()), grads(model, (wanted * weight).sum()), strict=True
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_frozen_reference_stays_what_it_was():
    """The module's weights are exchanged behind it, as they are where it is lent them."""
    model = build("llama")
    forward = PolicyForward(model)
    held = frozen(forward, PIECES)
    before = plain(model, 1.0).detach()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    got = held.head(held.features).log_softmax(-1)[forward.contexts(PIECES).index]
    torch.testing.assert_close(got, before, rtol=0, atol=1e-11)
    kl = divergences(forward, forward.contexts(PIECES), held, 1.0)
    torch.testing.assert_close(kl, divergence(plain(model, 1.0), before), rtol=0, atol=1e-11)


def test_without_a_gradient_nothing_is_kept():
    forward = PolicyForward(build("llama"))
    with torch.no_grad():
        assert not entropies(forward, forward.contexts(PIECES), 1.0).requires_grad


def test_the_entropy_bonus_is_minus_the_entropy():
    entropy = torch.tensor([0.3, 1.1], requires_grad=True)
    Entropy()(entropy).sum().backward()
    assert entropy.grad.tolist() == [-1.0, -1.0]
    assert Entropy().measure(entropy)["entropy_term"] is entropy


# The adaptive coefficient.


class TestAdaptive:
    cell = InReward(0.1, target=6.0, horizon=1000.0)

    @pytest.mark.parametrize(
        ("kl", "samples", "factor"),
        [
            (6.0, 100, 1.0),  # on target
            (6.6, 100, 1.01),  # .1 over, for a tenth of the horizon
            (12.0, 100, 1.02),  # 1 over, cut to .2
            (0.0, 100, 0.98),
            (-3.0, 100, 0.98),  # an estimate below 0
            (5.7, 500, 1 - 0.05 * 0.5),
            (12.0, 1000, 1.2),
            (12.0, 9000, 1.2),  # never more than a fifth in a step, however many the samples
            (0.0, 9000, 0.8),
        ],
    )
    def test_formula(self, kl, samples, factor):
        """beta (1 + clip(KL/6 - 1, +-.2) min(samples/1000, 1))."""
        assert self.cell.adapted(0.1, kl, samples) == pytest.approx(0.1 * factor, rel=1e-12)

    def test_without_a_target_it_is_fixed(self):
        assert InReward(0.1).adapted(0.1, 99.0, 10_000) == 0.1

    def test_it_stays_above_0(self):
        beta = 0.1
        for _ in range(500):
            beta = self.cell.adapted(beta, 0.0, 10**6)
        assert beta > 0
        assert replace(self.cell, beta=beta).beta == beta

    @pytest.mark.parametrize("start", [1e-3, 0.1, 10.0])
    def test_it_reaches_its_target(self, start):
        """A policy that follows its coefficient at once, KL = 1/(2 beta): at a KL of 6 that is
        beta = 1/12, wherever it began, and there it stays."""
        beta, seen = start, []
        for _ in range(4000):
            kl = 1 / (2 * beta)
            seen.append(kl)
            beta = self.cell.adapted(beta, kl, 100)
        assert beta == pytest.approx(1 / 12, rel=1e-9)
        assert seen[-1] == pytest.approx(6.0, rel=1e-9)

    def test_it_reaches_its_target_through_noise_and_delay(self):
        rng = np.random.default_rng(0)
        beta = kl = 1.0
        seen = []
        for _ in range(4000):
            kl += 0.2 * (1 / (2 * beta) - kl)  # the policy follows slowly
            beta = self.cell.adapted(beta, kl + rng.normal(), 100)
            seen.append(kl)
        assert np.mean(seen[-2000:]) == pytest.approx(6.0, rel=0.03)
        assert np.std(seen[-2000:]) < 1.0


# In the reward, without a critic.


def referred_group(rewards, ratios, kept=None, **changes) -> Group:
    """Log-probs of -1 a token, and a reference with these log-ratios pi/pi_ref of each token."""
    sampled = group(rewards, lengths=[len(x) for x in ratios], **changes)
    kept = kept or [True] * len(rewards)
    return sampled.with_(
        annotations=tuple(
            TokenAnnotations(ref_logprobs=tuple(-1.0 - x for x in own)) for own in ratios
        ),
        outcomes=tuple(Outcome(k and v, "") for k, v in zip(kept, sampled.valid, strict=True)),
    )


class TestInReward:
    ratios = ((0.5, 0.25), (-1.0,), (0.0, 0.0, 2.0))

    def test_r_less_beta_times_the_sum(self):
        """beta .2: 1 - .15, 0 + .2, .5 - .4."""
        sampled = referred_group([1.0, 0.0, 0.5], self.ratios)
        (got,) = assign_advantages([sampled], Reward(), "0/1", InReward(0.2))
        assert got.advantages == pytest.approx((0.85, 0.2, 0.1), rel=1e-13)

    def test_the_scale_comes_first(self):
        """2 r - 1, and then: 1 - .15, -1 + .2, 0 - .4."""
        sampled = referred_group([1.0, 0.0, 0.5], self.ratios)
        (got,) = assign_advantages([sampled], Reward(), "-1/+1", InReward(0.2))
        assert got.advantages == pytest.approx((0.85, -0.8, -0.4), rel=1e-13)

    def test_estimators_are_summed_over_tokens(self):
        """k2 of the tokens: (.25 + .0625)/2, 1/2, 2; not of the sum."""
        sampled = referred_group([0.0, 0.0, 0.0], self.ratios)
        (got,) = assign_advantages([sampled], Reward(), "0/1", InReward(1.0, "k2"))
        assert got.advantages == pytest.approx((-0.15625, -0.5, -2.0), rel=1e-13)

    def test_a_baseline_sees_the_penalised_rewards_of_rejected_samples(self):
        """Penalized .85, .2, .1 with mean .38333; the last is rejected and weighs nothing. Leave
        one out: .85 - .15, .2 - .475."""
        sampled = referred_group([1.0, 0.0, 0.5], self.ratios, [True, True, False])
        (got,) = assign_advantages([sampled], LeaveOneOut(), "0/1", InReward(0.2))
        assert got.advantages == pytest.approx((0.7, -0.275, 0.0), rel=1e-13)
        (got,) = assign_advantages([sampled], Centred(), "0/1", InReward(0.2))
        assert got.advantages == pytest.approx((0.85 - 1.15 / 3, 0.2 - 1.15 / 3, 0.0), rel=1e-13)

    def test_equal_rewards_may_differ_once_penalised(self):
        sampled = referred_group([1.0, 1.0], ((1.0,), (0.0,)))
        (got,) = assign_advantages([sampled], LeaveOneOut(), "0/1", InReward(0.2))
        assert got.advantages == pytest.approx((-0.2, 0.2), rel=1e-13)

    def test_errors_are_in_no_baseline(self):
        sampled = referred_group([1.0, None, 0.0], ((0.5,), (9.0,), (0.0,)))
        (got,) = assign_advantages([sampled], LeaveOneOut(), "0/1", InReward(0.2))
        assert got.advantages == pytest.approx((0.9, 0.0, -0.9), rel=1e-13)

    @pytest.mark.parametrize(
        ("advantage", "kept", "samples"),
        [
            (One(), [True, False, True], (0, 2)),
            (Reward(), [True, False, True], (0, 2)),
            (LeaveOneOut(), [True, False, True], (0, 1, 2)),  # a baseline reads them all,
            (LeaveOneOut(), [False, False, False], ()),  # where there is one to be compared
            (Softmax(1.0, "set"), [False, False, False], (0, 1, 2)),
            (GAE(), [True, False, True], (0, 2)),
        ],
        ids=str,
    )
    def test_whose_reward_decides(self, advantage, kept, samples):
        sampled = referred_group([1.0, 0.0, 0.5, None], (*self.ratios, (1.0,)), [*kept, True])
        assert referred(sampled, advantage) == samples

    def test_kl_to_the_reference_is_k1_a_sample(self):
        """Sums .75, -1, 2 of the samples that were compared: the last one was not."""
        sampled = referred_group([1.0, 0.0, 0.5], self.ratios)
        assert kl_to_reference([sampled]) == (pytest.approx(1.75 / 3, rel=1e-13), 3)
        sampled = sampled.with_(annotations=(*sampled.annotations[:2], TokenAnnotations()))
        assert kl_to_reference([sampled, group([1.0])]) == (pytest.approx(-0.125, rel=1e-13), 2)
        assert kl_to_reference([group([1.0])]) is None


# Which samples a KL in the loss reaches.


def learners_group(model, kept, rewards=(1.0, 0.0, None, 0.0)) -> Group:
    piece = Piece([5, 9, 2], [[3, 4], [7, 1, 30], [60], [8]])
    with torch.no_grad():
        exact = one_by_one(model, piece).split([len(a) for a in piece.answers])
    return Group(
        prompt=Prompt("x", "x"),
        prompt_ids=tuple(piece.prompt),
        samples=tuple(
            Sample(tuple(a), tuple(x.tolist()), "", "eos")
            for a, x in zip(piece.answers, exact, strict=True)
        ),
        scores=tuple(Score.failed("x") if r is None else Score(r) for r in rewards),
        outcomes=tuple(Outcome(k, "") for k in kept),
        advantages=tuple(float(k) for k in kept),
        annotations=tuple(
            TokenAnnotations(ref_logprobs=tuple(x.tolist())) for x in (y - 0.5 for y in exact)
        ),
    )


@pytest.mark.parametrize(
    ("denominator", "reaches"),
    [
        (SampleMeans(), {1, 3}),
        (Tokens(), {1, 3}),
        (Constant(1.0), {1, 3}),
        (SurvivorMeans(), set()),
        (SurvivorTokens(), set()),
    ],
    ids=str,
)
@pytest.mark.parametrize("kl", [InLoss(0.1), InLoss(0.1, "k2", "sequence")], ids=str)
def test_rejected_samples_are_held_where_they_count(denominator, reaches, kl):
    """By a denominator that counts all samples. The third has no score: nothing reaches it."""
    model = build("llama")
    row = Algorithm("x", terms=(Term(Clipped(), denominator),), kl=kl)
    sampled = learners_group(model, [True, False, False, False])
    assert set(learned_from(sampled, row.objective)) == {0} | reaches
    with_kl = one_update(model, sampled, row.objective)
    without = one_update(model, sampled, row.terms)
    assert with_kl.samples == 1 + len(reaches)
    assert with_kl.tokens == 2 + (4 if reaches else 0)
    assert without.samples == 1
    total, count = with_kl.measures["kl_term"]
    spans = with_kl.tokens if kl.over == "token" else with_kl.samples
    assert count == spans
    # log pi/pi_ref is .5 a token: k3 of each is e^-.5 - .5; k2 of an answer (|a|/2)^2/2
    lengths = [2, 3, 1] if reaches else [2]
    one = [math.exp(-0.5) - 0.5] * sum(lengths)
    whole = [(n / 2) ** 2 / 2 for n in lengths]
    assert total == pytest.approx(sum(one if kl.over == "token" else whole), rel=1e-9)


def one_update(model, sampled, terms):
    model.zero_grad()
    return accumulate(Models(PolicyForward(model)), [sampled], terms, totals([sampled]), 1.0, 100)


def test_a_group_of_rejected_samples_alone_is_held_too():
    """A gradient comes of the KL, and of nothing else; under a denominator of survivors, none."""
    model = build("llama")
    sampled = learners_group(model, [False] * 4)
    row = Algorithm("x", terms=(Term(Clipped(), SampleMeans()),), kl=InLoss(0.1, "k2"))
    done = one_update(model, sampled, row.objective)
    assert done.samples == 3
    got = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    total = 0.0
    for number, d in ((0, [3, 4]), (1, [7, 1, 30]), (3, [8])):
        logp = one_by_one(model, Piece([5, 9, 2], [d]))
        ref = torch.tensor(sampled.annotations[number].ref_logprobs, dtype=torch.float64)
        total = total + 0.1 * ((logp - ref) ** 2 / 2).mean() / 3
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=0, atol=1e-11)
    row = replace(row, terms=(Term(Clipped(), SurvivorMeans()),))
    assert one_update(model, sampled, row.objective).samples == 0


# What a row does not read is not asked for.


class Asked:
    """A learner that only notes what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float, list[tuple[int, ...]]]] = []

    def reference_logprobs(self, groups, asked, temperature):
        self.calls.append(("ref_logprobs", temperature, [tuple(x) for x in asked]))
        return [[()] * len(group.samples) for group in groups]

    def values(self, groups, asked):
        self.calls.append(("values", None, [tuple(x) for x in asked]))
        return [[()] * len(group.samples) for group in groups]


def asked_of(row: Algorithm, groups, *, for_advantages: bool = True) -> list:
    learner = Asked()
    Annotator(row, learner, 0.7).fill(groups, for_advantages=for_advantages)
    return learner.calls


def judged(rewards, kept) -> Group:
    sampled = group(rewards)
    return sampled.with_(outcomes=tuple(Outcome(k, "") for k in kept))


JUDGED = [
    judged([1.0, 0.0, None], [True, False, False]),
    judged([0.0, 0.0], [False, False]),
    judged([1.0, 1.0], [True, True]),
]


@pytest.mark.parametrize(
    "name",
    ["raft", "raft++", "grpo", "reinforce", "reinforce-rej", "rft", "gibbs", "snis", "dr-grpo",
     "dapo", "gspo"],
)  # fmt: skip
@pytest.mark.parametrize("for_advantages", [True, False])
def test_a_row_without_a_reference_asks_for_nothing(name, for_advantages):
    assert asked_of(ALGORITHMS[name], JUDGED, for_advantages=for_advantages) == []


@pytest.mark.parametrize(
    ("row", "calls"),
    [
        # a baseline reads the rewards of rejected samples, where a survivor is compared with them
        (ALGORITHMS["rloo"], [("ref_logprobs", 0.7, [(0, 1), (), (0, 1)])]),
        # DPO reads the pair, at temperature 1
        (ALGORITHMS["iterative-dpo"], [("ref_logprobs", 1.0, [(0,), (), (0, 1)])]),
        # PPO: reference and critic, of survivors
        (
            ALGORITHMS["ppo"],
            [("ref_logprobs", 0.7, [(0,), (), (0, 1)]), ("values", None, [(0,), (), (0, 1)])],
        ),
        # in the loss: what its denominator counts
        (
            replace(ALGORITHMS["grpo"], kl=InLoss(0.04)),
            [("ref_logprobs", 0.7, [(0, 1), (0, 1), (0, 1)])],
        ),
        (
            replace(ALGORITHMS["raft"], kl=InLoss(0.04)),
            [("ref_logprobs", 0.7, [(0,), (), (0, 1)])],
        ),
        # whole distributions are read with the update, not before it
        (replace(ALGORITHMS["grpo"], kl=InLoss(0.04, "full")), []),
        (replace(ALGORITHMS["grpo"], entropy=0.01), []),
        # without a baseline only the survivors' own rewards count
        (
            replace(ALGORITHMS["raft"], advantage=Reward(), kl=InReward(0.05)),
            [("ref_logprobs", 0.7, [(0,), (), (0, 1)])],
        ),
    ],
    ids=["rloo", "dpo", "ppo", "kl-samples", "kl-survivors", "kl-full", "entropy", "in-reward"],
)
def test_only_what_is_read_is_asked_for(row, calls):
    assert asked_of(row, JUDGED) == calls


def test_where_nothing_survived_the_learner_is_left_in_peace():
    for name in ("ppo", "rloo", "dpo"):
        assert asked_of(ALGORITHMS[name], [JUDGED[1]]) == []


def test_what_weighing_alone_reads_is_not_asked_for_again():
    assert asked_of(ALGORITHMS["rloo"], JUDGED, for_advantages=False) == []
    assert asked_of(ALGORITHMS["ppo"], JUDGED, for_advantages=False) == []
    assert asked_of(ALGORITHMS["dpo"], JUDGED, for_advantages=False) == [
        ("ref_logprobs", 1.0, [(0,), (), (0, 1)])
    ]


def test_a_reference_is_compared_with_at_its_own_temperature():
    assert Annotator(ALGORITHMS["dpo"], Asked(), 0.7).reference_temperature == 1.0
    assert Annotator(ALGORITHMS["rloo"], Asked(), 0.7).reference_temperature == 0.7


def test_terms_that_read_no_log_probs_make_none(monkeypatch):
    """And a KL over whole distributions does not ask for those of single tokens."""
    model = build("llama")
    sampled = learners_group(model, [True, False, False, False])
    forward = PolicyForward(model)
    monkeypatch.setattr(PolicyForward, "logprobs", None)
    terms = (Term(Entropy(), SampleMeans(), 0.1), Term(KL("full", "token"), SampleMeans(), 0.1))
    models = Models(forward, reference=lambda pieces: frozen(forward, pieces))
    done = accumulate(models, [sampled], terms, totals([sampled]), 1.0, 100)
    assert done.measures["kl_term"] == (pytest.approx(0, abs=1e-12), 6)


def test_the_objective_of_a_row():
    """All terms under the row's own denominator."""
    row = Algorithm(
        "x", advantage=GAE(), terms=(Term(Clipped(), Tokens()),), kl=InLoss(0.04), entropy=0.01,
        critic=Value(),
    )  # fmt: skip
    assert row.objective == (
        Term(Clipped(), Tokens()),
        Term(KL("k3", "token"), Tokens(), 0.04),
        Term(Entropy(), Tokens(), 0.01),
        Term(Value(), Tokens(), 0.5),
    )
    assert row.needs == {"old", "ref", "values", "rejected"}
    assert replace(row, kl=InReward(), entropy=0.0).objective == (
        row.objective[0],
        row.objective[3],
    )
    assert Algorithm("y", kl=NoKL()).objective == (Term(NLL(), SurvivorMeans()),)


def test_vocabularies():
    assert set(PENALTIES) == {"none", "in-reward", "in-loss"}
    assert set(CRITICS) == {"none", "value"}
