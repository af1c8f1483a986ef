"""A comparison of made-up outcomes, against SciPy and against what can be worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from winnow.studies.analysis import compared
from winnow.studies.curves import at_metric, common_level, curve_of, line_of
from winnow.studies.outcomes import Outcome, Point
from winnow.studies.schema import study_of
from winnow.theory.verdicts import Measure, Rule, more_seeds

AXES = ("samples", "tokens", "updates", "seconds")
SCORE = Measure("score")


def metric(point: Point) -> float:
    return point.metric


def outcome(metrics: Sequence[float], each: float = 100.0, **more: Any) -> Outcome:
    """A run that was evaluated every step, of `each` samples; entropy falls as the metric rises."""
    points = [
        Point(step, dict.fromkeys(AXES, step * each), metric, {"entropy": 2.0 - metric})
        for step, metric in enumerate(metrics)
    ]
    spent = dict.fromkeys(AXES, (len(metrics) - 1) * each)
    return Outcome(points, metrics[-1], {}, None, 1.0, len(metrics) - 1, spent, **more)


def of_finals(finals: Sequence[float]) -> dict[int, Outcome]:
    return {seed: outcome([0.1, final]) for seed, final in enumerate(finals)}


RNG = np.random.default_rng(5)
A = 0.4 + 0.1 * RNG.standard_normal(8)
B = A + 0.06 + 0.02 * RNG.standard_normal(8)
C = 0.45 + 0.1 * RNG.standard_normal(8)
RUNS = {"a": of_finals(A), "b": of_finals(B), "c": of_finals(C)}


def study(names: Sequence[str] = ("a", "b", "c"), **table: Any) -> Any:
    return study_of({"study": {"seeds": 8, **table}, "variants": {name: {} for name in names}})


def test_differences_are_those_of_scipy() -> None:
    result = compared(study(), RUNS)
    pairs = {(one["a"], one["b"]): one for one in result["differences"]}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    data = {"a": A, "b": B, "c": C}
    raw = []
    for (a, b), one in pairs.items():
        test = stats.ttest_rel(data[b], data[a])
        ends = test.confidence_interval(0.95)
        assert one["paired"]["p"] == pytest.approx(test.pvalue, rel=1e-6)
        assert (one["paired"]["low"], one["paired"]["high"]) == pytest.approx((ends.low, ends.high))
        apart = stats.ttest_ind(data[b], data[a], equal_var=False)
        assert one["unpaired"]["p"] == pytest.approx(apart.pvalue, rel=1e-6)
        raw.append(test.pvalue)
    # Holm by hand: of three, the smallest p three times, the next twice, none below the one before
    order = np.argsort(raw)
    wanted = [0.0] * 3
    for rank, place in enumerate(order):
        before = wanted[order[rank - 1]] if rank else 0.0
        wanted[place] = max(before, min(1.0, (3 - rank) * raw[place]))
    assert [one["adjusted_p"] for one in pairs.values()] == pytest.approx(wanted)


def test_the_verdict_is_of_pairs_by_seed_where_seeds_matter() -> None:
    """b is above a at every seed by three times its deviation; unpaired, seeds hide that."""
    first, *_ = compared(study(), RUNS)["differences"]
    assert first["told"]
    assert first["verdict"].startswith("b is better than a")
    assert first["unpaired"]["low"] < 0 < first["paired"]["low"]


def test_which_is_listed_first_does_not_matter() -> None:
    one = compared(study(("a", "b", "c")), RUNS)
    other = compared(study(("c", "b", "a"), reference="a"), RUNS)
    found = {(d["a"], d["b"]): d["paired"] for d in other["differences"]}
    assert found["a", "b"] == one["differences"][0]["paired"]
    turned = found.get(("c", "b")) or found["b", "c"]
    assert abs(turned["estimate"]) == abs(one["differences"][2]["paired"]["estimate"])


def test_few_seeds_are_never_enough() -> None:
    runs = {"a": of_finals([0.1, 0.1, 0.1]), "b": of_finals([0.9, 0.91, 0.92])}
    (one,) = compared(study(("a", "b"), seeds=3), runs)["differences"]
    assert not one["told"]
    assert one["verdict"].startswith("cannot tell b from a")


def test_seeds_needed_are_for_all_comparisons() -> None:
    result = compared(study(), RUNS)
    one = result["differences"][1]
    difference = stats.ttest_rel(C, A)
    assert math.isfinite(difference.pvalue)
    from winnow.theory.comparison import paired

    assert one["seeds_needed"] == more_seeds(paired(A, C), Rule(comparisons=3))


def test_a_seed_that_one_lacks_is_left_out_of_both() -> None:
    runs = {"a": RUNS["a"], "b": {seed: run for seed, run in RUNS["b"].items() if seed != 2}}
    result = compared(study(("a", "b")), runs)
    (one,) = result["differences"]
    keep = [seed for seed in range(8) if seed != 2]
    assert one["paired"]["estimate"] == pytest.approx((B - A)[keep].mean())
    assert one["paired"]["seeds"] == 7
    assert "b: no result for seed 2" in result["notes"][0]


def test_area_and_level_of_a_variant() -> None:
    """0 to 0.4 over 200 samples, then flat to 400: mean height (0.2 * 200 + 0.4 * 200) / 400."""
    rises = outcome([0.0, 0.2, 0.4, 0.4, 0.4])
    never = outcome([0.0, 0.1, 0.1, 0.1, 0.1])
    runs = {"a": {0: rises, 1: rises, 2: never}}
    (variant,) = compared(study(("a",), seeds=3, reach=0.3), runs)["variants"]
    area = (0.3 + 0.3 + (0.05 + 0.1 * 3) / 4) / 3
    assert variant["area"]["value"] == pytest.approx(area)
    assert variant["reach"] == {
        "level": 0.3,
        "each": [150.0, 150.0, None],
        "reached": 2,
        "median": 150,
    }
    (variant,) = compared(study(("a",), seeds=3, reach=0.05), runs)["variants"]
    assert variant["reach"]["each"] == [25.0, 25.0, 50.0]


def test_who_leads_on_the_way_is_compared_too() -> None:
    """Both end at the same height; b is there at once, a only at the end."""
    late, soon = ([0.1, 0.1, 0.5], [0.1, 0.5, 0.5])
    noise = 0.01 * RNG.standard_normal(8)
    runs = {
        "a": {seed: outcome([x + own for x in late]) for seed, own in enumerate(noise)},
        "b": {
            seed: outcome([x + own + 1e-4 * seed for x in soon]) for seed, own in enumerate(noise)
        },
    }
    result = compared(study(("a", "b")), runs)
    (end,), (way,) = result["differences"], result["on_the_way"]
    assert end["paired"]["estimate"] == pytest.approx(1e-4 * 3.5)
    # heights between evaluations: 0.1, 0.3 against 0.3, 0.5
    assert way["paired"]["estimate"] == pytest.approx(0.2 + 1e-4 * 3.5)
    assert way["verdict"].startswith("b is better than a in accuracy on the way by 20.0 points")


def test_the_level_is_half_of_the_way_up() -> None:
    result = compared(study(), RUNS)
    best = max(A.mean(), B.mean(), C.mean())
    assert result["study"]["reach"] == pytest.approx((0.1 + best) / 2, abs=5e-4)


def test_the_level_is_above_the_start_however_little_was_learned() -> None:
    runs = {"a": {seed: outcome([0.0001, 0.0004]) for seed in range(3)}}
    result = compared(study(("a",), seeds=3, metric="reward"), runs)
    assert result["study"]["reach"] == pytest.approx(0.00025)
    assert result["variants"][0]["reach"]["each"] == [pytest.approx(50.0)] * 3


def test_a_curve_has_the_interval_of_scipy_over_seeds() -> None:
    heights = [[0.1, 0.3, 0.5], [0.1, 0.2, 0.6], [0.1, 0.4, 0.4]]
    curve = curve_of([outcome(h) for h in heights], "samples", metric, SCORE, 0.9)
    assert curve.x == [0, 100, 200]
    for place, (mean, low, high) in enumerate(zip(curve.mean, curve.low, curve.high, strict=True)):
        own = [h[place] for h in heights]
        assert mean == pytest.approx(np.mean(own))
        ends = stats.t.interval(0.9, 2, np.mean(own), stats.sem(own))
        same = len(set(own)) == 1
        assert (low, high) == ((None, None) if same else pytest.approx(ends))


def test_runs_that_all_end_alike_are_no_proof_of_it() -> None:
    """Three seeds at 0: an interval [0, 0] would say that no seed can end above it."""
    (variant,) = compared(study(("a",), seeds=3), {"a": of_finals([0.0] * 3)})["variants"]
    for what in ("mean", "iqm"):
        assert variant[what] == {"value": 0.0, "low": None, "high": None}


def test_no_interval_goes_where_a_share_cannot_be() -> None:
    """Shares of 0.8 and 1.0: Student's t, which knows no bounds, gives -0.37 to 2.17."""
    runs = {
        "a": {seed: outcome([0.0, final]) for seed, final in enumerate([0.8, 1.0])},
        "b": {seed: outcome([0.0, final]) for seed, final in enumerate([0.2, 0.0])},
    }
    assert stats.t.interval(0.95, 1, 0.9, stats.sem([0.8, 1.0])) == pytest.approx(
        (-0.37, 2.17), abs=1e-2
    )
    result = compared(study(("a", "b"), seeds=2), runs)
    for variant in result["variants"]:
        for what in ("mean", "iqm"):
            assert (variant[what]["low"], variant[what]["high"]) == (0.0, 1.0)
        assert (variant["area"]["low"], variant["area"]["high"]) >= (0.0, 0.5)
        curve = result["curves"][variant["name"]]["metric"]
        assert (curve["low"][-1], curve["high"][-1]) == (0.0, 1.0)
        # 2 - metric, above 0 and without an upper bound: 1.1 or 1.9, and 12.706 times 0.1
        entropy = result["curves"][variant["name"]]["entropy"]
        wanted = {"a": (0.0, 2.3706), "b": (0.6294, 3.1706)}[variant["name"]]
        assert (entropy["low"][-1], entropy["high"][-1]) == pytest.approx(wanted, abs=1e-4)
    (one,) = result["differences"]
    assert one["paired"]["estimate"] == pytest.approx(-0.8)
    assert (one["paired"]["low"], one["paired"]["high"]) == (-1.0, 1.0)
    assert one["unpaired"]["low"] == -1.0
    assert one["unpaired"]["high"] == pytest.approx(-0.8 + 4.3027 * 0.02**0.5, abs=1e-4)
    reward = compared(study(("a", "b"), seeds=2, metric="reward"), runs)
    assert reward["variants"][0]["mean"]["high"] == pytest.approx(2.1706, abs=1e-4)


