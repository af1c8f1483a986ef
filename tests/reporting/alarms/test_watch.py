"""What is told of alarms: when they begin and clear, and the same after a resume."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from winnow.reporting.alarms.history import PromptScores
from winnow.reporting.alarms.reading import Reading
from winnow.reporting.alarms.table import ALARMS
from winnow.reporting.alarms.watch import CALM, Alarms, Standing
from winnow.reporting.events import Alarm, StepEnd

DEFAULTS = {name: rule.threshold for name, rule in ALARMS.items()}


def alarms(told: list[Alarm], **more: Any) -> Alarms:
    return Alarms(told.append, DEFAULTS, **{"window": 4, **more})


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


SHARES = st.floats(0, 1)
POSITIVE = st.floats(0, 1e6)
NUMBERS = {
    **dict.fromkeys(("right_rate", "cut_off_rate", "largest_prompt_share", "ess"), SHARES),
    **dict.fromkeys(("identical_pairs", "identical_expected", "retokenised_rate"), SHARES),
    **dict.fromkeys(("distinct_right", "clip_fraction", "logprob_gap"), SHARES),
    **dict.fromkeys(("entropy", "grad_norm", "ratio_mean", "kl_to_sampling_policy"), POSITIVE),
    **dict.fromkeys(("weight_mean", "reward_mean"), POSITIVE),
}
COUNTS = ("prompts", "samples", "errors", "updates", "updates_skipped", "survivors")
ROWS = st.fixed_dictionaries(
    {
        **{name: maybe(values) for name, values in NUMBERS.items()},
        **{name: st.integers(0, 64) for name in (*COUNTS, "samples_trained")},
    }
)
PROMPTS = st.lists(
    st.builds(
        lambda name, right, valid, hard: PromptScores(
            (name, name, None), min(right, valid), valid, right in (0, valid), hard
        ),
        st.sampled_from("abcdefghij"),
        st.integers(0, 8),
        st.integers(0, 8),
        st.sampled_from([None, "easy", "hard"]),
    ),
    max_size=12,
)
EVALUATIONS = st.fixed_dictionaries(
    {
        "accuracy": maybe(SHARES),
        "low": maybe(SHARES),
        "high": maybe(SHARES),
        "reward": st.floats(-1, 1),
        "kl": maybe(st.fixed_dictionaries({"value": maybe(st.floats(-1, 50))})),
        "split": st.sampled_from(["eval", "test"]),
    }
)
RUNS = st.lists(st.tuples(ROWS, st.lists(EVALUATIONS, max_size=1), maybe(PROMPTS)), max_size=24)
Step = tuple[dict[str, Any], list[dict[str, Any]], list[PromptScores] | None]


def go(run: list[Step], watcher: Alarms, first: int) -> None:
    for step, (row, evaluations, scores) in enumerate(run, start=first):
        if scores is not None:
            watcher._history.add_samples(scores)
        for one in evaluations:
            watcher._history.add_evaluation({"step": step, **one})
        watcher.on_step(StepEnd(step, {"step": step, **row}))


def numbered(run: list[Step]) -> list[Step]:
    return [
        ({"step": step, **row}, [{"step": step, **one} for one in evaluations], scores)
        for step, (row, evaluations, scores) in enumerate(run, start=1)
    ]


@given(RUNS, st.data())
@settings(max_examples=40)
def test_a_resumed_run_raises_what_an_unbroken_one_does(run, data) -> None:
    """Whatever its rows hold; and no row makes a rule fail."""
    whole: list[Alarm] = []
    go(run, alarms(whole), 1)
    at = data.draw(st.integers(0, len(run)))
    before = [alarm for alarm in whole if alarm.step <= at]
    after: list[Alarm] = []
    resumed = alarms(after)
    resumed.replay(numbered(run[:at]), [vars(alarm) for alarm in before])
    assert after == []
    go(run[at:], resumed, at + 1)
    assert before + after == whole
    for name in DEFAULTS:
        turns = [alarm.cleared for alarm in whole if alarm.name == name]
        assert turns == [i % 2 == 1 for i in range(len(turns))]  # raised, cleared, raised, ...


HEALTHY = {
    "prompts": 8, "samples": 64, "errors": 0, "updates": 4, "updates_skipped": 0,
    "survivors": 30, "samples_trained": 30, "ratio_mean": 1.0, "clip_fraction": 0.01, "ess": 0.98,
}  # fmt: skip


@given(
    st.fixed_dictionaries(
        {
            "right_rate": SHARES,
            "reward_mean": SHARES,
            "entropy": POSITIVE,
            "grad_norm": POSITIVE,
            "distinct_right": SHARES,
            "cut_off_rate": st.floats(0, 0.49),
            "largest_prompt_share": st.floats(0, 0.49),
        }
    ),
    st.integers(1, 7),
    st.integers(1, 20),
)
@settings(max_examples=25)
def test_what_stays_as_it_was_and_teaches_something_is_no_alarm(values, right, window) -> None:
    told: list[Alarm] = []
    watcher = alarms(told, window=window)
    scores = [PromptScores((f"p{i}", "", None), right, 8, False) for i in range(8)]
    go([({**HEALTHY, **values}, [], scores)] * 30, watcher, 1)
    assert told == []


def changes(*states: str) -> list[tuple[int, bool]]:
    standing, found = Standing(), []
    for step, state in enumerate(states):
        if standing.change(Reading(0.0, state)):  # type: ignore[arg-type]
            found.append((step, standing.on))
    return found


def test_it_clears_when_it_has_been_well_for_some_steps() -> None:
    assert changes(*["well"] * 9) == []
    assert changes("alarming", *["well"] * (CALM - 1), "alarming", *["well"] * 9) == [
        (0, True),
        (2 * CALM, False),
    ]
    assert changes("alarming", *["well", "between"] * 9) == [(0, True)]
    assert changes("between", "alarming", "alarming") == [(1, True)]


def test_what_is_told_of_it() -> None:
    told: list[Alarm] = []
    watcher = alarms(told, stop=["cut_off"])
    well = ({**HEALTHY, "cut_off_rate": 0.0}, [], None)
    go([({**HEALTHY, "cut_off_rate": 0.9}, [], None)] + [well] * 9, watcher, 1)
    began, cleared = told
    assert (began.step, began.name, began.value, began.threshold) == (1, "cut_off", 0.9, 0.5)
    assert began.stops
    assert began.text.startswith("90% of 64 samples were cut off at sampling.max_tokens. What ")
    assert began.advice.startswith("Raise sampling.max_tokens, or set sampling.stop")
    # 0.3 after the third step from its first: well from then on, for the CALM-th time at
    assert (cleared.step, cleared.cleared, cleared.stops) == (1 + 1 + CALM, True, False)
    assert cleared.text == "share of samples cut off at sampling.max_tokens: 0%"
    assert cleared.advice == ""


def test_an_alarm_that_was_never_told_is_told_after_a_resume() -> None:
    """It was off, or an earlier version had no alarms."""
    told: list[Alarm] = []
    watcher = alarms(told)
    bad = ({**HEALTHY, "cut_off_rate": 0.9}, [], None)
    watcher.replay(numbered([bad] * 3))
    go([bad], watcher, 4)
    assert [(alarm.name, alarm.step) for alarm in told] == [("cut_off", 4)]
