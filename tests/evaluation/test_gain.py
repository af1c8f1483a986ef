"""What a run has gained: paired over its prompts, from the samples in its folder."""

from __future__ import annotations

import numpy as np
import pytest

from tests.build import group
from winnow.evaluation.gain import Gain, gain, gain_between
from winnow.storage.counted import Counted
from winnow.storage.run_folder import RunStore
from winnow.theory.intervals import paired_difference
from winnow.training.run import Result
from winnow.training.summary import gain_line
from winnow.types import Score


def counted(*rates: tuple[int, int]) -> list[Counted]:
    """Right samples of valid ones, by prompt; a reward is 1 or 0."""
    return [
        Counted((f"p{i}", "x", None), right, valid, (1.0,) * right + (0.0,) * (valid - right))
        for i, (right, valid) in enumerate(rates)
    ]


def row(step: int, accuracy: float | None = 0.5, split: str = "eval") -> dict[str, object]:
    return {"step": step, "split": split, "accuracy": accuracy}


def test_only_prompts_with_a_score_both_times_count() -> None:
    before = counted((1, 4), (3, 3), (0, 0), (2, 2))
    after = counted((2, 4), (1, 1), (1, 1), (0, 0))
    found = gain(before, after)
    # of the first two: 1/4 to 2/4 and 3/3 to 1/1; harmonic means 2/(1/4 + 1/3) and 2/(1/4 + 1)
    made = paired_difference(np.array([0.25, 1]), np.array([0.5, 1]), (24 / 7, 1.6))
    assert found == Gain(*(pytest.approx(x) for x in (*made, *made)), left_out=2)
    assert found.value == pytest.approx(0.125)


def test_pairs_tell_more_than_two_samples_of_prompts() -> None:
    """100 prompts always right, 100 never, 10 that are learned: surely a gain, if a small one."""
    found = gain(
        counted(*[(4, 4)] * 100, *[(0, 4)] * 110), counted(*[(4, 4)] * 110, *[(0, 4)] * 100)
    )
    assert found.value == pytest.approx(10 / 210)
    assert 0.01 < found.low < found.high < 0.1


def test_rewards_that_stay_what_they_were_are_no_proof_that_they_do() -> None:
    """Rewards of -1 and 1, nothing right at either time: an interval [0, 0] would be certain."""
    same = [Counted((f"p{i}", "x", None), 0, 2, (-1.0, -1.0)) for i in range(8)]
    found = gain(same, same)
    assert found is not None
    assert (found.reward, found.reward_low, found.reward_high) == (0.0, None, None)
    assert found.low < 0 < found.high


def test_graded_rewards_have_a_gain_of_their_own() -> None:
    """Three prompts gain .1, .2 and .3: mean .2, t(2) = 4.3027 times .1 / sqrt(3) on each side."""
    pairs = [((0.0, 0.4), (0.3,)), ((0.5,), (0.7,)), ((0.1, 0.1), (0.2, 0.6))]
    before, after = (
        [Counted((f"p{i}", "x", None), 0, len(one), one) for i, one in enumerate(side)]
        for side in zip(*pairs, strict=True)
    )
    found = gain(before, after)
    assert found is not None
    assert found.value == 0
    half = 4.3027 * 0.1 / 3**0.5
    told = (found.reward, found.reward_low, found.reward_high)
    assert told == pytest.approx((0.2, 0.2 - half, 0.2 + half), abs=1e-4)


def test_other_prompts_have_no_gain() -> None:
    assert gain(counted((1, 1)), counted((1, 1), (1, 1))) is None
    assert gain(counted((1, 1)), [Counted(("p0", "y", None), 1, 1)]) is None
    assert gain(counted((0, 0)), counted((1, 1))) is None


