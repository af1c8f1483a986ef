import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from scipy.stats import binom

from tests.build import group, with_advantages
from winnow.algorithms.advantages import (
    GAE,
    Centred,
    Extremes,
    LeaveOneOut,
    One,
    Reward,
    Softmax,
    Standardised,
)
from winnow.algorithms.assignment import assign_advantages, remark, rescale
from winnow.algorithms.kl import InReward
from winnow.algorithms.registry import ADVANTAGES
from winnow.algorithms.table import ALGORITHMS
from winnow.errors import UserError
from winnow.theory.ties import all_equal
from winnow.types import Outcome, TokenAnnotations

BASELINED = [Centred(), Standardised("sample"), Standardised("population"), LeaveOneOut()]
finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
several = st.integers(2, 9).flatmap(lambda n: arrays(np.float64, n, elements=finite))


def test_by_hand():
    """Rewards 1 0 0 0: mean 1/4, sum of squares 3/4; sample sigma 1/2, population sqrt(3)/4."""
    r = np.array([1.0, 0, 0, 0])
    assert One()(r).tolist() == [1, 1, 1, 1]
    assert Reward()(r).tolist() == [1, 0, 0, 0]
    assert Centred()(r).tolist() == [0.75, -0.25, -0.25, -0.25]
    np.testing.assert_allclose(Standardised("sample")(r), [1.5, -0.5, -0.5, -0.5], rtol=1e-14)
    root = 3**0.5
    np.testing.assert_allclose(
        Standardised("population")(r), [root, -1 / root, -1 / root, -1 / root], rtol=1e-14
    )
    np.testing.assert_allclose(LeaveOneOut()(r), [1, -1 / 3, -1 / 3, -1 / 3], rtol=1e-14)


@pytest.mark.parametrize("advantage", BASELINED, ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1e-300, 1e300])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_equal_rewards_have_no_advantage(advantage, value, n):
    """Seven times 0.1 has a mean that is not 0.1 in floating point: sigma must not decide this."""
    assert advantage(np.full(n, value)).tolist() == [0.0] * n


@pytest.mark.parametrize("advantage", BASELINED, ids=str)
@given(several)
def test_a_baseline_takes_the_mean_away(advantage, rewards):
    out = advantage(rewards)
    assert abs(out.sum()) <= 1e-9 * max(1.0, np.abs(out).sum())


NEAR = {
    "float64": [0.3, 0.1 + 0.2, 0.3, 0.3],  # 1 unit in the last place: without care -.5, 1.5, ...
    "float64, above": [0.1 + 0.2, 0.3, 0.1 + 0.2, 0.1 + 0.2],  # their mean is that of no three
    "float32": [float(np.float32(1.1)), float(np.nextafter(np.float32(1.1), np.float32(2)))] * 2,
    "bfloat16": [1.1015625, 1.09375, 1.1015625, 1.09375],  # 141/128 and 140/128: neighbours
}
"""Rewards that would be equal but for rounding, by the format that rounded them."""


@pytest.mark.parametrize("advantage", [*BASELINED, Extremes()], ids=str)
@pytest.mark.parametrize("rewards", NEAR.values(), ids=NEAR)
def test_rounding_is_no_advantage(advantage, rewards):
    assert advantage(np.array(rewards)).tolist() == [0.0] * 4
    row = ALGORITHMS["grpo"].with_cells({"advantage": str(advantage)})
    (out,) = with_advantages([group(rewards)], row)
    assert out.advantages == (0.0,) * 4


def test_rounding_is_told_before_rewards_are_rescaled():
    """2 r - 1 of r = 1/2 and its neighbour is 0 and -1e-16: nothing says that they were equal."""
    row = ALGORITHMS["grpo"].with_cells({"reward_scale": "-1/+1"})
    (out,) = with_advantages([group([0.5, 0.5, np.nextafter(0.5, 0)])], row)
    assert out.advantages == (0.0,) * 3


def test_what_cancels_is_no_advantage():
    """.1 + .2 - .3 is 6e-17 beside a 0: a rounding, where 1 is right."""
    (out,) = with_advantages([group([0.0, 0.0, 0.1 + 0.2 - 0.3])], ALGORITHMS["grpo"])
    assert out.advantages == (0.0,) * 3


