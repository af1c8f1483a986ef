"""GAE, PPO's loss and the critic that they compare with, against derivations by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests import local
from tests.build import group
from tests.engines.models.test_forward import build, largest_difference, one_by_one
from winnow.algorithms.advantages import GAE
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.denominators import Tokens
from winnow.algorithms.kl import InReward
from winnow.algorithms.losses import Clipped, Entropy, Value
from winnow.algorithms.objective import Term, totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.critic import CriticConfig
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.local.learner import LocalLearner
from winnow.engines.models.critic import LocalCritic
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.reporting.metrics import explained_variance
from winnow.types import Group, Outcome, Prompt, Sample, Score, TokenAnnotations


def noted(
    sampled: Group, annotations: list[TokenAnnotations], kept: list[bool] | None = None
) -> Group:
    """A group with annotations and outcomes; errors are never kept."""
    kept = kept or [True] * len(annotations)
    return sampled.with_(
        annotations=tuple(annotations),
        outcomes=tuple(Outcome(k and ok, "") for k, ok in zip(kept, sampled.valid, strict=True)),
    )


def advantages(groups: list[Group]) -> list[list[tuple[float, ...]]]:
    return [[annotations.token_advantages for annotations in g.annotations] for g in groups]


class TestGAE:
    """gamma = .9, lam = .95, gamma lam = .855; A_t = delta_t + .855 A_(t+1)."""

    plain = GAE(0.9, 0.95, whiten="none")

    def test_without_values(self):
        """delta = 0, 0, 1: A = .855^2, .855, 1."""
        got = self.plain(np.array([0.0, 0.0, 1.0]))
        np.testing.assert_allclose(got, [0.731025, 0.855, 1.0], rtol=1e-15)

    def test_with_values(self):
        """V = .5, .2, .4 and nothing behind: delta = .9 .2 - .5, .9 .4 - .2, 1 - .4
        = -.32, .16, .6; A_3 = .6, A_2 = .16 + .855 .6 = .673, A_1 = -.32 + .855 .673."""
        got = self.plain(np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.2, 0.4]))
        np.testing.assert_allclose(got, [0.255415, 0.673, 0.6], rtol=1e-14)

    def test_rewards_on_the_way(self):
        """r = -.1, .2, 1 and V = .5, .2, .4: delta = -.42, .36, .6; A_2 = .36 + .513 = .873,
        A_1 = -.42 + .855 .873."""
        got = self.plain(np.array([-0.1, 0.2, 1.0]), np.array([0.5, 0.2, 0.4]))
        np.testing.assert_allclose(got, [0.326415, 0.873, 0.6], rtol=1e-14)

    def test_one_token(self):
        assert self.plain(np.array([1.0]), np.array([0.25])).tolist() == [0.75]
        assert self.plain(np.array([1.0])).tolist() == [1.0]

    def test_whitening_does_not_blow_rounding_up(self):
        """Rewards .3 and .1 + .2 at lam = 1: all tokens' advantages are equal."""
        told = noted(group([0.3, 0.1 + 0.2], lengths=[2, 2]), [TokenAnnotations()] * 2)
        (out,) = assign_advantages([told], GAE(1.0, 1.0), "0/1")
        assert advantages([out]) == [[(0.0, 0.0), (0.0, 0.0)]]

    def test_lam_0_is_one_step(self):
        """A_t = delta_t."""
        got = GAE(0.9, 0.0)(np.array([0.0, 0.0, 1.0]), np.array([0.5, 0.2, 0.4]))
        np.testing.assert_allclose(got, [-0.32, 0.16, 0.6], rtol=1e-14)

    def test_nothing_of_one_sample_reaches_another(self):
        """Ragged samples side by side, in one group and in several, are as if each were alone."""
        values = [(0.5, 0.2, 0.4), (0.25,), (), (0.1, -0.3)]
        lengths, rewards = [3, 1, 2, 2], [1.0, 1.0, 0.5, 0.0]
        own = [TokenAnnotations(values=v) for v in values]
        together = assign_advantages(
            [noted(group(rewards, lengths=lengths), own)], self.plain, "0/1"
        )
        apart = assign_advantages(
            [
                noted(group([r], lengths=[n]), [s])
                for r, n, s in zip(rewards, lengths, own, strict=True)
            ],
            self.plain,
            "0/1",
        )
        # The third has no values: .855 .5, .5. The last: delta = .9 (-.3) - .1, .3 = -.37, .3;
        # A_1 = -.37 + .855 .3.
        expected = [(0.255415, 0.673, 0.6), (0.75,), (0.4275, 0.5), (-0.1135, 0.3)]
        assert advantages(together)[0] == [pytest.approx(x, rel=1e-13) for x in expected]
        assert [row for rows in advantages(apart) for row in rows] == advantages(together)[0]
        returns = [(0.755415, 0.873, 1.0), (1.0,), (0.4275, 0.5), (-0.0135, 0.0)]
        got = [annotations.returns for annotations in together[0].annotations]
        assert got == [pytest.approx(x, rel=1e-13, abs=1e-15) for x in returns]
        assert together[0].advantages == pytest.approx([np.mean(x) for x in expected], rel=1e-13)

    @given(
        st.integers(1, 12).flatmap(lambda n: arrays(np.float64, (2, n), elements=st.floats(-9, 9)))
    )
    def test_with_gamma_and_lam_1_advantages_are_exact_returns_less_values(self, sampled):
        rewards, values = sampled
        returns = np.array([math.fsum(rewards[t:]) for t in range(len(rewards))])
        got = GAE(1.0, 1.0)(rewards, values)
        np.testing.assert_allclose(got + values, returns, rtol=0, atol=1e-12)

    @given(arrays(np.float64, 6, elements=st.floats(-9, 9)), st.floats(0, 1), st.floats(0, 1))
    def test_it_is_the_sum_of_its_definition(self, rewards, gamma, lam):
        """sum_k (gamma lam)^k delta_(t+k) (1506.02438, eq. 16), written out."""
        values = np.cos(rewards)
        delta = rewards + gamma * np.array([*values[1:], 0.0]) - values
        powers = (gamma * lam) ** np.arange(6)
        expected = [float(powers[: 6 - t] @ delta[t:]) for t in range(6)]
        np.testing.assert_allclose(GAE(gamma, lam)(rewards, values), expected, atol=1e-12)


