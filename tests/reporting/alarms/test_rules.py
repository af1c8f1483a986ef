"""Rules over histories made by hand, whose answers are plain."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from winnow.reporting.alarms.history import History, PromptScores
from winnow.reporting.alarms.reading import Reading, above, below
from winnow.reporting.alarms.spread import steps_to, trend
from winnow.reporting.alarms.table import ALARMS
from winnow.theory.intervals import wilson

Scored = tuple[int, int]
"""Right samples and samples of a prompt."""


def row(step: int, **values: Any) -> dict[str, Any]:
    return {
        "step": step, "prompts": 8, "samples": 64, "errors": 0, "updates": 4, "updates_skipped": 0,
        "reward_mean": 0.5, "right_rate": 0.5, "survivors": 32, "samples_trained": 32, **values,
    }  # fmt: skip


def prompt(right: int, valid: int, name: str = "", difficulty: str | None = None) -> PromptScores:
    return PromptScores((name, name, None), right, valid, right in (0, valid), difficulty)


def history(
    *rows: dict[str, Any], prompts: list[list[Scored]] | None = None, window: int = 10
) -> History:
    """Of steps with these values over those of a healthy row, and with these prompts."""
    made = History(window)
    for number, values in enumerate(rows, start=1):
        if prompts is not None:
            some = prompts[min(number, len(prompts)) - 1]
            made.add_samples([prompt(*one, name=f"p{number}-{i}") for i, one in enumerate(some)])
        made.add_step(row(number, **values))
    return made


def read(name: str, of: History, threshold: float | None = None) -> Reading | None:
    rule = ALARMS[name]
    return rule.read(of, rule.threshold if threshold is None else threshold)


def state(name: str, of: History, threshold: float | None = None) -> str | None:
    found = read(name, of, threshold)
    return None if found is None else found.state


WRONG, MIXED, RIGHT = (0, 8), (3, 8), (8, 8)


@pytest.mark.parametrize(
    ("prompts", "first_right", "expected"),
    [
        ([WRONG] * 8, 0.0, ("alarming", 1.0, "wrong")),  # in the first step
        ([WRONG] * 7, 0.0, None),  # too few to say
        ([WRONG] * 15 + [MIXED], 0.02, ("between", 15 / 16, "wrong")),  # one step may be bad luck
        ([WRONG] * 31 + [MIXED], 0.02, ("alarming", 31 / 32, "wrong")),
        ([WRONG] * 20 + [MIXED] * 12, 0.1, ("well", 20 / 32, "wrong")),
        ([RIGHT] * 31 + [MIXED], 0.1, ("well", 31 / 32, "right")),  # learned
        ([RIGHT] * 31 + [MIXED], 0.95, ("alarming", 31 / 32, "right")),  # too easy all along
        ([(0, 1)] * 40, 0.0, None),  # with one sample each there is nothing to compare
    ],
)  # fmt: skip
def test_no_signal(prompts, first_right, expected) -> None:
    found = read("no_signal", history({"right_rate": first_right}, prompts=[prompts]))
    assert (found and (found.state, found.value, found.variant)) == expected


@pytest.mark.parametrize(
    ("before", "now", "variant"),
    [(0.3, 0.0, "lost"), (0.3, 0.05, "lost"), (0.3, 0.07, "wrong"), (0.04, 0.0, "wrong")],
)
def test_a_signal_that_was_lost_is_no_prompt_too_hard(before, now, variant) -> None:
    """One right sample in 25 may have been luck; a fifth of what there was is not lost."""
    rows = [{"right_rate": before}, *[{"right_rate": now}] * 10]
    found = read("no_signal", history(*rows, prompts=[[MIXED] * 8, [WRONG] * 8]))
    assert found is not None
    assert (found.state, found.variant) == ("alarming", variant)


def test_graded_rewards_that_differ_are_a_signal() -> None:
    """None right by `reward.right_at`, and yet one is better than another."""
    made = History(10)
    made.add_samples([PromptScores((f"{i}", "", None), 0, 8, i < 2) for i in range(8)])
    made.add_step(row(1))
    found = read("no_signal", made)
    assert found is not None
    assert (found.state, found.value) == ("well", 0.25)


def starving(visits: int, never: int, of: int = 10, right: int = 3) -> History:
    made = History(10)
    for number in range(1, visits + 1):
        made.add_samples([prompt(0 if i < never else right, 8, f"p{i}") for i in range(of)])
        made.add_step(row(number))
    return made


def test_prompts_that_starve() -> None:
    """After 4 visits of 8 samples: 32 without a right one."""
    assert state("starving_prompts", starving(3, 5)) == "well"
    found = read("starving_prompts", starving(4, 3))
    assert found is not None
    assert (found.state, found.value, found.facts["starving"]) == ("alarming", 0.3, "12")
    assert found.facts["named"] == "'p0', 'p1', 'p2'"
    assert read("starving_prompts", starving(4, 5)).facts["named"].endswith("'p2' and 2 more")
    assert state("starving_prompts", starving(4, 2)) == "well"  # a fifth: 0.2 = 0.8 x 0.25
    assert state("starving_prompts", starving(4, 10)) == "between"  # no_signal's business


@pytest.mark.parametrize(
    ("hard", "right", "expected"),
    [
        (8, 4, "alarming"),  # 64 samples; at the others' rate of a half 32 would be right
        (7, 4, "well"),  # too few prompts
        (8, 0, "between"),  # nobody has any
    ],
)
def test_a_difficulty_that_starves(hard, right, expected) -> None:
    made = History(10)
    easy = [prompt(right, 8, f"e{i}", "easy") for i in range(10)]
    made.add_samples(easy + [prompt(0, 8, f"h{i}", "hard") for i in range(hard)])
    made.add_step(row(1))
    found = read("starving_prompts", made)
    assert found is not None
    assert found.state == (expected if right else "well")
    if expected == "alarming":
        assert (found.variant, found.facts["labels"]) == ("label", "hard")


def test_a_rare_right_sample_is_no_starving_label() -> None:
    """Others have 4 right of 80, so of 64 a mean of 3.2: none at all in 4 % of cases."""
    made = History(10)
    easy = [prompt(i < 4, 8, f"e{i}", "easy") for i in range(10)]
    made.add_samples(easy + [prompt(0, 8, f"h{i}", "hard") for i in range(8)])
    made.add_step(row(1))
    assert state("starving_prompts", made) == "well"


ALIKE = [[WRONG] * 12 + [RIGHT] * 6]
LIVELY = [[WRONG] * 4 + [MIXED] * 4 + [RIGHT] * 8]


@pytest.mark.parametrize(
    ("entropies", "prompts", "right", "expected"),
    [
        ([1.0] * 3 + [0.05] * 5, ALIKE, 0.4, "alarming"),
        ([1.0] * 3 + [0.05] * 5, LIVELY, 0.4, "between"),  # little of it, and all it takes
        ([1.0] * 3 + [0.05] * 5, ALIKE, 0.95, "well"),  # learned
        ([1.0] * 3 + [0.5] * 5, ALIKE, 0.4, "well"),
        ([0.01] * 3 + [0.0001] * 5, ALIKE, 0.4, None),  # there was none to lose
        ([1.0] * 3, ALIKE, 0.4, None),  # too early
    ],
)
def test_entropy_collapse(entropies, prompts, right, expected) -> None:
    rows = [{"entropy": each, "right_rate": right} for each in entropies]
    assert state("entropy_collapse", history(*rows, prompts=prompts)) == expected


@pytest.mark.parametrize(
    ("falls", "rewards", "expected"),
    [
        (0.7, [0.3] * 8, "alarming"),  # halves in two steps, and nothing to show for it
        (0.7, [0.1 * i for i in range(8)], "well"),  # that is how it learns
        (0.97, [0.3] * 8, "well"),  # slowly
    ],
)
def test_entropy_that_falls_fast(falls, rewards, expected) -> None:
    """0.7^7 = 0.08 of 1; the mean of the first three is 0.73, the median of the last 0.7^6."""
    rows = [{"entropy": falls**i, "reward_mean": r} for i, r in enumerate(rewards)]
    found = read("entropy_collapse", history(*rows, prompts=LIVELY))
    assert found is not None
    assert found.state == expected
    if expected == "alarming":
        start = (1 + 0.7 + 0.49) / 3
        assert found.value == pytest.approx(0.7**6 / start)
        left = math.log(0.1 * start / 0.7**6) / math.log(0.7)
        assert found.facts["left"] == str(math.ceil(left))


def test_a_trend_is_a_straight_line_of_logarithms() -> None:
    assert trend([2.0**-i for i in range(8)]) == pytest.approx(-math.log(2))
    assert trend([1.0, 0.1] * 4) is None
    assert trend([1.0] * 8) is None
    assert trend([0.5] * 5) is None
    assert steps_to(0.4, 0.1, -math.log(2)) == pytest.approx(2)
    assert steps_to(0.4, 0.8, -math.log(2)) is None


@pytest.mark.parametrize(
    ("entropies", "rewards", "expected"),
    [
        ([0.5] * 5 + [2.0] * 3, [0.5] * 8, "alarming"),
        ([0.5] * 5 + [2.0, 0.5, 0.5], [0.5] * 8, "well"),  # one step
        ([0.02] * 5 + [0.2] * 3, [0.5] * 8, "well"),  # ten times next to nothing
        ([1.0] * 3 + [0.1] * 8 + [0.8] * 3, [0.5] * 14, "alarming"),  # up from where it had come
        ([1.0] + [3.6] * 3, [0.0] * 4, "alarming"),  # the first update did it
        ([1.0] + [3.6] * 20, [0.0] * 21, "alarming"),  # and it has stayed
        ([0.5 * 1.2**i for i in range(9)], [0.5] * 9, "alarming"),  # there in 3 steps
        ([0.5 * 1.2**i for i in range(9)], [0.1 * i for i in range(9)], "between"),
    ],
)
def test_entropy_explosion(entropies, rewards, expected) -> None:
    rows = [{"entropy": e, "reward_mean": r} for e, r in zip(entropies, rewards, strict=True)]
    assert state("entropy_explosion", history(*rows)) == expected


def test_what_kept_a_run_from_updates() -> None:
    """Rejecting all, and keeping what has no advantage, are mended in different places."""
    idle = {"updates": 0, "samples_trained": 0}
    rejected = read("nothing_kept", history(*[{**idle, "survivors": 0}] * 3))
    alike = read("nothing_kept", history(*[idle] * 3))
    assert rejected is not None
    assert alike is not None
    assert (rejected.variant, alike.variant) == ("none", "")
    assert (rejected.facts["samples"], alike.facts["survivors"]) == ("192", "96")


def test_distinct_right() -> None:
    def of(late: float, right: float = 0.5, steps: int = 8, start: float = 0.8) -> str | None:
        values = [start] * 4 + [late] * (steps - 4)
        rows = [{"distinct_right": each, "right_rate": right} for each in values]
        return state("distinct_right", history(*rows, window=4))

    assert of(0.3) == "alarming"
    assert of(0.45) == "between"  # 0.56 of it: it would clear at 0.5 / 0.8 = 0.625
    assert of(0.7) == "well"
    assert of(0.3, right=0.95) == "well"
    assert of(0.3, steps=7) is None  # two windows are not over
    assert of(0.01, start=0.05) is None


NUMBERS: list[tuple[str, list[dict[str, Any]], str | None]] = [
    ("cut_off", [{"cut_off_rate": 0.6}], "alarming"),
    ("cut_off", [{"cut_off_rate": 0.6}, {"cut_off_rate": 0.1}], "well"),  # 0.35
    ("cut_off", [{"cut_off_rate": 1.0, "samples": 4}], None),
    ("verifier_errors", [{"errors": 6}], "between"),  # 6 / 64 = 9 %
    ("verifier_errors", [{"errors": 7}], "alarming"),
    ("verifier_errors", [{"errors": 7}, {}], "well"),
    # 90 % right, so at least 0.8 of 0.9 of those cut off; of 60 % it may be none
    ("cut_off", [{"cut_off_rate": 0.9, "right_rate": 0.9}], "well"),
    ("cut_off", [{"cut_off_rate": 0.6, "right_rate": 0.6}], "alarming"),
    ("identical_samples", [{"identical_pairs": 0.9, "identical_expected": 0.3}], "alarming"),
    ("identical_samples", [{"identical_pairs": 0.6, "identical_expected": 0.3}], "between"),
    ("identical_samples", [{"identical_pairs": 0.6, "identical_expected": 0.3}] * 3, "alarming"),
    ("identical_samples", [{"identical_pairs": 0.9, "identical_expected": 0.9}] * 3, "well"),
    ("identical_samples", [{"identical_pairs": None, "identical_expected": 0.9}], None),
    ("identical_samples", [{}], None),
    ("retokenised", [{"retokenised_rate": 0.1}], "alarming"),
    ("retokenised", [{"retokenised_rate": None}], None),
    ("retokenised", [{}], None),
    ("sampler_disagrees", [{"logprob_gap": 0.2}], "alarming"),
    ("sampler_disagrees", [{"logprob_gap": 0.01}], "well"),
    ("sampler_disagrees", [{"logprob_gap": None}], None),
    ("sampler_disagrees", [{}], None),
    ("nothing_kept", [{"updates": 0}] * 3, "alarming"),
    ("nothing_kept", [{"updates": 0}] * 2, "between"),
    ("nothing_kept", [{"updates": 0}] * 3 + [{}], "well"),
    ("nothing_kept", [{"updates": 0, "updates_skipped": 1}] * 3, "well"),  # that is another one
    ("nothing_kept", [{"right_rate": 0.1}] + [{"updates": 0, "right_rate": 1.0}] * 12, "well"),
    ("one_prompt", [{"largest_prompt_share": 0.6}] * 5, "alarming"),
    ("one_prompt", [{"largest_prompt_share": 0.6}] * 4, None),
    ("one_prompt", [{"largest_prompt_share": 0.6, "right_rate": 0.88}] * 5, "between"),
    ("one_prompt", [{"largest_prompt_share": 0.6, "prompts": 6}] * 5, "between"),  # 4 / 6 = 0.67
    ("one_prompt", [{"largest_prompt_share": 1.0, "prompts": 3}] * 5, None),
    ("one_prompt", [{"largest_prompt_share": 0.1}] * 5, "well"),
    ("updates_skipped", [{"updates_skipped": 1, "updates": 3}] * 2, "alarming"),
    ("updates_skipped", [{"updates_skipped": 1, "updates": 3}], "between"),  # once
    ("updates_skipped", [{"updates": 0}], None),
    ("grad_norm", [{"grad_norm": 1.0}] * 5 + [{"grad_norm": 30.0}], "alarming"),
    ("grad_norm", [{"grad_norm": 1.0}] * 4 + [{"grad_norm": 30.0}], None),
    # after a hundred steps, by when the first one is not among the latest: less than that was
    ("grad_norm", [{"grad_norm": 1.0}] + [{"grad_norm": 0.01}] * 99 + [{"grad_norm": 0.5}],
     "between"),
    ("grad_norm", [{"grad_norm": 1.0}] + [{"grad_norm": 0.01}] * 99 + [{"grad_norm": 5.0}],
     "alarming"),
    ("grad_norm", [{"grad_norm": 9.0}] * 3 + [{"grad_norm": 0.2}] * 9 + [{"grad_norm": 5.0}],
     "between"),  # 25 times the median, and less than it was: the noise of a run that has learned
    ("grad_norm", [{"grad_norm": 0.0}] * 9 + [{"grad_norm": 5.0}], None),
    ("ratio", [{"ratio_mean": 1.6}] * 2, "alarming"),
    ("ratio", [{"ratio_mean": 0.4}] * 2, "alarming"),
    ("ratio", [{"ratio_mean": 9.0}, {"ratio_mean": 1.0}, {"ratio_mean": 1.0}], "well"),
    ("ratio", [{"ratio_mean": None}] * 3, None),
    ("ess", [{"ess": 0.2}] * 2, "alarming"),
    ("ess", [{"ess": 0.35}] * 2, "between"),
    ("ess", [{"ess": 0.9}] * 2, "well"),
    ("kl_to_sampling_policy", [{"kl_to_sampling_policy": 0.4}] * 2, "alarming"),
    ("kl_to_sampling_policy", [{"kl_to_sampling_policy": 0.05}] * 2, "well"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "expected"), NUMBERS)
def test_numbers_of_rows(name, rows, expected) -> None:
    assert state(name, history(*rows)) == expected


def evaluated(*evaluations: dict[str, Any], rewards: tuple[float, ...] = ()) -> History:
    """One before the first step and one with each step."""
    made = History(1)
    for step, values in enumerate(evaluations):
        made.add_evaluation({"step": step, "split": "eval", **values})
        if step:
            made.add_step(row(step, reward_mean=rewards[step - 1] if rewards else 0.5))
    return made


def accuracy(value: float, half: float, **more: Any) -> dict[str, Any]:
    return {"accuracy": value, "reward": value, "low": value - half, "high": value + half, **more}


def kl(value: float) -> dict[str, Any]:
    return {"kl": {"value": value}}


@pytest.mark.parametrize(
    ("values", "half", "rewards", "expected"),
    [
        ((0.5, 0.6, 0.4), 0.05, (0.5, 0.6), "alarming"),
        ((0.5, 0.6, 0.5), 0.06, (0.5, 0.6), "well"),  # [0.54, 0.66] and [0.44, 0.56] overlap
        ((0.5, 0.6, 0.57), 0.01, (0.5, 0.6), "well"),  # apart, and 3 points alone
        ((0.5, 0.6, 0.4), 0.05, (0.5, 0.3), "between"),  # the training reward falls as well
        ((0.5, 0.6, 0.7), 0.05, (0.5, 0.6), "well"),
    ],
)
def test_held_out_falls(values, half, rewards, expected) -> None:
    made = evaluated(*(accuracy(each, half) for each in values), rewards=rewards)
    assert state("held_out_falls", made) == expected


def test_the_best_of_many_evaluations_is_so_by_luck() -> None:
    """100 runs of 30 evaluations of 100 prompts, each right with probability 1/2 throughout."""
    rng, fallen = np.random.default_rng(0), 0
    for _ in range(100):
        made, states = History(10), set()
        for step in range(1, 31):
            right = rng.random(100) < 0.5
            low, high = wilson(right.astype(float))
            found = {"accuracy": float(right.mean()), "low": low, "high": high}
            made.add_evaluation({"step": step, "split": "eval", **found})
            made.add_step(row(step))
            states.add(state("held_out_falls", made))
        fallen += "alarming" in states
    assert fallen <= 5


def test_other_splits_and_no_intervals_say_nothing() -> None:
    made = evaluated(accuracy(0.9, 0.01, split="test"), accuracy(0.1, 0.01), accuracy(0.1, 0.01))
    assert state("held_out_falls", made) == "well"
    plain = {"accuracy": 0.9, "reward": 0.9, "low": None, "high": None}
    assert state("held_out_falls", evaluated(plain, plain)) is None


@pytest.mark.parametrize(("prompts", "n"), [(1, 2), (1, 4), (4, 2), (8, 2), (4, 8)])
def test_few_samples_may_be_identical_by_chance(prompts, n) -> None:
    """Of a completion of probability 1/2 and twenty others, in 500 steps that are all well."""
    rng = np.random.default_rng(0)
    chances = np.array([0.5] + [0.025] * 20)
    made, states = History(10), set()
    for step in range(1, 501):
        drawn = [rng.choice(21, size=n, p=chances) for _ in range(prompts)]
        equal = [sum(a == b for a, b in combinations(one, 2)) for one in drawn]
        made.add_step(
            row(
                step,
                identical_pairs=float(np.mean(equal)) / math.comb(n, 2),
                identical_expected=float(np.mean([chances[one].mean() for one in drawn])),
                prompts=prompts,
                samples=prompts * n,
            )
        )
        states.add(state("identical_samples", made))
    assert "alarming" not in states


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ([accuracy(0.5, 0.05, **kl(0.0)), accuracy(0.52, 0.05, **kl(12.0))], "alarming"),
        ([accuracy(0.5, 0.05, **kl(0.0)), accuracy(0.8, 0.05, **kl(12.0))], "well"),
        ([accuracy(0.5, 0.05, **kl(0.0)), accuracy(0.52, 0.05, **kl(5.0))], "well"),
        # a small set: within its interval, and yet no small gain
        ([accuracy(0.2, 0.2, **kl(0.0)), accuracy(0.35, 0.2, **kl(12.0))], "well"),
        ([accuracy(0.2, 0.2, **kl(0.0)), accuracy(0.22, 0.2, **kl(12.0))], "alarming"),
        ([accuracy(0.97, 0.02, **kl(0.0)), accuracy(0.97, 0.02, **kl(12.0))], "well"),
        # since it was half of it, not since the start
        (
            [
                accuracy(0.1, 0.05, **kl(0.0)),
                accuracy(0.5, 0.05, **kl(6.0)),
                accuracy(0.5, 0.05, **kl(13.0)),
            ],
            "alarming",
        ),
        (
            [
                accuracy(0.0, 0.05, **kl(0.0)),
                {**accuracy(0.0, 0.05, **kl(12.0)), "reward": 0.6},
            ],
            "well",  # a graded reward rises
        ),
        ([accuracy(0.5, 0.05, kl=None), accuracy(0.5, 0.05, kl=None)], None),
    ],
)
def test_kl_to_the_start(evaluations, expected) -> None:
    assert state("kl_to_start", evaluated(*evaluations)) == expected


OTHER = {"entropy": 0.6, "grad_norm": 2.0, "distinct_right": 0.2, "right_rate": 0.4}
"""Of a phase of harder prompts, 40 times the gradient and four times the entropy."""


@pytest.mark.parametrize("cycle", [20, 2])
def test_a_phase_is_compared_with_itself_alone(cycle) -> None:
    """However long it is: two phases in turn, each as it was in its first step."""
    own = {"entropy": 0.15, "grad_norm": 0.05, "distinct_right": 0.6, "right_rate": 0.8}
    made = History(10, phases=2)
    for step in range(1, 61):
        phase = 1 + (step - 1) // cycle
        made.add_step(row(step, phase=phase, **(own if phase % 2 else OTHER)))
        assert not [name for name in ALARMS if state(name, made) == "alarming"]
    for step in range(61, 91):  # one that goes on: now its entropy rises as much
        made.add_step(row(step, phase=1, **{**own, "entropy": 0.6}))
    assert state("entropy_explosion", made) == "alarming"


def test_what_an_earlier_phase_learned_was_not_easy_from_the_start() -> None:
    made = History(10, phases=2)
    made.add_step(row(1, phase=1, right_rate=0.1))
    for step in range(2, 14):
        made.add_samples([prompt(8, 8, f"p{i}") for i in range(8)])
        made.add_step(row(step, phase=2, right_rate=1.0))
    assert state("no_signal", made) == "well"


def test_steps_without_an_update_are_counted_across_phases() -> None:
    made = History(10, phases=3)
    made.add_step(row(1, phase=1))
    for step in (2, 3, 4):
        made.add_step(row(step, phase=step - 1, updates=0, samples=10 * step, survivors=step))
    found = read("nothing_kept", made)
    assert found is not None
    assert (found.state, found.value) == ("alarming", 3.0)
    assert found.facts == {"samples": "90", "survivors": "9", "trained": "96"}


def test_states_have_a_gap_between_them() -> None:
    assert [above(x, 0.5) for x in (0.6, 0.5, 0.45, 0.4)] == [
        "alarming", "alarming", "between", "well"
    ]  # fmt: skip
    assert [below(x, 0.4) for x in (0.3, 0.4, 0.45, 0.5)] == [
        "alarming", "alarming", "between", "well"
    ]  # fmt: skip
    assert above(0.6, 0.5, if_=False) == below(0.1, 0.4, if_=False) == "between"