def test_a_curve_of_runs_at_unlike_places_is_on_their_common_part() -> None:
    """Both are the line y = x / 1000, seen at other x: so is their mean, without any spread
    to make an interval of."""
    one, other = outcome([0.0, 0.1, 0.2, 0.3]), outcome([0.0, 0.05, 0.1, 0.15], each=50.0)
    curve = curve_of([one, other], "samples", metric, SCORE, 0.95)
    assert (curve.x[0], curve.x[-1]) == (0, 150)
    assert curve.mean == pytest.approx([x / 1000 for x in curve.x])
    assert set(curve.low) == set(curve.high) == {None}


def test_an_evaluation_that_cost_nothing_takes_the_place_of_the_one_before() -> None:
    run = outcome([0.1, 0.2, 0.3], each=0.0)
    assert line_of(run, "updates", lambda point: point.metric) == ([0.0], [0.3])


def test_entropy_is_compared_at_equal_metric() -> None:
    """Both have entropy 2 - metric, so at equal metric the same, though not at the end."""
    runs = {
        "a": {seed: outcome([0.1, 0.2, 0.4 + seed / 100]) for seed in range(6)},
        "b": {seed: outcome([0.1, 0.5, 0.8 + seed / 100]) for seed in range(6)},
    }
    (one,) = compared(study(("a", "b"), seeds=6), runs)["quantities"]
    assert one["quantity"] == "entropy"
    assert one["metric"] == 0.4  # the highest that all runs of both reach
    assert one["of_a"]["value"] == pytest.approx(1.6)
    assert one["paired"]["estimate"] == pytest.approx(0.0, abs=1e-12)
    assert not one["told"]