class TestTokenRewards:
    """-beta (log pi - log pi_ref) at each token, the verifier's reward at the last."""

    def sampled(self, **changes) -> Group:
        sampled = group([1.0, 0.0], lengths=[3, 2])
        own = (
            replace(sampled.samples[0], logprobs=(-1.0, -2.0, -0.5)),
            replace(sampled.samples[1], logprobs=(-3.0, -1.0)),
        )
        refs = [(-1.5, -1.0, -0.5), (-2.0, -2.0)]  # log-ratios .5, -1, 0 and -1, 1
        return noted(
            sampled.with_(samples=own), [TokenAnnotations(ref_logprobs=r, **changes) for r in refs]
        )

    def test_by_hand(self):
        """beta .1: r = -.05, .1, 1 and .1, -.1; at gamma = lam = 1 without values, their sums
        from each token on."""
        (got,) = assign_advantages([self.sampled()], GAE(1.0, 1.0, "none"), "0/1", InReward(0.1))
        assert got.annotations[0].token_advantages == pytest.approx((1.05, 1.1, 1.0), rel=1e-13)
        assert got.annotations[1].token_advantages == pytest.approx(
            (0.0, -0.1), rel=1e-13, abs=1e-15
        )
        assert got.annotations[0].returns == got.annotations[0].token_advantages

    def test_the_scale_is_the_verifiers_alone(self):
        """2 r - 1 at the last token; what the reference takes is not doubled."""
        (got,) = assign_advantages([self.sampled()], GAE(1.0, 1.0, "none"), "-1/+1", InReward(0.1))
        assert got.annotations[0].token_advantages == pytest.approx((1.05, 1.1, 1.0), rel=1e-13)
        assert got.annotations[1].token_advantages == pytest.approx((-1.0, -1.1), rel=1e-13)

    def test_with_gamma_and_values(self):
        """gamma = .9, lam = 0: A_t = r_t + .9 V_(t+1) - V_t, r = -.05, .1, 1, V = .5, .2, .4:
        -.05 + .18 - .5, .1 + .36 - .2, 1 - .4."""
        sampled = self.sampled()
        sampled = sampled.with_(
            annotations=(
                replace(sampled.annotations[0], values=(0.5, 0.2, 0.4)),
                sampled.annotations[1],
            )
        )
        (got,) = assign_advantages([sampled], GAE(0.9, 0.0, "none"), "0/1", InReward(0.1))
        assert got.annotations[0].token_advantages == pytest.approx((-0.37, 0.26, 0.6), rel=1e-13)

    @pytest.mark.parametrize(
        ("estimator", "taken"),
        [
            # of log-ratios x = .5, -1, 0: x^2/2, and e^-x - 1 + x
            ("k2", (0.125, 0.5, 0.0)),
            ("k3", (math.exp(-0.5) - 0.5, math.e - 2, 0.0)),
        ],
    )
    def test_other_estimators(self, estimator, taken):
        row = InReward(0.1, estimator)
        (got,) = assign_advantages([self.sampled()], GAE(1.0, 0.0, "none"), "0/1", row)
        expected = [-0.1 * x for x in taken]
        expected[-1] += 1
        assert got.annotations[0].token_advantages == pytest.approx(expected, rel=1e-13, abs=1e-15)


