import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.build import group
from winnow.algorithms.denominators import (
    Constant,
    GroupMeans,
    PromptMeans,
    SampleMeans,
    SurvivorMeans,
    SurvivorSums,
    SurvivorTokens,
    Tokens,
    Totals,
)
from winnow.algorithms.kl import KL
from winnow.algorithms.losses import (
    DPO,
    NLL,
    Capped,
    Clipped,
    Entropy,
    Importance,
    SequenceClipped,
    SequenceImportance,
    Value,
)
from winnow.algorithms.objective import Term, learned_from
from winnow.algorithms.registry import DENOMINATORS, LOSSES
from winnow.types import Outcome


def value_and_slope(loss, ratio, advantage):
    """Loss of one token with ratio s, and its derivative with respect to log pi."""
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    old = torch.zeros(1, dtype=torch.float64)
    out = loss(logp, old, torch.tensor([advantage], dtype=torch.float64))
    out.sum().backward()
    return out.item(), logp.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
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
def test_clipped_by_hand(ratio, advantage, value, slope):
    got = value_and_slope(Clipped(0.2, 0.28), ratio, advantage)
    assert got == pytest.approx((value, slope), rel=1e-12, abs=1e-12)


def test_clips_marks_exactly_the_tokens_without_gradient():
    ratios = torch.linspace(0.05, 3, 300, dtype=torch.float64)
    for sign in (1.0, -1.0):
        logp = ratios.log().requires_grad_()
        advantage = torch.full_like(ratios, sign)
        loss = Clipped(0.2, 0.28)
        loss(logp, torch.zeros_like(logp), advantage).sum().backward()
        marked = loss.clips(logp.detach(), torch.zeros_like(logp), advantage)
        assert torch.equal(marked, logp.grad == 0)
        assert 0 < int(marked.sum()) < len(ratios)


def test_likelihood_and_importance_by_hand():
    assert value_and_slope(NLL(), 0.25, 1.0) == pytest.approx((-math.log(0.25), -1.0))
    assert value_and_slope(NLL(), 0.25, -0.5) == pytest.approx((0.5 * math.log(0.25), 0.5))
    assert value_and_slope(Importance(), 1.7, 2.0) == pytest.approx((-3.4, -3.4))


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
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
def test_capped_by_hand(ratio, advantage, value, slope):
    got = value_and_slope(Capped(2.0), ratio, advantage)
    assert got == pytest.approx((value, slope), rel=1e-12)


def gradient(loss, logits, proposal, advantages):
    """Of the expected loss of one sample of the proposal, by enumeration of the answers."""
    logits = logits.clone().requires_grad_()
    losses = loss(logits.log_softmax(0), proposal.log(), advantages)
    (proposal * losses).sum().backward()
    return logits.grad


@pytest.mark.parametrize("cap", [0.3, 1.0, 2.0, math.inf])
def test_the_expected_gradient_of_capped(cap):
    """-sum_y min(pi, cap q) A grad log pi, which without a cap is importance weighting's:
    that of -E_pi[A], whatever sampled."""
    logits = torch.tensor([1.5, 0.0, -1.0, 0.3], dtype=torch.float64)
    q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    advantages = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    pi = logits.softmax(0)
    weighted = pi.minimum(cap * q) * advantages
    expected = -(weighted - weighted.sum() * pi)  # d log pi_y / d logit_k = [y = k] - pi_k
    got = gradient(Capped(cap), logits, q, advantages)
    assert torch.allclose(got, expected, rtol=1e-12, atol=1e-15)
    unbiased = -pi * (advantages - (pi * advantages).sum())  # of -E_pi[A]
    assert torch.allclose(gradient(Importance(), logits, q, advantages), unbiased, rtol=1e-12)
    assert torch.allclose(got, unbiased, rtol=1e-12) == (cap == math.inf)


def test_every_loss_is_in_the_vocabulary():
    assert set(LOSSES) == {
        "nll", "nll-tempered", "clipped", "importance", "capped",
        "sequence-clipped", "sequence-importance", "dpo",
    }  # fmt: skip
    assert [name for name, loss in LOSSES.items() if not loss().needs_old] == [
        "nll", "nll-tempered", "dpo",
    ]  # fmt: skip


