import dataclasses
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.build import group, with_advantages
from winnow.algorithms.table import ALGORITHMS
from winnow.reporting.metrics import concentration, evaluation, step_metrics, success_by_difficulty
from winnow.theory.intervals import wilson
from winnow.types import Batch, Prompt, StepStats

DOCS = Path(__file__).parent.parent.parent / "docs"


def stats(influence, **changes):
    values = {
        "applied": True, "loss": 0.5, "grad_norm": 2.0, "lr": 1e-5, "samples": 3, "tokens": 10,
        "positions": 7, "clipped": 2, "ratio_tokens": 10, "ratio_sum": 11.0, "ratio_max": 0.4,
        "kl_sum": 0.2, "token_ratios": [0.9, 1.0, 1.1], "log_weights": [0.0, 0.0],
        "influence": influence,
    }  # fmt: skip
    return StepStats(**{**values, **changes})


def row(groups, updates, **changes):
    values = {
        "step": 1, "policy_version": 1, "batch": Batch(list(groups), True), "updates": updates,
        "empty_minibatches": 0, "seconds": {"sample": 1.0}, "evaluation": None,
    }  # fmt: skip
    return step_metrics(**{**values, **changes})


def test_effective_survivors():
    groups = [group([1, 1], name="a"), group([1, 0], name="b")]
    equal = [((0, 1), stats([[0.25, 0.25], [0.25, 0.0]]))]
    assert concentration(groups, equal) == pytest.approx((3.0, 2 / 3))
    # (1 + 3)^2 / (1 + 9) = 1.6; the same prompt has three quarters
    assert concentration(groups, [((1, 0), stats([[3.0, 0.0], [1.0, 0.0]]))]) == pytest.approx(
        (1.6, 0.75)
    )
    assert concentration(groups, []) == (None, None)
    # the same sample in two updates is one sample
    assert concentration(groups, equal * 2) == pytest.approx((3.0, 2 / 3))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_effective_survivors_lie_between_one_and_all(values):
    positive = [v for v in values if v > 1e-6]
    got, share = concentration([group([1] * len(values))], [((0,), stats([values]))])
    if positive:
        assert 1 - 1e-9 <= got <= len(values) + 1e-9
        assert share == pytest.approx(1)


def test_a_row_by_hand():
    groups = with_advantages(
        [group([1, 0, None], name="a"), group([0, 0], name="b"), group([1, 1], name="c")],
        ALGORITHMS["raft++"],
    )
    updates = [
        ((0, 1), stats([[0.5, 0, 0], [0, 0]])),
        (
            (2,),
            stats(
                [[0.5, 0.5]],
                loss=1.5,
                grad_norm=4.0,
                clipped=0,
                ratio_max=0.1,
                token_ratios=[2.0],
                log_weights=[math.log(3.0), 0.0],
            ),
        ),
        ((2,), stats([[9.0, 9.0]], applied=False, loss=float("inf"))),
    ]
    out = row(groups, updates)
    assert out["reward_mean"] == out["right_rate"] == 3 / 6
    assert (out["samples"], out["errors"], out["survivors"], out["samples_trained"]) == (7, 1, 3, 3)
    kinds = ("all_wrong", "mixed", "all_right", "no_score")
    assert [out[f"prompts_{kind}"] for kind in kinds] == [1, 1, 1, 0]
    assert (out["updates"], out["updates_skipped"]) == (2, 1)
    assert (out["loss"], out["grad_norm"]) == (1.0, 3.0)
    assert out["clip_fraction"] == 2 / 20
    assert (out["ratio_mean"], out["ratio_max_deviation"]) == (1.1, 0.4)
    assert out["kl_to_sampling_policy"] == pytest.approx(0.02)
    assert out["tokens_trained"] == 20
    # of .9, 1, 1.1, 2: the 1 % quantile lies .03 of the way from the first to the second
    assert out["ratio_quantiles"] == pytest.approx({"1%": 0.903, "50%": 1.05, "99%": 1.973})
    # two equal weights: 1; weights 3 and 1: 16/10 of 2
    assert out["ess"] == pytest.approx((1.0 + 0.8) / 2)
    assert (out["ess_last"], out["ess_samples"], out["weight_mean"]) == pytest.approx((0.8, 2, 2))