class TestWhitening:
    def test_the_batch_has_mean_0_and_deviation_1(self):
        """Over the tokens of survivors: neither rejected samples nor errors count."""
        groups = [
            noted(
                group([1.0, 0.0, None, 5.0], lengths=[3, 1, 2, 4]),
                [
                    TokenAnnotations(values=(0.5, 0.2, 0.4)),
                    TokenAnnotations(values=(0.3,)),
                    TokenAnnotations(),
                    TokenAnnotations(),
                ],
                [True, True, True, False],
            ),
            noted(group([0.25], lengths=[2]), [TokenAnnotations()]),
        ]
        raw = assign_advantages(groups, GAE(0.9, 0.95, "none"), "0/1")
        got = assign_advantages(groups, GAE(0.9, 0.95, "batch"), "0/1")
        before = np.concatenate([x for rows in advantages(raw) for x in rows])
        after = np.concatenate([x for rows in advantages(got) for x in rows])
        assert len(after) == 3 + 1 + 2
        assert after.mean() == pytest.approx(0, abs=1e-15)
        assert after.std() == pytest.approx(1, rel=1e-14)
        np.testing.assert_allclose(after, (before - before.mean()) / before.std(), rtol=1e-12)
        # What the critic learns is not whitened.
        assert [[s.returns for s in g.annotations] for g in got] == [
            [s.returns for s in g.annotations] for g in raw
        ]

    def test_rounding_in_a_kl_of_nought_is_not_blown_up(self):
        """On the first step the policy is the reference; its log-probs differ by float32 noise."""
        noise = (1e-7, -2e-7)
        sampled = group([0.0, 0.0], lengths=[1, 1])
        old = [sample.logprobs[0] for sample in sampled.samples]
        annotations = [
            TokenAnnotations(ref_logprobs=(one + off,)) for one, off in zip(old, noise, strict=True)
        ]
        (got,) = assign_advantages([noted(sampled, annotations)], GAE(), "0/1", InReward(0.05))
        # -.05 (old - ref), less their mean, over 1e-4
        np.testing.assert_allclose(got.advantages, [7.5e-5, -7.5e-5], rtol=1e-6)

    @pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7, 1e-300, 1e300])
    @pytest.mark.parametrize("samples", [1, 3, 7])
    def test_equal_advantages_are_all_zero(self, reward, samples):
        """Three times .1 has a mean that is not .1 in floating point."""
        (got,) = assign_advantages(
            [noted(group([reward] * samples), [TokenAnnotations()] * samples)], GAE(1.0, 1.0), "0/1"
        )
        assert advantages([got])[0] == [(0.0,)] * samples
        assert got.advantages == (0.0,) * samples
        assert not any(map(got.has_advantage, range(samples)))

    def test_nothing_survives(self):
        (got,) = assign_advantages(
            [noted(group([None, None]), [TokenAnnotations()] * 2)], GAE(), "0/1"
        )
        assert got.advantages == (0.0, 0.0)
        assert assign_advantages([], GAE(), "0/1") == []