DRAW = torch.tensor([0, 0, 1, 2, 2, 2])
"""Three samples of two, one and three tokens."""


def of_samples(loss, ratios, weights):
    """Losses of the samples and slopes in the tokens' log pi, from ratios of tokens."""
    logp = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    advantage = torch.tensor(weights, dtype=torch.float64)[DRAW]
    given = (logp, torch.zeros_like(logp), advantage, DRAW)
    losses = loss(*given)
    losses.sum().backward()
    return losses.tolist(), logp.grad.tolist(), given


class TestSequenceClipped:
    """s of a sample: the root of the product of its tokens' ratios, of their number."""

    def test_by_hand(self):
        """s = sqrt(4 .25) = 1; 1.5; cbrt(1 1 .512) = .8. Bounds .9 and 1.2.

        A = 2: -2, and each of the two tokens has half of the slope -s A = -2.
        A = 1: 1.5 is clipped, -1.2, no slope. A = -1: .8 is clipped, +.9, no slope.
        """
        losses, slopes, _ = of_samples(
            SequenceClipped(0.1, 0.2), [4.0, 0.25, 1.5, 1.0, 1.0, 0.512], [2.0, 1.0, -1.0]
        )
        assert losses == pytest.approx([-2.0, -1.2, 0.9], rel=1e-14)
        assert slopes == pytest.approx([-1.0, -1.0, 0, 0, 0, 0], rel=1e-14)

    def test_the_side_that_does_not_act(self):
        """s = .5 with A > 0 and s = 1.5 with A < 0: -s A, slope -s A / |y|."""
        losses, slopes, _ = of_samples(
            SequenceClipped(0.1, 0.2), [0.25, 1.0, 1.5, 8.0, 1.0, 1.0], [2.0, -1.0, -3.0]
        )
        assert losses == pytest.approx([-1.0, 1.5, 6.0], rel=1e-14)
        assert slopes == pytest.approx([-0.5, -0.5, 1.5, 2.0, 2.0, 2.0], rel=1e-14)

    def test_all_tokens_of_a_clipped_sample_are_marked(self):
        """Also those whose own ratio is 1, or to the other side; and none of the others."""
        loss = SequenceClipped(0.1, 0.2)
        ratios = [9.0, 0.5, 1.5, 1.0, 1.0, 0.512]
        for weights, marked in [
            ([1.0, 1.0, 1.0], [1, 1, 1, 0, 0, 0]),
            ([-1.0, 1.0, -1.0], [0, 0, 1, 1, 1, 1]),
            ([1.0, -1.0, 0.0], [1, 1, 0, 0, 0, 0]),
        ]:
            _, slopes, (logp, old, advantage, sample) = of_samples(loss, ratios, weights)
            clips = loss.clips(logp.detach(), old, advantage, sample)
            assert clips.tolist() == list(map(bool, marked))
            assert torch.equal(clips & (advantage != 0), (logp.grad == 0) & (advantage != 0))
            assert len(slopes) == len(marked)

    def test_tokens_that_weigh_differently_are_clipped_by_their_mean(self):
        """s = 2 with A = 3, -1: mean 1, clipped to -1.2; both tokens are marked."""
        logp = torch.tensor([2.0, 2.0], dtype=torch.float64).log()
        given = (logp, torch.zeros(2).double(), torch.tensor([3.0, -1.0]).double(), DRAW[:2])
        loss = SequenceClipped(0.1, 0.2)
        assert loss(*given).tolist() == pytest.approx([-1.2], rel=1e-14)
        assert loss.clips(*given).tolist() == [True, True]

    @given(st.lists(st.floats(0.2, 5), min_size=1, max_size=1), st.floats(-3, 3))
    def test_of_one_token_it_is_clipped(self, ratio, advantage):
        token = torch.tensor(ratio, dtype=torch.float64).log()
        args = token, torch.zeros(1).double(), torch.tensor([advantage], dtype=torch.float64)
        expected = Clipped(0.1, 0.2)(*args)
        got = SequenceClipped(0.1, 0.2)(*args, torch.zeros(1, dtype=torch.long))
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-15)