def test_extremes_of_survivors_that_differ_by_what_cancels_in_the_verifier():
    """.1 + .2 - .3 is 6e-17 beside a 0; the right one is too long. A .1 is no rounding."""
    row = ALGORITHMS["raft"].with_cells({"select": ["length(high=3)"], "advantage": "extremes"})
    scored = group([1.0, 0.1 + 0.2 - 0.3, 0.0], lengths=[9, 1, 1])
    (out,) = with_advantages([scored], row)
    assert out.advantages == (0.0,) * 3
    said = ["too long", "all rewards equal", "all rewards equal"]
    assert [outcome.reason for outcome in out.outcomes] == said
    (out,) = with_advantages([group([1.0, 0.1, 0.0], lengths=[9, 1, 1])], row)
    assert out.advantages == (0.0, 1.0, -1.0)


def test_extremes_of_more_than_two_ties_by_rounding():
    """The best two are equal, and so are the worst two."""
    rewards = np.array([0.3, 0.1 + 0.2, 0.2, 0.1, 0.1 + 1e-17 + 2e-17])
    assert Extremes()(rewards).tolist() == [1, 1, 0, -1, -1]


@given(st.floats(0.01, 100), st.integers(1, 9), st.integers(0, 2**32))
def test_groups_equal_but_for_the_order_of_sums_are_0(part, n, seed):
    """The same seven parts of a reward, added up in another order for each sample."""
    rng = np.random.default_rng(seed)
    parts = part / np.arange(1, 8)
    rewards = np.array([sum(rng.permutation(parts).tolist()) for _ in range(n)])
    for advantage in (*BASELINED, Extremes()):
        assert advantage(rewards).tolist() == [0.0] * n


@given(several)
def test_ties_are_alike(rewards):
    """Exactly equal rewards have exactly equal advantages."""
    for advantage in (*BASELINED, Extremes()):
        out = advantage(rewards)
        for value in set(rewards.tolist()):
            assert len(set(out[rewards == value].tolist())) == 1


def test_a_small_spread_of_large_rewards_has_mean_0_and_deviation_1():
    """4e-9 at 1e3 is above rounding (2.3e-10); the mean's is up to 6e-14, 1e-5 of the spread."""
    rewards = 1e3 + 4e-9 * np.array([0.1, 0.6, 0.3, 1.0, 0.2])
    for sigma, ddof in (("sample", 1), ("population", 0)):
        out = Standardised(sigma)(rewards)
        assert abs(out.mean()) < 1e-15
        assert out.std(ddof=ddof) == pytest.approx(1, rel=1e-14)
    assert abs(Centred()(rewards).mean()) < 1e-23


@given(st.lists(st.integers(0, 4), min_size=2, max_size=9), st.sampled_from([1, 4, 10, 100]))
def test_clear_differences_are_as_ever(levels, parts):
    """Bit for bit what the plain formulas give."""
    rewards = np.array(levels) / parts
    if rewards.max() == rewards.min():
        return
    apart, n = rewards - rewards.mean(), len(rewards)
    unit = apart / np.abs(apart).max()
    assert Centred()(rewards).tolist() == apart.tolist()
    assert Standardised("sample")(rewards).tolist() == (unit / unit.std(ddof=1)).tolist()
    assert LeaveOneOut()(rewards).tolist() == (apart * (n / (n - 1))).tolist()
    sign = 1.0 * (rewards == rewards.max()) - (rewards == rewards.min())
    assert Extremes()(rewards).tolist() == sign.tolist()


@given(several, st.floats(0.01, 100), st.floats(-100, 100))
def test_standardised_is_invariant_to_scale_and_shift(rewards, scale, shift):
    spread = rewards.max() - rewards.min()
    if spread == 0 or spread < 1e-6 * np.abs(rewards).max():
        return
    for sigma in ("sample", "population"):
        np.testing.assert_allclose(
            Standardised(sigma)(scale * rewards + shift), Standardised(sigma)(rewards), atol=1e-5
        )


@given(several)
def test_standardised_has_unit_sigma(rewards):
    if all_equal(rewards):
        return
    np.testing.assert_allclose(Standardised("sample")(rewards).std(ddof=1), 1, rtol=1e-9)
    np.testing.assert_allclose(Standardised("population")(rewards).std(ddof=0), 1, rtol=1e-9)


@given(several)
def test_leave_one_out_is_the_mean_of_the_others(rewards):
    n = len(rewards)
    if all_equal(rewards):
        return
    others = (rewards.sum() - rewards) / (n - 1)
    np.testing.assert_allclose(LeaveOneOut()(rewards), rewards - others, rtol=1e-9, atol=1e-6)


def test_tiny_and_huge_rewards_stay_finite():
    for scale in (1e-200, 1e200):
        out = Standardised()(np.array([1.0, 2.0, 4.0]) * scale)
        np.testing.assert_allclose(out, Standardised()(np.array([1.0, 2.0, 4.0])), rtol=1e-12)