def test_errors_and_rejected_samples_have_no_advantages():
    """Nor those of an earlier reading, when they were still kept."""
    before = TokenAnnotations(values=(0.5,), token_advantages=(3.0,), returns=(2.0,))
    sampled = noted(group([1.0, None, 0.0]), [before] * 3, [True, True, False])
    (got,) = assign_advantages([sampled], GAE(1.0, 1.0, "none"), "0/1")
    assert advantages([got])[0] == [(0.5,), (), ()]
    assert [s.returns for s in got.annotations] == [(1.0,), (), ()]
    assert got.advantages == (0.5, 0.0, 0.0)
    assert [got.has_advantage(i) for i in range(3)] == [True, False, False]


class TestLoss:
    def test_policy(self):
        """Ratios .5, 1.1, 1.5 and .5, .9, 1.5 with A = 2, 2, 2 and -1, -1, -1, clip .2:

        A > 0: -min(s A, clip(s) A) = -1, -2.2, -2.4 (clipped); slopes -s A = -1, -2.2, 0.
        A < 0: +.8 (clipped), +.9, +1.5; slopes 0, .9, 1.5.
        """
        ratios = torch.tensor([0.5, 1.1, 1.5, 0.5, 0.9, 1.5], dtype=torch.float64)
        weight = torch.tensor([2.0, 2, 2, -1, -1, -1], dtype=torch.float64)
        logp = ratios.log().requires_grad_()
        losses = Clipped(0.2, 0.2)(logp, torch.zeros_like(logp), weight)
        expected = torch.tensor([-1.0, -2.2, -2.4, 0.8, 0.9, 1.5], dtype=torch.float64)
        torch.testing.assert_close(losses, expected, rtol=1e-14, atol=0)
        losses.sum().backward()
        slopes = torch.tensor([-1.0, -2.2, 0, 0, 0.9, 1.5], dtype=torch.float64)
        torch.testing.assert_close(logp.grad, slopes, rtol=1e-14, atol=0)

    @pytest.mark.parametrize(
        ("value", "old", "returns", "clip", "loss", "slope"),
        [
            # within the clip both sides are the same: 1/2 .3^2
            (1.1, 1.0, 0.8, 0.2, 0.045, 0.3),
            # V = 1.5 clipped to 1.2. R = 0: 1.5 is further off and counts: 1.125
            (1.5, 1.0, 0.0, 0.2, 1.125, 1.5),
            # R = 2: the clipped 1.2 is further off, and has no slope: 1/2 .8^2
            (1.5, 1.0, 2.0, 0.2, 0.32, 0.0),
            # below: V = .5 clipped to .8. R = 0: .8 is further off; R = 1: .5 is
            (0.5, 1.0, 0.0, 0.2, 0.32, 0.0),
            (0.5, 1.0, 1.0, 0.2, 0.125, -0.5),
            # no clip
            (1.5, 1.0, 2.0, math.inf, 0.125, -0.5),
            (-40.0, 1.0, 2.0, math.inf, 882.0, -42.0),
        ],
    )
    def test_value(self, value, old, returns, clip, loss, slope):
        now = torch.tensor([value], dtype=torch.float64, requires_grad=True)
        args = now, *(torch.tensor([x], dtype=torch.float64) for x in (old, returns))
        out = Value(clip)(*args)
        out.sum().backward()
        assert (out.item(), now.grad.item()) == pytest.approx((loss, slope), rel=1e-13)
        error = Value(clip).measure(*args)["value_error"]
        assert error.item() == pytest.approx((value - returns) ** 2, rel=1e-13)

    @given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 9))
    def test_a_clip_never_lowers_the_error(self, value, old, returns, clip):
        args = [torch.tensor([x], dtype=torch.float64) for x in (value, old, returns)]
        assert Value(clip)(*args) >= Value(math.inf)(*args)

    def test_the_row(self):
        policy, critic = ALGORITHMS["ppo"].objective
        assert policy == Term(Clipped(0.2, 0.2), Tokens())
        assert critic == Term(Value(0.2, 0.5), Tokens(), 0.5)
        assert ALGORITHMS["ppo"].needs == {"old", "ref", "values"}