class TestSequenceImportance:
    def test_by_hand(self):
        """S = 4 .5 = 2; 1.5; 1. Loss -S A log pi(y), here log pi(y) = log S; slope -S A."""
        losses, slopes, _ = of_samples(
            SequenceImportance(), [4.0, 0.5, 1.5, 2.0, 0.5, 1.0], [1.0, -2.0, 3.0]
        )
        assert losses == pytest.approx([-2 * math.log(2), 3 * math.log(1.5), 0.0], abs=1e-14)
        assert slopes == pytest.approx([-2.0, -2.0, 3.0, -3.0, -3.0, -3.0], rel=1e-13)

    def test_a_cap_bounds_the_weight_of_the_whole_answer(self):
        losses, slopes, _ = of_samples(
            SequenceImportance(1.2), [4.0, 0.5, 1.5, 2.0, 0.5, 1.0], [1.0, -2.0, 3.0]
        )
        assert losses == pytest.approx([-1.2 * math.log(2), 2.4 * math.log(1.5), 0.0], abs=1e-14)
        assert slopes == pytest.approx([-1.2, -1.2, 2.4, -3.0, -3.0, -3.0], rel=1e-13)

    def test_bounds_of_the_cap(self):
        for cap in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match="cap must be above 0"):
                SequenceImportance(cap)


V = 3
"""Answers of two tokens of three, the second's distribution depending on the first: 9 of them."""
ANSWERS = [(a, b) for a in range(V) for b in range(V)]


def policy(seed):
    """Logits of the first token, and of the second behind each first one."""
    made = torch.Generator().manual_seed(seed)
    return torch.randn(V + 1, V, generator=made, dtype=torch.float64)


def logps(logits):
    """log pi of both tokens of every answer, shape (answers, 2)."""
    rows = logits.log_softmax(-1)
    return torch.stack([torch.stack([rows[0, a], rows[1 + a, b]]) for a, b in ANSWERS])


def merged_gradient(loss, logits, rounds, rewards):
    """Of the expected mean loss over samples of several earlier policies, one sample of each.

    By enumeration: every answer of every round with its probability under the policy that sampled
    it. The pieces of one sample are all that a term sees: its ratios are to that policy.
    """
    logits = logits.clone().requires_grad_()
    now = logps(logits)
    total = torch.zeros((), dtype=torch.float64)
    sample = torch.zeros(2, dtype=torch.long)
    for old in map(logps, rounds):
        for number, reward in enumerate(rewards.tolist()):
            advantage = torch.full((2,), reward, dtype=torch.float64)
            value = loss(now[number], old[number], advantage, sample)
            total = total + old[number].sum().exp() * value.sum() / len(rounds)
    total.backward()
    return logits.grad