def test_scale():
    assert rescale(np.array([0.0, 0.25, 1.0]), "-1/+1").tolist() == [-1.0, -0.5, 1.0]
    assert rescale(np.array([-3.0, 7.0]), "0/1").tolist() == [-3.0, 7.0]
    with pytest.raises(UserError, match=r"algorithm\.reward_scale.*-1"):
        rescale(np.array([-1.0, 1.0]), "-1/+1")


def test_weights_follow_selection_and_skip_errors():
    """Statistics run over valid samples, the rejected included; an error is in none of them."""
    (out,) = with_advantages([group([1, 0, None, 0])], ALGORITHMS["grpo"])
    expected = Standardised("sample")(np.array([1.0, 0, 0]))
    assert out.advantages == (expected[0], expected[1], 0.0, expected[2])
    (out,) = with_advantages([group([1, 0, None])], ALGORITHMS["raft++"])
    assert out.advantages == (1.0, 0.0, 0.0)
    (out,) = with_advantages([group([1, 0, None])], ALGORITHMS["reinforce"])
    assert out.advantages == (1.0, -1.0, 0.0)
    (out,) = with_advantages([group([1, 1, None])], ALGORITHMS["reinforce-rej"])
    assert out.advantages == (0.0, 0.0, 0.0)
    (out,) = with_advantages([group([None, None])], ALGORITHMS["grpo"])
    assert out.advantages == (0.0, 0.0)


def test_every_advantage_is_in_the_vocabulary():
    mine = (One, Reward, Centred, Standardised, LeaveOneOut, Softmax, Extremes, GAE)
    assert {cls.cell for cls in mine} == set(ADVANTAGES)


class TestSoftmax:
    def test_by_hand(self):
        """Rewards 0 and beta log 3: the weights are 1 : 3, their mean is 1."""
        weights = Softmax(0.5)(np.array([0.0, 0.5 * np.log(3)]))
        np.testing.assert_allclose(weights, [0.5, 1.5], rtol=1e-14)

    @given(several, st.floats(0.001, 1e6))
    def test_it_is_the_softmax(self, rewards, beta):
        """By scipy's, rewards a thousand million times beta among them; mean weight 1."""
        weights = Softmax(beta)(rewards)
        direct = len(rewards) * softmax((rewards - rewards.max()) / beta)
        np.testing.assert_allclose(weights, direct, rtol=1e-9, atol=1e-300)
        assert weights.mean() == pytest.approx(1, rel=1e-12)
        assert (weights >= 0).all()

    @pytest.mark.parametrize("offset", [0, 700, -700, 1e6])
    def test_rewards_of_hundreds_of_betas(self, offset):
        """exp(700) is the end of float64; only differences count."""
        weights = Softmax(1.0)(np.array([0.0, 1.0, -800.0]) + offset)
        total = 1 + np.e
        np.testing.assert_allclose(weights, [3 / total, 3 * np.e / total, 0], rtol=1e-9)

    def test_rewards_beyond_all_bounds(self):
        assert Softmax(1e-300)(np.array([1e300, 1e300, -1e300])).tolist() == [1.5, 1.5, 0.0]
        assert Softmax(1e-300)(np.array([-1e300, 0.0])).tolist() == [0.0, 2.0]

    def test_each_prompt_by_itself_or_all_together(self):
        """With e = exp(1 / beta): a prompt's weights sum to its samples, or to its share of Z.

        Rewards 1 0 and 0 0, an error among the second: by itself 2e/(e+1), 2/(e+1) and 1, 1;
        together 4e/(e+3), 4/(e+3) and twice the latter.
        """
        e = np.exp(1 / 0.5)
        groups = [group([1, 0]), group([0, None, 0])]
        row = ALGORITHMS["snis"]
        first, second = with_advantages(
            groups, row.with_cells({"advantage": "softmax(0.5, group)"})
        )
        np.testing.assert_allclose(first.advantages, [2 * e / (e + 1), 2 / (e + 1)], rtol=1e-14)
        np.testing.assert_allclose(second.advantages, [1, 0, 1], rtol=1e-14)
        first, second = with_advantages(groups, row)
        one = 4 / (e + 3)
        np.testing.assert_allclose(first.advantages, [e * one, one], rtol=1e-14)
        np.testing.assert_allclose(second.advantages, [one, 0, one], rtol=1e-14)

    @pytest.mark.parametrize("over", ["group", "set"])
    def test_groups_without_a_score_and_rejected_samples(self, over):
        """Rejected samples are in the sum, and weigh nothing; a group of errors changes nothing."""
        row = ALGORITHMS["snis"].with_cells(
            {"advantage": f"softmax(1, {over})", "select": ["correct"]}
        )
        broken, mixed = with_advantages([group([None, None]), group([1, 0])], row)
        assert broken.advantages == (0.0, 0.0)
        np.testing.assert_allclose(mixed.advantages, [2 * np.e / (np.e + 1), 0], rtol=1e-14)
        (alone,) = with_advantages([group([None])], row)
        assert alone.advantages == (0.0,)

    @pytest.mark.parametrize(
        ("beta", "by_group", "pi_star"), [(0.5, 0.185, 0.280), (0.05, 0.337, 1.0)]
    )
    def test_the_share_right_that_it_fits_by_prompt_and_over_the_set(self, beta, by_group, pi_star):
        """Exactly, at p = .05, n = 8: of a prompt by itself with k right the share is
        k e / (k e + n - k), e = exp(1 / beta); of a set the same with k and n of all prompts."""
        p, n, prompts = 0.05, 8, 500
        e = np.exp(1 / beta)
        assert p * e / (p * e + 1 - p) == pytest.approx(pi_star, abs=5e-4)

        def expected(cell, n):
            advantage = ALGORITHMS["snis"].with_cells({"advantage": cell}).advantage

            def share(k):
                return advantage(np.repeat([1.0, 0.0], [k, n - k]))[:k].sum() / n

            likely = np.flatnonzero(binom.pmf(np.arange(n + 1), n, p) > 1e-9)
            return sum(binom.pmf(k, n, p) * share(k) for k in likely)

        assert expected(f"softmax({beta}, group)", n) == pytest.approx(by_group, abs=5e-4)
        assert expected(f"softmax({beta})", n * prompts) == pytest.approx(pi_star, abs=1e-3)

    def test_what_it_says_of_a_set(self):
        """Weights e, 1, 1, 1 with e = exp(1 / beta) = 3: a share of 3/6, 36/12 equal ones."""
        groups = [group([1, 0]), group([0, None, 0]), group([None])]
        beta = 1 / np.log(3)
        said = remark(groups, Softmax(beta), "0/1")
        assert said.startswith(f"{Softmax(beta)}: 4 weights worth 3 equal ones; share right under")
        # strata: covariance of (3, 1) with (3 (1/2), -1/2) is 2 and of (1, 1) with itself 0;
        # -(2 x 2) / 6^2
        assert "share right under them 0.5000, its bias to that of pi* about -0.1;" in said
        assert said.endswith("1 of 2 prompts have no right sample")
        said = remark(groups, Softmax(beta, "group"), "0/1")
        assert "2 samples lead to pi* with a bias of O(1/2), however many prompts" in said
        assert said.endswith(
            "1 of 2 prompts have no right sample, and every wrong one there counts 1"
        )
        assert remark(groups, Standardised(), "0/1") is None
        assert remark([group([None])], Softmax(1.0), "0/1") is None