PROMPTS = [[5, 9, 2, 7, 11], [8], [13, 2, 2, 40]]
ANSWERS = [[[3, 4, 8], [1], [60, 2, 2, 9, 0, 5]], [[4, 4]], [[7], [7, 7], [9, 1, 30]]]
SURVIVED = [[True, True, False], [True], [True, True, True]]
"""The third sample is rejected; the last one has no score at all."""


def noise(seed: int, length: int) -> tuple[float, ...]:
    return tuple(np.random.default_rng(seed).normal(size=length).tolist())


def groups_with_values() -> list[Group]:
    groups = []
    for place, (prompt, answers) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        kept = [k and (place, i) != (2, 2) for i, k in enumerate(SURVIVED[place])]
        annotations = []
        for number, answer in enumerate(answers):
            seed = 10 * place + number
            n = len(answer) if kept[number] else 0
            annotations.append(
                TokenAnnotations(
                    values=noise(seed, n), returns=noise(100 + seed, n),
                    token_advantages=noise(200 + seed, n),
                )
            )  # fmt: skip
        groups.append(
            Group(
                prompt=Prompt(str(place), "x"),
                prompt_ids=tuple(prompt),
                samples=tuple(Sample(tuple(a), (-2.0,) * len(a), "", "eos") for a in answers),
                scores=tuple(
                    Score.failed("x") if (place, i) == (2, 2) else Score(1.0)
                    for i in range(len(answers))
                ),
                outcomes=tuple(Outcome(k, "") for k in kept),
                advantages=tuple(
                    float(np.mean(s.token_advantages)) if s.token_advantages else 0
                    for s in annotations
                ),
                annotations=tuple(annotations),
            )
        )
    return groups


TERMS = (
    Term(Clipped(0.2, 0.2), Tokens()),
    Term(Value(0.3, 0.5), Tokens(), 0.5),
    Term(Value(math.inf), Tokens(), 0.1),
)


def policy_and_critic(*, own_trunk: bool, share: bool = True, dtype: torch.dtype = torch.float64):
    model = build("llama", dtype)
    forward = PolicyForward(model, share_prefix=share)
    trunk = "own" if own_trunk else "shared"
    critic = LocalCritic(forward, CriticConfig(trunk=trunk)).to(dtype)
    torch.manual_seed(3)
    torch.nn.init.normal_(critic.head.weight, std=0.5)
    torch.nn.init.normal_(critic.head.bias)
    if critic.trunk is not None:  # another model than the policy by now
        for parameter in critic.trunk.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model, forward, critic