class TestMergedRounds:
    """Samples of two older policies, mixed, weighed by pi(y)/pi_old(y) of each one's own policy:
    in expectation 1/2 sum_rounds sum_y pi_old(y) [pi(y)/pi_old(y)] A grad log pi(y)
    = sum_y pi(y) A grad log pi(y), the on-policy gradient."""

    rewards = torch.tensor([1.0, 0, -2, 0.5, 0, 0, 3, -1, 0], dtype=torch.float64)

    def on_policy(self, logits):
        logits = logits.clone().requires_grad_()
        (-(logps(logits).sum(-1).exp() * self.rewards).sum()).backward()
        return logits.grad

    def test_exact_weights_give_the_on_policy_gradient(self):
        now, rounds = policy(0), [policy(1), policy(2)]
        got = merged_gradient(SequenceImportance(), now, rounds, self.rewards)
        torch.testing.assert_close(got, self.on_policy(now), rtol=1e-12, atol=1e-14)
        alone = merged_gradient(SequenceImportance(), now, rounds[1:], self.rewards)
        torch.testing.assert_close(alone, got, rtol=1e-12, atol=1e-14)

    def test_a_cap_or_ratios_of_tokens_do_not(self):
        now, rounds = policy(0), [policy(1), policy(2)]
        expected = self.on_policy(now)
        others = (
            SequenceImportance(1.0),
            lambda logp, old, advantage, sample: Importance()(logp, old, advantage),
            lambda logp, old, advantage, sample: NLL()(logp, old, advantage),
        )
        for loss in others:
            got = merged_gradient(loss, now, rounds, self.rewards)
            assert (got - expected).abs().max() > 0.02

    def test_ratios_of_tokens_are_right_to_first_order(self):
        """Half as far from the policy that sampled, a quarter of the error, and not none."""
        old, toward = policy(1), policy(2) - policy(1)

        def error(distance):
            now, sampled = logps(old + distance * toward), logps(old)
            chance = sampled.sum(-1).exp()
            # -s A is -A where nothing has moved: two tokens count A twice
            lost = Importance()(now, sampled, self.rewards[:, None]).sum(-1)
            gained = -(chance * lost).sum() - 2 * (chance * self.rewards).sum()
            true = ((now.sum(-1).exp() - chance) * self.rewards).sum()
            return float(gained - true)

        assert abs(error(1.0)) > 0.01
        assert error(0.01) / error(0.005) == pytest.approx(4, rel=0.05)

    def test_the_first_update_needs_no_weights(self):
        """Where the policy is the one that sampled, all of these are the same."""
        now = policy(0)
        plain = merged_gradient(
            lambda logp, old, advantage, sample: NLL()(logp, old, advantage),
            now,
            [now],
            self.rewards,
        )
        torch.testing.assert_close(plain, self.on_policy(now), rtol=1e-12, atol=1e-14)


@given(st.floats(0.05, 5), st.floats(-3, 3))
def test_clipping_never_raises_the_objective(ratio, advantage):
    """-loss is the pessimistic side: never above the unclipped objective."""
    clipped, _ = value_and_slope(Clipped(0.2, 0.28), ratio, advantage)
    unclipped, _ = value_and_slope(Importance(), ratio, advantage)
    assert clipped >= unclipped - 1e-12


# Two prompts. The first: three valid samples of 1, 2 and 5 tokens, of which the first two survive.
# The second: two valid samples of 4 and 3 tokens, of which the last survives.
TOTALS = Totals(prompts=2, samples=5, survivors=3, tokens=15, survivor_tokens=6, groups=2)
SURVIVORS = [(1, 2), (2, 2), (3, 1)]  # (length, survivors of the same prompt)