def test_entropy_at_another_temperature_is_not_compared() -> None:
    hot = Outcome(**{**vars(outcome([0.1, 0.5])), "temperature": 0.7})
    runs = {"a": {0: outcome([0.1, 0.5]), 1: outcome([0.1, 0.6])}, "b": {0: hot, 1: hot}}
    assert compared(study(("a", "b"), seeds=2), runs)["quantities"] == []


@pytest.mark.parametrize(("k", "compared_at"), [(4, ["pass_at_k"]), (8, [])])
def test_pass_at_4_is_not_compared_with_pass_at_8(k, compared_at) -> None:
    """Of samples that are right half of the time, 4 find one in 15/16 of cases, 8 in 255/256."""

    def run(k: int) -> Outcome:
        points = [
            Point(step, dict.fromkeys(AXES, step), metric, {"pass_at_k": 1 - (1 - metric) ** k})
            for step, metric in enumerate((0.1, 0.5))
        ]
        return Outcome(points, 0.5, {}, k, 1.0, 1, dict.fromkeys(AXES, 1))

    runs = {"a": {seed: run(4) for seed in range(2)}, "b": {seed: run(k) for seed in range(2)}}
    found = compared(study(("a", "b"), seeds=2), runs)["quantities"]
    assert [one["quantity"] for one in found] == compared_at