def test_samples_of_earlier_rounds_are_in_the_numbers_of_updates_alone():
    """As docs/metrics.md says at `merged`: two groups of this step, one of an earlier round."""
    groups = with_advantages(
        [group([1, 0], name="a"), group([0, 0], name="b"), group([1, 1, 1], name="c")],
        ALGORITHMS["raft++"],
    )
    updates = [((0, 1, 2), stats([[0.5, 0], [0, 0], [0.5] * 3]))]
    out = row(groups, updates, batch=Batch(groups, True, merged=1))
    counts = ("merged", "prompts", "samples", "survivors", "samples_trained", "tokens_sampled")
    assert [out[name] for name in counts] == [1, 2, 4, 1, 1, 4]
    assert out["effective_survivors"] == pytest.approx(4)


def weighed(*log_weights):
    """The metrics of weights, of one update for each list."""
    updates = [((0,), stats([[1.0, 0.0]], log_weights=list(own))) for own in log_weights]
    out = row([group([1, 0])], updates)
    return out["ess"], out["ess_last"], out["ess_samples"], out["weight_mean"]


def test_the_effective_sample_size_alone_does_not_show_a_common_shift():
    shifted = [-5.0] * 8
    assert weighed(shifted) == pytest.approx((1, 1, 8, math.exp(-5)))
    assert weighed([0.0]) == (1, 1, 1, 1)  # one survivor: its number says what that 1 is worth


def test_the_first_update_does_not_hide_the_last():
    """After three updates without a change weights of 1, 1/2 and 1/3: (11/6)^2 of 49/36 x 3."""
    last = [-math.log(k) for k in (1, 2, 3)]
    ess = 121 / 147
    assert weighed([0.0], [0.0], [0.0], last) == pytest.approx(((3 + ess) / 4, ess, 3, 11 / 18))


def test_an_update_without_weights_is_not_the_last():
    assert weighed([0.0, math.log(3)], []) == pytest.approx((0.8, 0.8, 2, 2))
    assert weighed([]) == (None, None, None, None)


def test_a_weight_beyond_floating_point_is_still_a_number():
    """Of a long completion; metrics.jsonl takes no infinity."""
    assert weighed([2000.0, 0.0])[-1] == pytest.approx(np.finfo(np.float64).max)
    assert weighed([-2000.0, -2000.0])[-1] == 0


def test_the_share_of_updates_with_a_gradient_scaled_down():
    groups = [group([1, 0])]
    updates = [((0,), stats([[1.0, 0.0]], grad_clipped=own)) for own in (True, False, True, True)]
    skipped = ((0,), stats([[1.0, 0.0]], applied=False, grad_clipped=True))
    assert row(groups, [*updates, skipped])["grad_clip_fraction"] == 0.75
    assert row(groups, [])["grad_clip_fraction"] is None


def test_a_row_has_the_same_keys_with_and_without_updates():
    assert set(row([group([1, 0])], [])) == set(row([group([1, 0])], [((0,), stats([[1.0, 0]]))]))


def test_what_was_not_applied_has_no_influence():
    groups = with_advantages([group([1, 0])], ALGORITHMS["raft++"])
    out = row(groups, [((0,), stats([[1.0, 0.0]], applied=False))])
    assert out["effective_survivors"] is None