@pytest.mark.parametrize(
    ("denominator", "factors"),
    [
        (SampleMeans(), [1 / 5, 1 / 10, 1 / 15]),
        (SurvivorMeans(), [1 / 3, 1 / 6, 1 / 9]),
        (PromptMeans(), [1 / 4, 1 / 8, 1 / 6]),
        (GroupMeans(), [1 / 4, 1 / 8, 1 / 6]),
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
    for denominator in (SurvivorMeans(), PromptMeans(), GroupMeans(), SurvivorTokens()):
        total = sum(n * denominator(n, siblings, TOTALS) for n, siblings in SURVIVORS)
        assert total == pytest.approx(1.0)
    assert set(DENOMINATORS) == {
        "sample-means", "survivor-means", "prompt-means", "group-means", "survivor-sums",
        "tokens", "survivor-tokens", "constant",
    }  # fmt: skip


def test_prompts_without_a_survivor_count_in_prompt_means_alone():
    """A third prompt whose samples were all rejected: a third more prompts, the same groups."""
    more = replace(TOTALS, prompts=3, samples=7, tokens=20)
    assert PromptMeans()(2, 2, more) == pytest.approx(1 / 12)
    assert GroupMeans()(2, 2, more) == pytest.approx(1 / 8)


def judged_by_hand():
    """Kept with an advantage, kept without one, rejected, and without a score."""
    sampled = group([1.0, 0.5, 0.0, None], lengths=[2, 3, 5, 7])
    rejections = ("survived", "survived", "wrong", "broken")
    return sampled.with_(
        outcomes=tuple(Outcome(rejection == "survived", rejection) for rejection in rejections),
        advantages=(1.0, 0.0, 0.0, 0.0),
    )


class TestTerm:
    @pytest.mark.parametrize(
        ("term", "samples"),
        [
            (Term(Clipped(), SampleMeans()), (0,)),
            (Term(DPO(), GroupMeans()), (0,)),
            (Term(SequenceClipped(), SampleMeans()), (0,)),
            (Term(Value(), Tokens()), (0, 1)),
            (Term(KL("k3", "token"), SampleMeans()), (0, 1, 2)),  # the denominator counts samples,
            (Term(KL("k3", "token"), SurvivorMeans()), (0, 1)),  # or survivors
            (Term(Entropy(), Constant(9)), (0, 1, 2)),
            (Term(Entropy(), SurvivorTokens()), (0, 1)),
        ],
        ids=str,
    )
    def test_covers(self, term, samples):
        assert term.covers(judged_by_hand()) == samples

    def test_a_sample_is_learned_from_if_any_term_runs_over_it(self):
        terms = (Term(Clipped(), SampleMeans()), Term(Value(), SampleMeans()))
        assert learned_from(judged_by_hand(), terms[:1]) == (0,)
        assert learned_from(judged_by_hand(), terms) == (0, 1)
        assert learned_from(judged_by_hand(), (*terms, Term(Entropy(), SampleMeans()))) == (0, 1, 2)

    def test_factor(self):
        """Of a token 1/(|a| samples), of a sample 1/samples; of a group, whose survivors count as
        one too, 1/groups."""
        totals = Totals(3, samples=8, survivors=6, tokens=40, survivor_tokens=30, groups=2)
        length, siblings = 5, 3
        assert Term(Clipped(), SampleMeans(), 0.5).factor(length, siblings, totals) == 0.5 / 40
        assert (
            Term(SequenceClipped(), SampleMeans(), 0.5).factor(length, siblings, totals) == 0.5 / 8
        )
        assert Term(SequenceClipped(), GroupMeans()).factor(length, siblings, totals) == 1 / 6
        assert Term(DPO(), GroupMeans(), 3.0).factor(length, siblings, totals) == 3 / 2
        assert Term(DPO(), SurvivorMeans()).factor(length, siblings, totals) == 1 / 6
        assert Term(Clipped(), Constant(10)).factor(length, siblings, totals) == 1 / 80
        assert Term(SequenceClipped(), Constant(10)).factor(length, siblings, totals) == 1 / 80

    @pytest.mark.parametrize(
        ("loss", "span", "tempered", "reads"),
        [
            (NLL(), "token", False, ("logp", "old", "advantage")),
            (Capped(), "token", True, ("logp", "old", "advantage")),
            (SequenceClipped(), "sample", True, ("logp", "old", "advantage", "sample")),
            (SequenceImportance(), "sample", True, ("logp", "old", "advantage", "sample")),
            (DPO(), "group", False, ("logp", "ref", "advantage", "sample", "group")),
            (KL("k2", "token"), "token", True, ("logp", "ref")),
            (KL("k2", "sequence"), "sample", True, ("logp", "ref", "sample")),
            (KL("full", "token"), "token", True, ("kl",)),
            (Entropy(), "token", True, ("entropy",)),
            (Value(), "token", False, ("value", "old_value", "returns")),
        ],
        ids=str,
    )
    def test_what_a_loss_says_of_itself(self, loss, span, tempered, reads):
        term = Term(loss, SampleMeans())
        assert (term.span, term.tempered, term.reads) == (span, tempered, reads)

    def test_a_loss_of_ones_own_says_no_more_than_it_must(self):
        class Own:
            def __call__(self, logp, old, advantage):
                return -advantage * logp

        term = Term(Own(), SampleMeans())
        assert (term.span, term.tempered) == ("token", True)
        assert term.reads == ("logp", "old", "advantage")
        assert term.covers(judged_by_hand()) == (0,)
