"""What trackers are told, as flat rows of numbers and as tables. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice, zip_longest
from typing import Any

from winnow.reporting.events import RunEnd
from winnow.reporting.metrics import Evaluation
from winnow.types import Group, Sample, Score

Row = Sequence[str | float | bool | None]

COLUMNS = ("prompt", "completion", "answer", "reward", "right", "finish_reason")
"""Of a table of samples."""
MOST = 64
"""Samples of an evaluation that a table has."""
_LONGEST = 2000
"""Characters of a text in a table."""


def flat(values: Mapping[str, Any], join: str = "/", above: str = "") -> dict[str, Any]:
    """Nested tables as one: `{"seconds": {"update": 1.0}}` is `{"seconds/update": 1.0}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{join}{key}" if above else str(key)
        found |= flat(value, join, name) if isinstance(value, Mapping) else {name: value}
    return found


def numbers(values: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """The numbers in nested tables, by their flat names, but for the step that they are of."""
    return {
        key: value
        for key, value in flat(
            {key: value for key, value in values.items() if key != "step"}, above=above
        ).items()
        if isinstance(value, int | float)
    }


def of_evaluation(evaluation: Evaluation) -> dict[str, float]:
    """Its numbers, below its split: `eval/accuracy`, `eval/pass_at_k/4/value`."""
    told = asdict(evaluation)
    told["pass_at_k"] = {
        one["k"]: {key: value for key, value in one.items() if key != "k"}
        for one in told["pass_at_k"]
    }
    return numbers(told, evaluation.split)


def of_result(end: RunEnd) -> dict[str, float]:
    """What a run came to: `result/before`, `result/after`, `result/gain`, the rewards likewise."""
    return numbers(
        {
            "before": end.before,
            "after": end.after,
            "gain": end.gain,
            "gain_low": end.gain_low,
            "gain_high": end.gain_high,
            "reward_before": end.reward_before,
            "reward_after": end.reward_after,
            "reward_gain": end.reward_gain,
            "reward_gain_low": end.reward_gain_low,
            "reward_gain_high": end.reward_gain_high,
        },
        "result",
    )


def of_samples(groups: Sequence[Group]) -> list[Row]:
    """The first sample of each prompt, then the second of each, `MOST` in all."""
    return [
        (
            cut(group.prompt.text),
            cut(sample.text),
            None if group.prompt.answer is None else cut(group.prompt.answer),
            score.value,
            score.right(group.right_at),
            sample.finish_reason,
        )
        for group, sample, score in islice(_in_turn(groups), MOST)
    ]


def _in_turn(groups: Sequence[Group]) -> Iterator[tuple[Group, Sample, Score]]:
    each = [
        [(group, *one) for one in zip(group.samples, group.scores, strict=True)] for group in groups
    ]
    for turn in zip_longest(*each):
        yield from (one for one in turn if one is not None)


def cut(text: str) -> str:
    """A text, or the beginning of a long one and how much is missing."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} [... {len(text) - _LONGEST} more characters]"