OWN_GROUP = ("grpo", "dr-grpo", "gspo", "dapo", "rloo", "iterative-dpo", "dpo")
"""Rows whose baseline is the group, as their papers have it."""


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_survivors_of_equal_rewards_say_so_where_they_count_nothing(name, value):
    """They still survive, so that denominators and refills count them as before."""
    row = ALGORITHMS[name]
    if row.advantage.over == "token":
        return
    equal = group([value, None, value, value])
    survived = (True, False, True, True)
    equal = equal.with_(outcomes=tuple(Outcome(kept, str(kept)) for kept in survived))
    mixed = group([1.0, 0.0]).with_(outcomes=(Outcome(True, "a"), Outcome(True, "b")))
    found, other = assign_advantages([equal, mixed], row.advantage, row.reward_scale)
    own = name in OWN_GROUP
    assert [o.survived for o in found.outcomes] == list(survived)
    said = "all rewards equal" if own else "True"
    assert [o.reason for o in found.outcomes] == [said, "False", said, said]
    assert (found.advantages == (0, 0, 0, 0)) is own or value == 0.0
    assert other.outcomes == mixed.outcomes


def test_equal_rewards_less_unequal_kls_are_not_equal():
    """The advantage is that of the KL, so nothing says that there is none."""
    pair = group([1.0, 1.0])
    annotations = (TokenAnnotations((-3.0,) * pair.samples[0].length), TokenAnnotations())
    pair = pair.with_(outcomes=(Outcome(True, "a"), Outcome(True, "b")), annotations=annotations)
    (found,) = assign_advantages([pair], Centred(), "0/1", InReward(0.5))
    assert any(found.advantages)
    assert [outcome.reason for outcome in found.outcomes] == ["a", "b"]