def plain_values(model, critic, prompt, answer) -> torch.Tensor:
    """The head on the features before each answer token, the answer alone behind its prompt."""
    trunk = critic.trunk if critic.trunk is not None else model
    hidden = trunk.base_model(input_ids=torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
    rows = hidden[len(prompt) - 1 : -1]
    return (rows * critic.head.weight).sum(-1) + critic.head.bias


def collected(model, critic) -> dict[str, torch.Tensor]:
    both = [("policy", model), ("critic", critic)]
    return {
        f"{name}.{n}": p.grad.clone()
        for name, module in both
        for n, p in module.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("own_trunk", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_are_those_of_the_plain_computation(own_trunk, temperature):
    """PPO's whole objective, one sequence at a time, every term written out. 15 tokens of valid
    samples: 3 + 1 + 6 + 2 + 1 + 2."""
    model, forward, critic = policy_and_critic(own_trunk=own_trunk)
    groups = groups_with_values()
    done = accumulate(Models(forward, critic), groups, TERMS, totals(groups), temperature, 1000)
    got = collected(model, critic)
    assert (done.samples, done.tokens) == (5, 9)

    model.zero_grad()
    critic.zero_grad()
    loss, errors = 0.0, []
    for g in groups:
        for answer, outcome, s in zip(g.samples, g.outcomes, g.annotations, strict=True):
            if not outcome.survived:
                continue
            piece = Piece(g.prompt_ids, [answer.token_ids])
            ratio = (one_by_one(model, piece, temperature) + 2.0).exp()
            a, r, before = (
                torch.tensor(x, dtype=torch.float64)
                for x in (s.token_advantages, s.returns, s.values)
            )
            surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
            value = plain_values(model, critic, g.prompt_ids, answer.token_ids)
            near = before + (value - before).clamp(-0.3, 0.3)
            far = torch.maximum((value - r) ** 2, (near - r) ** 2)
            errors += ((value - r) ** 2).tolist()
            each = -surrogate + 0.5 * 0.5 * far + 0.1 * 0.5 * (value - r) ** 2
            loss = loss + each.sum() / 15
    loss.backward()
    assert largest_difference(got, collected(model, critic)) < 1e-10
    assert done.loss == pytest.approx(loss.item(), rel=1e-12)
    total, count = done.measures["value_error"]
    assert total / count == pytest.approx(np.mean(errors), rel=1e-12)


@pytest.mark.parametrize("own_trunk", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("share", [True, False], ids=["tree", "rows"])
@pytest.mark.parametrize("limit", [1, 9, 15])
def test_micro_batches_do_not_change_the_gradient(own_trunk, share, limit):
    found = []
    for tokens in (1000, limit):
        model, forward, critic = policy_and_critic(own_trunk=own_trunk, share=share)
        done = accumulate(
            Models(forward, critic),
            groups_with_values(),
            TERMS,
            totals(groups_with_values()),
            0.7,
            tokens,
        )
        found.append((done, collected(model, critic)))
    (whole, expected), (cut, got) = found
    assert largest_difference(expected, got) < 1e-10
    assert cut.loss == pytest.approx(whole.loss, rel=1e-12)
    assert cut.measures["value_error"] == pytest.approx(whole.measures["value_error"], rel=1e-12)


@pytest.mark.parametrize("own_trunk", [False, True], ids=["shared", "own"])
def test_values_are_told_before_each_token(own_trunk):
    """As annotations of the samples that were asked for, and of no others."""
    model, forward, critic = policy_and_critic(own_trunk=own_trunk)
    learner = learner_of(forward, critic)
    groups = [g.with_(annotations=()) for g in groups_with_values()]
    got = learner.values(groups, [(0, 2), (), (1,)])
    for place, (prompt, answers) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        for number, answer in enumerate(answers):
            own = got[place][number]
            if (place, number) in ((0, 0), (0, 2), (2, 1)):
                expected = plain_values(model, critic, prompt, answer).tolist()
                assert own == pytest.approx(expected, rel=1e-11)
            else:
                assert own == ()


def learner_of(forward, critic, **config) -> LocalLearner:
    critic.config = critic.config.model_copy(update={"lr": 0.1, **config})
    return local.learner(forward, critic, lr=0.01)


def state(module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def moved(module, before) -> set[str]:
    return {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("own_trunk", [False, True], ids=["shared", "own"])
def test_during_the_warm_up_only_the_critic_moves(own_trunk):
    """With a shared trunk that is its head; a trunk of its own moves with it."""
    model, forward, critic = policy_and_critic(own_trunk=own_trunk, dtype=torch.float32)
    learner = learner_of(forward, critic, warmup=2)
    terms = (*TERMS, Term(Entropy(), Tokens(), 0.01))
    for update in range(4):
        policy, own = state(model), state(critic)
        stats = local.step(learner, groups_with_values(), terms, 0.7)
        assert stats.applied
        head = {"head.weight", "head.bias"}
        assert head <= moved(critic, own)
        trunk = moved(critic, own) - head
        assert any(name.startswith("trunk.model.layers") for name in trunk) == own_trunk
        warming = update < 2
        assert bool(moved(model, policy)) is not warming
        assert stats.lr == (0.0 if warming else 0.01)
        assert (stats.grad_norm > 0) is not warming
        assert stats.measures["critic_grad_norm"][0] > 0
        assert ("entropy_term" in stats.measures) is not warming
        assert stats.ratio_tokens == (0 if warming else 9)


def test_a_warm_up_may_meet_a_mini_batch_without_survivors():
    """Where an entropy bonus runs over the rejected samples too, such a mini-batch is not empty."""
    model, forward, critic = policy_and_critic(own_trunk=False, dtype=torch.float32)
    learner = learner_of(forward, critic, warmup=1)
    row = Algorithm("x", advantage=GAE(), terms=TERMS[:1], critic=Value(), entropy=0.01)
    sampled = group([0.0, 0.0])
    rejected = assign_advantages(
        [noted(sampled, [TokenAnnotations()] * 2, [False, False])], row.advantage, "0/1"
    )
    assert row.objective[1].covers(rejected[0]) == (0, 1)
    policy, own = state(model), state(critic)
    stats = local.step(learner, rejected, row.objective, 1.0)
    assert (stats.applied, stats.samples, stats.loss) == (True, 0, 0.0)
    assert not moved(model, policy)
    assert not moved(critic, own)


def test_a_critic_that_has_learned_nothing_expects_nothing():
    forward = PolicyForward(build("llama"))
    critic = LocalCritic(forward, CriticConfig()).double()
    pieces = [Piece([5, 9], [[3, 4], [1]])]
    assert critic.values(lambda: forward.contexts(pieces), pieces).tolist() == [0.0] * 3


def test_a_critic_learns_what_it_is_shown():
    """Returns that differ by prompt alone: after some updates it tells the prompts apart."""
    _, forward, critic = policy_and_critic(own_trunk=True, dtype=torch.float32)
    learner = learner_of(forward, critic, warmup=60)
    groups = [
        g.with_(
            annotations=tuple(
                replace(s, returns=(float(place),) * len(s.values)) for s in g.annotations
            )
        )
        for place, g in enumerate(groups_with_values())
    ]
    terms = (Term(Value(math.inf), Tokens()),)
    errors = [local.step(learner, groups, terms, 1.0).measures["value_error"] for _ in range(60)]
    first, last = (total / count for total, count in (errors[0], errors[-1]))
    assert last < 0.05 * first
    kept = [tuple(i for i, v in enumerate(g.outcomes) if v.survived) for g in groups]
    told = [
        g.with_(
            annotations=tuple(
                replace(own, values=values)
                for own, values in zip(g.annotations, found, strict=True)
            )
        )
        for g, found in zip(groups, learner.values(groups, kept), strict=True)
    ]
    assert explained_variance(told) > 0.9


class TestExplainedVariance:
    def told(self, values, returns) -> Group:
        own = TokenAnnotations(values=tuple(values), returns=tuple(returns))
        return noted(group([1.0], lengths=[len(values)]), [own])

    def test_by_hand(self):
        """R = 0, 1, 2, 5: mean 2, variance (4 + 1 + 0 + 9)/4 = 3.5. R - V = 0, 1, 1, 2: mean 1,
        variance 2/4. 1 - .5/3.5 = 6/7."""
        groups = [self.told([0.0, 0.0], [0.0, 1.0]), self.told([1.0, 3.0], [2.0, 5.0])]
        assert explained_variance(groups) == pytest.approx(6 / 7, rel=1e-14)

    def test_bounds(self):
        assert explained_variance([self.told([1.0, 4.0], [1.0, 4.0])]) == 1.0
        assert explained_variance([self.told([7.0, 7.0], [1.0, 4.0])]) == 0.0  # a constant
        # the wrong way round: R - V = -3, 3
        assert explained_variance([self.told([4.0, 1.0], [1.0, 4.0])]) == pytest.approx(-3.0)

    def test_where_there_is_none(self):
        assert explained_variance([group([1.0])]) is None  # no critic
        assert explained_variance([self.told([1.0, 2.0], [3.0, 3.0])]) is None
        assert explained_variance([]) is None

    def test_rounding_is_nothing_to_explain(self):
        """R = .3 and .1 + .2, variance 8e-34; R - V = .2 and .1, variance .0025: -3e30 else."""
        assert explained_variance([self.told([0.1, 0.2], [0.3, 0.1 + 0.2])]) is None
