"""Pairs: which samples make one, and DPO's loss on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.build import group, with_advantages
from tests.engines.models.test_forward import build, largest_difference, one_by_one
from winnow.algorithms.advantages import Extremes
from winnow.algorithms.denominators import GroupMeans
from winnow.algorithms.losses import DPO
from winnow.algorithms.objective import Term, learned_from, totals
from winnow.algorithms.selection import BestWorst, Length, select
from winnow.algorithms.table import ALGORITHMS
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.learning.microbatches import cut
from winnow.engines.models.forward import Piece, PolicyForward
from winnow.types import Group, Outcome, Prompt, Sample, Score, TokenAnnotations


def kept(rewards, alive=None, seed=0) -> list[int]:
    sampled = group(rewards)
    alive = [r is not None for r in rewards] if alive is None else alive
    said = BestWorst()(sampled, alive, np.random.default_rng(seed))
    return [i for i, reason in enumerate(said) if reason is None]


class TestBestWorst:
    def test_the_best_and_the_worst(self):
        assert kept([0.3, 0.9, 0.1, 0.5]) == [1, 2]
        assert kept([0.0, 1.0]) == [0, 1]

    def test_reasons(self):
        (out,) = with_advantages([group([0.3, 0.9, None, 0.1])], ALGORITHMS["dpo"])
        reasons = [outcome.reason for outcome in out.outcomes]
        assert reasons == [
            "neither best nor worst",
            "survived",
            "verifier error: broken",
            "survived",
        ]
        assert out.advantages == (0.0, 1.0, 0.0, -1.0)

    @pytest.mark.parametrize(
        "rewards", [[1.0, 1.0, 1.0], [0.1] * 7, [0.5], [0.5, None], [None, None], [0.0, 0.0, None]]
    )
    def test_all_equal_is_no_pair(self, rewards):
        assert kept(rewards) == []
        (out,) = with_advantages([group(rewards)], ALGORITHMS["dpo"])
        assert out.advantages == (0.0,) * len(rewards)
        assert learned_from(out, ALGORITHMS["dpo"].objective) == ()

    def test_errors_are_neither(self):
        assert kept([None, 0.4, None, 0.2, 0.3]) == [1, 3]

    def test_only_the_living_count(self):
        assert kept([1.0, 0.5, 0.2, 0.0], alive=[False, True, True, False]) == [1, 2]
        assert kept([1.0, 0.5, 0.5, 0.0], alive=[False, True, True, False]) == []
        assert kept([1.0, 0.0], alive=[False, False]) == []

    def test_ties_are_broken_by_lot(self):
        """Each of the best is as likely, and each of the worst; 3 sigma of 600 samples are 35."""
        rewards = [1.0, 0.0, 1.0, 0.5, 0.0, 1.0]
        found = [tuple(kept(rewards, seed=seed)) for seed in range(600)]
        counts = {i: sum(i in pair for pair in found) for i in range(6)}
        assert counts[3] == 0
        for i in (0, 2, 5):
            assert abs(counts[i] - 200) < 35
        for i in (1, 4):
            assert abs(counts[i] - 300) < 37
        assert kept(rewards, seed=7) == kept(rewards, seed=7)

    @given(
        st.lists(
            st.tuples(st.none() | st.sampled_from([0.0, 0.1, 0.5, 1.0, -3.0]), st.booleans()),
            min_size=1,
            max_size=9,
        ),
        st.integers(0, 10),
    )
    def test_a_pair_or_nothing(self, sampled, seed):
        rewards = [r for r, _ in sampled]
        alive = [a and r is not None for r, a in sampled]
        living = [r for r, a in zip(rewards, alive, strict=True) if a]
        found = kept(rewards, alive, seed)
        if len(set(living)) < 2:
            assert found == []
        else:
            assert len(found) == 2
            assert all(alive[i] for i in found)
            assert {rewards[i] for i in found} == {min(living), max(living)}


class TestExtremes:
    def test_by_hand(self):
        assert Extremes()(np.array([0.3, 0.9, 0.1, 0.9])).tolist() == [0, 1, -1, 1]
        assert Extremes()(np.array([0.1] * 7)).tolist() == [0.0] * 7
        assert Extremes()(np.array([5.0])).tolist() == [0.0]

    @given(st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=1, max_size=8))
    def test_a_pair_has_one_better_and_one_worse(self, rewards):
        (out,) = with_advantages([group(rewards)], ALGORITHMS["dpo"])
        weights = {i: w for i, w in enumerate(out.advantages) if w}
        survivors = [i for i, outcome in enumerate(out.outcomes) if outcome.survived]
        assert sorted(weights) == survivors
        if survivors:
            better, worse = sorted(survivors, key=lambda i: -rewards[i])
            assert (weights[better], weights[worse]) == (1.0, -1.0)

    def test_a_pair_behind_another_rule_has_both_sides(self):
        """The best of all is too long: the pair is of the two others, +1 and -1."""
        row = ALGORITHMS["dpo"].with_cells({"select": ["length(1, 5)", "best-worst"]})
        (out,) = with_advantages([group([1.0, 0.5, 0.0], lengths=[9, 2, 2])], row)
        assert [outcome.survived for outcome in out.outcomes] == [False, True, True]
        assert out.advantages == (0.0, 1.0, -1.0)


def test_rules_before_it_are_seen():
    chosen = select(
        group([1.0, 0.5, 0.0], lengths=[9, 2, 2]),
        (Length(1, 5), BestWorst()),
        np.random.default_rng(0),
    )
    assert [outcome.reason for outcome in chosen.outcomes] == ["too long", "survived", "survived"]


DRAW = torch.tensor([0, 0, 1, 2, 3, 3, 3])
GROUP = torch.tensor([0, 0, 1, 1])
WEIGHT = torch.tensor([1.0, 1, -1, -1, 1, 1, 1], dtype=torch.float64)
"""Two pairs: the first better answer has two tokens, the second worse one has one."""


def by_loss(loss, ratios):
    """Losses of the pairs and slopes in log pi, from log pi/pi_ref of the tokens."""
    ref = torch.linspace(-3, -1, len(ratios), dtype=torch.float64)
    logp = (ref + torch.tensor(ratios, dtype=torch.float64)).requires_grad_()
    given = (logp, ref, WEIGHT, DRAW, GROUP)
    losses = loss(*given)
    losses.sum().backward()
    return losses.tolist(), logp.grad.tolist(), loss.measure(*given)


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


class TestDPO:
    def test_by_hand(self):
        """beta .5. Log-ratios of the answers: 1 + .5 against -1; 2 against .2 + .2 - .4 = 0, of
        which the second is the better. Margins .5 2.5 = 1.25 and .5 (0 - 2) = -1.

        Loss log(1 + e^-m), slope -sigmoid(-m) beta for each token of the better answer, and its
        opposite for each of the worse.
        """
        losses, slopes, measured = by_loss(DPO(0.5), [1.0, 0.5, -1.0, 2.0, 0.2, 0.2, -0.4])
        assert losses == pytest.approx([softplus(-1.25), softplus(1.0)], rel=1e-13)
        one, two = 0.5 / (1 + math.exp(1.25)), 0.5 / (1 + math.exp(-1.0))
        assert slopes == pytest.approx([-one, -one, one, two, -two, -two, -two], rel=1e-13)
        margins = measured["preference_margin"].tolist()
        assert margins == pytest.approx([1.25, -1.0], rel=1e-13)
        assert measured["preference_accuracy"].tolist() == [1.0, 0.0]

    @pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
    def test_at_the_reference(self, beta):
        """Margin 0 exactly, as at the first update: log 2, and half of beta. It prefers neither."""
        losses, slopes, measured = by_loss(DPO(beta), [0.0] * 7)
        assert losses == [math.log(2)] * 2
        half = beta / 2
        assert slopes == [-half, -half, half, half, -half, -half, -half]
        assert measured["preference_accuracy"].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("size", [50.0, 800.0, 1e5, 1e30])
    def test_huge_margins_are_finite(self, size):
        """A margin of +m costs nothing and has no slope; one of -m costs m, with slope beta."""
        losses, slopes, _ = by_loss(DPO(1.0), [size, 0, 0, size, 0, 0, 0])
        assert losses == pytest.approx([0.0, size], abs=1e-20)
        assert slopes == pytest.approx([0, 0, 0, 1, -1, -1, -1], abs=1e-20)

    def test_a_margin_of_40_is_not_lost(self):
        """log(1 + e^-40) = e^-40, which 1 + e^-40 in floating point is not."""
        losses, slopes, _ = by_loss(DPO(1.0), [40.0, 0, 0, 0, 0, 0, 0])
        assert losses[0] == pytest.approx(math.exp(-40), rel=1e-12)
        assert slopes[0] == pytest.approx(-math.exp(-40), rel=1e-9)

    def test_lengths_are_not_averaged(self):
        """Log-likelihoods of whole answers: three tokens of .1 are .3."""
        losses, _, _ = by_loss(DPO(1.0), [0, 0, 0, 0, 0.1, 0.1, 0.1])
        assert losses[1] == pytest.approx(softplus(-0.3), rel=1e-13)

    def test_only_the_sign_of_a_weight_counts(self):
        ref = torch.zeros(2, dtype=torch.float64)
        logp = torch.tensor([0.3, -0.4], dtype=torch.float64)
        pair = torch.tensor([0, 1]), torch.tensor([0, 0])
        weights = [torch.tensor(w, dtype=torch.float64) for w in ([1.0, -1.0], [0.2, -7.0])]
        one, other = (DPO(0.1)(logp, ref, w, *pair) for w in weights)
        assert torch.equal(one, other)

    @given(st.lists(st.floats(-20, 20), min_size=7, max_size=7))
    def test_the_other_way_round_costs_the_margin_more(self, ratios):
        """-log sigmoid(-m) = m - log sigmoid(m)."""
        ref = torch.zeros(7, dtype=torch.float64)
        logp = torch.tensor(ratios, dtype=torch.float64)
        one = DPO(0.3)(logp, ref, WEIGHT, DRAW, GROUP)
        other = DPO(0.3)(logp, ref, -WEIGHT, DRAW, GROUP)
        margin = DPO(0.3).measure(logp, ref, WEIGHT, DRAW, GROUP)["preference_margin"]
        torch.testing.assert_close(other, one + margin, rtol=0, atol=1e-12)


# Through a model.

PAIRS = [
    # (prompt, answers, weights); the third answer of the first was not chosen
    ([5, 9, 2, 7, 11], [[3, 4, 8], [1], [60, 2, 2, 9, 0, 5]], [-1.0, 0.0, 1.0]),
    ([8], [[4, 4], [4, 4, 7, 7]], [1.0, -1.0]),
    ([13, 2, 2, 0, 0, 21, 6, 40], [[7], [7, 9]], [1.0, -1.0]),
    ([13, 2, 2], [[1], [2]], [0.0, 0.0]),  # no pair
]


def pairs(model) -> list[Group]:
    """Groups with reference log-probs that differ from the model's by some noise."""
    rng = np.random.default_rng(4)
    groups = []
    for prompt, answers, weights in PAIRS:
        with torch.no_grad():
            exact = one_by_one(model, Piece(prompt, answers)).split([len(a) for a in answers])
        ref = [tuple((x + torch.tensor(rng.normal(0, 2, len(x)))).tolist()) for x in exact]
        groups.append(
            Group(
                prompt=Prompt(str(prompt), "x"),
                prompt_ids=tuple(prompt),
                samples=tuple(Sample(tuple(a), (-1.0,) * len(a), "", "eos") for a in answers),
                scores=tuple(Score(w) for w in weights),
                outcomes=tuple(Outcome(w != 0, "") for w in weights),
                advantages=tuple(weights),
                annotations=tuple(
                    TokenAnnotations(ref_logprobs=r if w else ())
                    for r, w in zip(ref, weights, strict=True)
                ),
            )
        )
    return groups


