"""Hostile completions are wrong and right ones are right, by every built-in reward of texts.

A few hundred of each here; ten thousand hostile and two thousand right ones in `make torture`.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from pathlib import Path

import pytest

from tests.torture import completions
from tests.torture.completions import Case
from tests.torture.table import Outcome, Row, Tally
from tests.torture.watch import ends
from winnow.rewards.factory import make_reward
from winnow.types import Prompt, Score

NAMES = ("number", "gsm8k", "math", "exact", "regex")
IN_TIME = 10.0
"""Seconds for a sample, `reward.time_limit`'s default."""
MOST_ERRORS = 0.0
"""The part of the hostile completions that `math` may give up on; no other reward may."""


def scored(name: str, cases: list[Case]) -> list[tuple[Case, Score]]:
    """Each with its score: by one reward for each pattern or set of options."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.pattern].append(case)
    found: list[tuple[Case, Score]] = []
    for pattern, mine in groups.items():
        options: dict[str, object] = {"pattern": pattern} if pattern else {}
        options |= {"ignore_case": True} if name == "exact" else {}
        limit = IN_TIME if name == "math" else 10.0
        reward = make_reward(name, options=options, workers=2, time_limit=limit)
        try:
            for start in range(0, len(mine), 100):
                part = mine[start : start + 100]
                items = [(Prompt("p", "", case.answer), case.completion) for case in part]
                scores = ends(functools.partial(reward.score, items), 1200)
                found += zip(part, scores, strict=True)
        finally:
            reward.close()
    return found


def check_hostile(name: str, count: int, folder: Path, tally: Tally) -> None:
    """All are wrong; none is run; few are errors."""
    row = Row[f"HOSTILE_{name.upper()}"]
    canary = folder / "canary"
    cases = [completions.hostile(name, seed, str(canary)) for seed in range(count)]
    wrong, told = [], []
    with tally.trial(row, Outcome.WRONG, 0):
        judged = scored(name, cases)
    for case, score in judged:
        late = str(score.error).startswith("no score within")
        if score.value != 0.0:
            (told if late else wrong).append(
                (case.family, case.answer, case.completion[:200], score)
            )
    tally.count(row, Outcome.UNHARMED, count - len(wrong) - len(told))
    tally.count(row, Outcome.TOLD, len(told))
    tally.count(row, Outcome.WRONG, len(wrong))
    assert not wrong, (len(wrong), wrong[:5])
    assert not canary.exists()
    assert len(told) <= (MOST_ERRORS * count if name == "math" else 0), (len(told), told[:20])


def check_right(name: str, count: int, tally: Tally) -> None:
    made = (completions.right(name, seed) for seed in itertools.count())
    cases = list(itertools.islice((case for case in made if case is not None), count))
    bad = [(case, score) for case, score in scored(name, cases) if score != Score(1.0)]
    row = Row[f"RIGHT_{name.upper()}"]
    tally.count(row, Outcome.UNHARMED, count - len(bad))
    tally.count(row, Outcome.WRONG, len(bad))
    assert not bad, (len(bad), bad[:5])


@pytest.mark.parametrize("name", NAMES)
def test_hostile_completions_are_wrong(name: str, tmp_path: Path, tally: Tally) -> None:
    check_hostile(name, 200, tmp_path, tally)


@pytest.mark.parametrize("name", NAMES)
def test_right_completions_are_right(name: str, tally: Tally) -> None:
    check_right(name, 100, tally)


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_ten_thousand_hostile_completions(name: str, tmp_path: Path, tally: Tally) -> None:
    check_hostile(name, 10_000, tmp_path, tally)


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_two_thousand_right_completions(name: str, tally: Tally) -> None:
    check_right(name, 2000, tally)