class TestOfAFolder:
    @pytest.fixture
    def store(self, tmp_path) -> RunStore:
        return RunStore.create(tmp_path / "run", "", {})

    def test_samples_are_counted_from_the_file(self, store) -> None:
        half = group([0.5, 0.4, None], name="b").with_(right_at=0.5)
        store.write_samples("eval", 0, [group([1, 0, 1], name="a"), half])
        unscored = group([1], name="a").with_(scores=(Score.failed("broken"),))
        store.write_samples("final", 3, [unscored])
        assert store.counted("eval", 0) == [
            Counted(("a", "a", None), 2, 3, (1, 0, 1)), Counted(("b", "b", None), 1, 2, (0.5, 0.4)),
        ]  # fmt: skip
        assert store.counted("final", 3) == [Counted(("a", "a", None), 0, 0)]
        assert store.counted("eval", 3) is None

    def test_from_its_first_evaluation_to_its_last(self, store) -> None:
        names = "abcdefgh"
        store.write_samples("eval", 0, [group([0, 1], name=name) for name in names])
        store.write_samples("eval", 2, [group([0, 0], name=name) for name in names])
        store.write_samples("final", 2, [group([1, 1], name=name) for name in names])
        assert gain_between(store, row(0), row(2)).value == -0.5
        found = gain_between(store, row(0), row(2, split="final"))
        assert found.value == 0.5
        assert 0 < found.low < 0.5 < found.high
        older = {"step": 2, "accuracy": 0.0}  # from before there was a split
        assert gain_between(store, row(0), older).value == -0.5

    def test_the_model_it_began_with_is_no_better(self, store) -> None:
        assert gain_between(store, row(0), row(0)) == Gain(*[0] * 6)
        assert gain_between(store, row(0, None), row(0, None)) is None

    def test_without_its_samples_there_is_none(self, store) -> None:
        store.write_samples("eval", 0, [group([1])])
        assert gain_between(store, row(0), row(5)) is None


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"gain": 0.5, "gain_low": 0.4, "gain_high": 0.6},
            "held-out accuracy: 20.0% before, 70.0% after: +50.0 points [+40.0, +60.0]",
        ),
        (
            {"gain": 0.5, "gain_low": -0.04, "gain_high": 0.6},
            "held-out accuracy: 20.0% before, 70.0% after: +50.0 points [-4.0, +60.0]",
        ),
        ({}, "held-out accuracy: 20.0% before, 70.0% after"),
        (
            {"reward_before": 0.2, "reward_after": 0.7, "reward_gain": 0.5}
            | {"reward_gain_low": 0.4, "reward_gain_high": 0.6},
            "held-out accuracy: 20.0% before, 70.0% after\n"
            "held-out mean reward: 0.200 before, 0.700 after",
        ),
        (
            {"before": 0.0, "after": 0.0, "gain": 0.0, "gain_low": -0.01, "gain_high": 0.01}
            | {"reward_before": 0.2, "reward_after": 0.7, "reward_gain": 0.5}
            | {"reward_gain_low": 0.4, "reward_gain_high": 0.6},
            "held-out mean reward: 0.200 before, 0.700 after: +0.500 [+0.400, +0.600]\n"
            "held-out accuracy: 0.0% before, 0.0% after: +0.0 points [-1.0, +1.0]",
        ),
        ({"before": None}, ""),
        (
            {"gain": 0.25, "gain_low": -0.2, "gain_high": 0.6, "left_out": 4},
            "held-out accuracy: 20.0% before, 70.0% after: +25.0 points [-20.0, +60.0]\n"
            "the gain is without 4 prompts that have no score before or none after",
        ),
        ({"left_out": 4}, "held-out accuracy: 20.0% before, 70.0% after"),
        (
            {"evaluations": 9, "selected": 0.725},
            "test accuracy: 20.0% before, 70.0% after, on prompts that had no part in choosing the "
            "checkpoint\nchosen: the best of 9 evaluations on the same prompts, 72.5% held-out "
            "accuracy, which overstates it",
        ),
        (
            {"evaluations": 9, "tested": False, "gain": 0.5, "gain_low": 0.4, "gain_high": 0.6},
            "held-out accuracy: 20.0% before, 70.0% after: +50.0 points [+40.0, +60.0]\nchosen: "
            "the best of 9 evaluations on the same prompts, which overstates it",
        ),
    ],
)
def test_the_last_line_of_a_run(changes, line, tmp_path) -> None:
    given = {"folder": tmp_path, "checkpoint": tmp_path, "metrics": []}
    assert gain_line(Result(**{**given, "before": 0.2, "after": 0.7, **changes})) == line