def test_every_metric_is_defined_in_the_docs():
    text = (DOCS / "metrics.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))
    assert set(row([group([1, 0])], [])) <= named
    fields = {field.name for field in dataclasses.fields(evaluation(0, [group([1])], 1.0))}
    assert fields <= named


def test_success_by_difficulty():
    easy, hard = Prompt("a", "a", difficulty="easy"), Prompt("b", "b", difficulty="hard")
    groups = [
        group([1, 1, 0]).with_(prompt=easy),
        group([0, None]).with_(prompt=hard),
        group([1, 1, None]).with_(prompt=easy),
        group([1]),
    ]
    assert success_by_difficulty(groups) == {"easy": 4 / 5, "hard": 0.0}


def test_wilson_interval():
    """Agresti and Coull (1998): x = 0 of 10 gives 0 to .278, 5 of 10 gives .237 to .763."""
    assert wilson(np.zeros(10)) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(np.repeat([0.0, 1.0], 5)) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(np.array([])) == (None, None)


def test_accuracy_is_a_mean_over_prompts():
    groups = [group([1, 1, 1, 0]), group([0, None]), group([None, None])]
    result = evaluation(3, groups, 1.5)
    assert result.accuracy == pytest.approx(0.375)
    assert (result.prompts, result.samples, result.errors) == (3, 8, 3)
    # rates .75 and 0 vary by .28125, more than one 0/1 outcome: two outcomes, as Wilson has it
    z = 1.959963984540054
    half = z / (1 + z**2 / 2) * math.sqrt(0.375 * 0.625 / 2 + z**2 / 16)
    centre = (0.375 + z**2 / 4) / (1 + z**2 / 2)
    assert (result.low, result.high) == pytest.approx((centre - half, centre + half))
    single = evaluation(0, [group([1]), group([0]), group([1])], 1.0)
    assert (single.low, single.high) == pytest.approx(wilson(np.array([1.0, 0.0, 1.0])))
    assert evaluation(0, [group([None])], 1.0).accuracy is None
    alone = evaluation(0, [group([1, 0])], 1.0)
    assert (alone.accuracy, alone.low, alone.high) == (0.5, None, None)


def test_entropy_among_the_right_samples_is_over_their_tokens():
    groups = [group([1, 0, None], name="a"), group([1, 0], name="b"), group([0], name="c")]
    entropies = iter([(1.0,), (9.0, 9.0), (9.0,), (2.0, 6.0), (9.0,), (9.0,)])
    groups = [
        g.with_(
            samples=tuple(
                dataclasses.replace(
                    s, token_ids=(), logprobs=(), length=2, entropies=next(entropies)
                )
                for s in g.samples
            )
        )
        for g in groups
    ]
    assert row(groups, [])["entropy_right"] == 3.0
    assert row([groups[2]], [])["entropy_right"] is None


def test_pass_at_k_is_that_of_every_choice_of_k_samples():
    rewards = [[1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, None, 0, 0, None, 0], [1, 1, 1, 1, 1, 1]]
    rewards += [[None] * 6, [None, None, None, None, None, 1]]
    result = evaluation(0, [group(own) for own in rewards], 1.0)
    assert [(one.k, one.prompts) for one in result.pass_at_k] == [(1, 5), (2, 4), (4, 4), (6, 3)]
    for one in result.pass_at_k:
        expected = []
        for own in rewards:
            valid = [reward for reward in own if reward is not None]
            if len(valid) >= one.k:
                picked = [any(some) for some in itertools.combinations(valid, one.k)]
                expected.append(sum(picked) / len(picked))
        assert one.value == pytest.approx(np.mean(expected))
        assert 0 <= one.low < one.value < one.high <= 1
    first = result.pass_at_k[0]
    assert (first.value, first.low, first.high) == (result.accuracy, result.low, result.high)
    # all samples of a prompt at once are one 0/1 outcome: two of three prompts
    last = result.pass_at_k[-1]
    assert (last.low, last.high) == pytest.approx(wilson(np.array([1.0, 0.0, 1.0])))
    # equal rates of 5/6 vary as little as 4/2 separate outcomes would, 40 of them not 1
    (_, two, _) = evaluation(0, [group([1, 0, 1, 0])] * 40, 1.0).pass_at_k
    z, n = 1.959963984540054, 40 * 42 / (40 / 2 + 2)
    half = z / (1 + z**2 / n) * math.sqrt(5 / 36 / n + z**2 / (4 * n * n))
    assert two.value == pytest.approx(5 / 6)
    assert two.high - two.low == pytest.approx(2 * half)
    assert evaluation(0, [group([1]), group([0])], 1.0).pass_at_k == []
    assert evaluation(0, [group([None, None])], 1.0).pass_at_k == []


@pytest.mark.parametrize("reward", [0, 1])
@pytest.mark.parametrize("samples", [1, 4])
def test_an_interval_of_equal_samples_does_not_close(reward, samples):
    """None of 256 prompts right, or all: Wilson's bound is z^2/(n + z^2), .0148."""
    result = evaluation(0, [group([reward] * samples)] * 256, 1.0)
    other = 1.959963984540054**2 / (256 + 1.959963984540054**2)
    expected = (1 - other, 1) if reward else (0, other)
    assert (result.low, result.high) == pytest.approx(expected)


def test_samples_without_a_score_make_the_interval_wider():
    whole = [group([1, 0, 1, 0])] * 40
    failed = [group([1, 0, None, None])] * 40
    assert evaluation(0, failed, 1.0).low < evaluation(0, whole, 1.0).low < 0.5