TERM = Term(DPO(0.4), GroupMeans())


def gradients(model, groups, limit, share=True, temperature=0.7):
    model.zero_grad()
    forward = PolicyForward(model, share_prefix=share)
    done = accumulate(Models(forward), groups, [TERM], totals(groups), temperature, limit)
    return done, {n: p.grad.clone() for n, p in model.named_parameters()}


def plain_loss(model, groups) -> tuple[torch.Tensor, list[float]]:
    """Mean over the three pairs, one sequence at a time; at temperature 1, whatever sampled."""
    losses, margins = [], []
    for g in groups:
        margin = torch.zeros((), dtype=torch.float64)
        for answer, weight, noted in zip(g.samples, g.advantages, g.annotations, strict=True):
            if weight:
                logp = one_by_one(model, Piece(g.prompt_ids, [answer.token_ids])).sum()
                margin = margin + weight * 0.4 * (logp - sum(noted.ref_logprobs))
        if any(g.advantages):
            losses.append(-torch.nn.functional.logsigmoid(margin))
            margins.append(margin.item())
    assert len(losses) == 3
    return torch.stack(losses).mean(), margins


@pytest.mark.parametrize("share", [True, False], ids=["tree", "rows"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradients_are_those_of_the_plain_computation(name, share):
    model = build(name)
    groups = pairs(model)
    done, got = gradients(model, groups, 1000, share)
    model.zero_grad()
    loss, margins = plain_loss(model, groups)
    loss.backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    assert largest_difference(got, plain) < 1e-10
    assert done.loss == pytest.approx(loss.item(), rel=1e-12)
    assert (done.samples, done.tokens) == (6, 3 + 6 + 2 + 4 + 1 + 2)

    # What is measured, over the pairs alone.
    total, count = done.measures["preference_margin"]
    assert (total, count) == (pytest.approx(sum(margins), rel=1e-11), 3)
    right, count = done.measures["preference_accuracy"]
    assert (right, count) == (sum(m > 0 for m in margins), 3)
    assert 0 < right < 3
    assert done.ratio_tokens == 0  # no ratio to the policy that sampled is taken


@pytest.mark.parametrize("share", [True, False], ids=["tree", "rows"])
@pytest.mark.parametrize("limit", [1, 6, 9, 15, 20, 40])
def test_micro_batches_never_split_a_pair(share, limit):
    """Limits below a single answer, below a pair, below two pairs; nothing changes."""
    model = build("llama")
    groups = pairs(model)
    whole, expected = gradients(model, groups, 10_000, share)
    got, grads = gradients(model, groups, limit, share)
    assert largest_difference(expected, grads) < 1e-10
    assert got.loss == pytest.approx(whole.loss, rel=1e-12)
    assert got.measures == {
        name: (pytest.approx(total, rel=1e-11), count)
        for name, (total, count) in whole.measures.items()
    }

    asked = [learned_from(g, [TERM]) for g in groups]
    assert asked == [(0, 2), (0, 1), (0, 1), ()]
    batches = cut(groups, asked, limit, share=share, whole=True)
    parts = sorted((part.place, part.samples) for batch in batches for part in batch)
    assert parts == [(0, (0, 2)), (1, (0, 1)), (2, (0, 1))]
    if limit == 1:
        assert len(batches) == 3
    longest = max(sum(map(len, part.piece.inputs)) for batch in batches for part in batch)
    for batch in batches:
        rows = [ids for part in batch for ids in part.piece.inputs]
        size = len(rows) * max(map(len, rows)) if not share else 0
        assert len(batch) == 1 or size <= limit
    assert longest > 15  # a limit of 15 was below a pair


def test_totals_count_pairs_as_groups():
    counts = totals(pairs(build("llama")))
    assert (counts.groups, counts.survivors, counts.prompts) == (3, 6, 4)
    assert TERM.factor(5, 2, counts) == pytest.approx(1 / 3)


def test_a_group_without_a_pair_costs_nothing():
    """Not even a pass."""
    model = build("llama")
    done = accumulate(
        Models(PolicyForward(model)), pairs(model)[3:], [TERM], totals(pairs(model)[3:]), 1.0, 100
    )
    assert (done.samples, done.loss, done.measures) == (0, 0.0, {})