def test_a_quantity_between_two_evaluations_is_on_a_line() -> None:
    run = outcome([0.1, 0.3, 0.2, 0.6])
    assert at_metric(run, "entropy", 0.2) == pytest.approx(1.8)
    assert at_metric(run, "entropy", 0.4) == pytest.approx(1.6)
    assert at_metric(run, "entropy", 0.7) is None
    assert at_metric(run, "kl", 0.2) is None
    assert common_level([run, outcome([0.1, 0.25])], "entropy") == 0.25


def test_a_budget_that_was_not_reached_is_said() -> None:
    result = compared(study(("a",), budget={"samples": 500}), {"a": {0: outcome([0.1, 0.2])}})
    assert any(
        "ended before its budget of 500 samples at 1 of 1 seeds" in n for n in result["notes"]
    )


def test_only_more_steps_make_a_variant_longer_that_had_too_few() -> None:
    """Of four seeds 200 samples are one's all steps; an alarm and its patience ended two; one more
    is held to its budget."""
    runs = [
        outcome([0.1, 0.2, 0.3]),
        outcome([0.1, 0.2, 0.3], stopped=True),
        outcome([0.1, 0.2, 0.3], early=True),
        outcome([0.1, 0.2, 0.3], each=250.0),
    ]
    of_a = dict(enumerate(runs))
    notes = compared(study(("a",), seeds=4, budget={"samples": 500}), {"a": of_a})["notes"]
    assert notes == [
        "a: ended by an alarm at seed 1; what it came to counts",
        "a: ended before its budget of 500 samples at 1 of 4 seeds: raise steps",
        "a: ended before its budget of 500 samples at 1 of 4 seeds: eval.patience ended it",
    ]
