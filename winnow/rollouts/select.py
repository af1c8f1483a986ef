"""From a file of draws to its survivors, each with its reason; what was lost, rule by rule.

read what the rules look at -> select -> write what survives, a part of the file at a time
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from winnow.algorithms.rejection import RSO, Gibbs
from winnow.algorithms.selection import KEPT, AsRecorded, Rule, sieve
from winnow.algorithms.spec import show
from winnow.errors import UserError
from winnow.rewards.base import Reward
from winnow.storage.sample_table import DrawTable
from winnow.types import Prompt, Score

Progress = Callable[[str, int, int], None]
OF_PROMPT = ("answer", "data", "messages", "difficulty")
"""Columns that a verifier may want of a prompt, beside its text."""
_BATCH = 1024
"""Draws that a verifier is given at a time."""
_NAMED = re.compile(r" as draw \d+$")
"""What a rule says of another draw of the group."""


@dataclass
class Tally:
    """What one rule did.

    Attributes:
        seen: Draws alive before it.
        lost: Of those, the ones that it rejected.
        prompts_lost: Prompts that lost their last draw to it.
        reasons: How often it said what, without the draw that it named.
    """

    rule: str
    seen: int = 0
    lost: int = 0
    prompts_lost: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Sifted:
    """The verdicts on a file of draws.

    Attributes:
        kept: For each row of the files, in their order, whether it survives.
        reasons: For each row the number of its reason in `words`.
        words: Reasons; the first is that of survivors.
        tallies: For each rule what it did, verifier errors first where there were any.
        notes: What a person should know: whether a sample is exact, and why not.
        scores: New rewards and errors of each row, where the draws were scored anew.
    """

    draws: int
    prompts: int
    survivors: int
    prompts_left: int
    kept: NDArray[np.bool_]
    reasons: NDArray[np.int32]
    words: list[str]
    tallies: list[Tally]
    notes: list[str]
    scores: Scores | None


@dataclass(frozen=True)
class Scores:
    """Rewards of all rows, in the order of the files; NaN beside an error."""

    rewards: NDArray[np.float64]
    errors: dict[int, str]
    right_at: float

    def of(self, rows: NDArray[np.int64]) -> tuple[Score, ...]:
        return tuple(
            Score.failed(self.errors[row]) if row in self.errors else Score(value)
            for row, value in zip(rows.tolist(), self.rewards[rows].tolist(), strict=True)
        )


def rescore(
    table: DrawTable, reward: Reward, right_at: float, progress: Progress = lambda *_: None
) -> Scores:
    """Score every draw of a file anew; nothing is drawn.

    Raises:
        UserError: every verdict was an error.
    """
    rewards = np.full(table.rows, np.nan)
    errors: dict[int, str] = {}
    items: list[tuple[Prompt, str]] = []
    rows: list[int] = []

    def judge() -> None:
        for row, score in zip(rows, reward.score(items), strict=True):
            if score.value is None:
                errors[row] = score.error or ""
            else:
                rewards[row] = score.value
        items.clear()
        rows.clear()

    for number, group in enumerate(table):
        items += [(group.prompt, draw.text) for draw in group.draws]
        rows += table.rows_of(number).tolist()
        if len(items) >= _BATCH:
            judge()
            progress("score", number + 1, len(table))
    if items:
        judge()
    if len(errors) == table.rows:
        raise UserError(f"reward: every verdict was an error, e.g. {next(iter(errors.values()))}")
    return Scores(rewards, errors, right_at)


def sift(
    table: DrawTable,
    rules: Sequence[Rule],
    *,
    seed: int = 0,
    scores: Scores | None = None,
    pool: bool = False,
    progress: Progress = lambda *_: None,
) -> Sifted:
    """Judge every draw of a file by rules, each of which sees what the ones before it left.

    Args:
        scores: New scores, which take the place of the file's.
        pool: Whether draws of several policies may stand in for each other.

    Raises:
        UserError: draws without a score; several policies, not pooled, or under a rule that takes
            the draws to be of one; what a rule raises.
    """
    _check(table, rules, scores, pool)
    kept = np.zeros(table.rows, dtype=bool)
    reasons = np.zeros(table.rows, dtype=np.int32)
    words = {KEPT: 0}
    tallies = [Tally("(no verdict)"), *(Tally(show(rule)) for rule in rules)]
    rng = np.random.default_rng(seed)
    left = 0
    for number, group in enumerate(table):
        rows = table.rows_of(number)
        if scores is not None:
            group = group.with_(scores=scores.of(rows), right_at=scores.right_at)
        fates = sieve(group, rules, rng)
        kept[rows] = [fate is None for fate in fates]
        reasons[rows] = [
            words.setdefault(KEPT if fate is None else fate[1], len(words)) for fate in fates
        ]
        _count(tallies, fates)
        left += None in fates
        if number % 1000 == 0:
            progress("select", number, len(table))
    return Sifted(
        draws=table.rows,
        prompts=len(table),
        survivors=int(kept.sum()),
        prompts_left=left,
        kept=kept,
        reasons=reasons,
        words=list(words),
        tallies=tallies if tallies[0].lost else tallies[1:],
        notes=_notes(table, rules, tallies),
        scores=scores,
    )


def _check(table: DrawTable, rules: Sequence[Rule], scores: Scores | None, pool: bool) -> None:
    unscored = 0 if scores is not None else table.unscored()
    if unscored:
        raise UserError(
            f"draws: {unscored} of {table.rows} draws have no score; score them with --rescore"
        )
    policies = table.policies()
    if len(policies) < 2:
        return
    listed = f"draws of {len(policies)} policies ({'; '.join(policies)})"
    for rule in rules:
        if getattr(rule, "one_policy", False):
            raise UserError(f"draws: {listed}, and {show(rule)} takes them all to be of one")
    if not pool:
        raise UserError(f"draws: {listed}; --pool takes them as one set")


def _count(tallies: Sequence[Tally], fates: Sequence[tuple[int, str] | None]) -> None:
    """Add a group's fates to what each rule did; a rule's number is one below its place."""
    alive = len(fates)
    for place, tally in enumerate(tallies):
        lost = [fate[1] for fate in fates if fate is not None and fate[0] == place - 1]
        tally.seen += alive
        tally.lost += len(lost)
        tally.reasons.update(_NAMED.sub("", reason) for reason in lost)
        tally.prompts_lost += bool(lost) and len(lost) == alive
        alive -= len(lost)


def _notes(table: DrawTable, rules: Sequence[Rule], tallies: Sequence[Tally]) -> list[str]:
    """What a sample may be called, and what stands against it."""
    notes = []
    unjudged = table.rows - table.count("kept", True) - table.count("kept", False)
    for place, rule in enumerate(rules):
        if isinstance(rule, Gibbs):
            notes.append(_claim(table, rules, place, tallies))
        elif isinstance(rule, RSO):
            notes.append(
                f"{show(rule)}: NOT exact draws from pi*: as published, r_max is the largest "
                "reward among those left, and none is drawn twice"
            )
        elif isinstance(rule, AsRecorded) and unjudged:
            notes.append(f"{show(rule)}: {unjudged} draws have no verdict in the file and pass it")
    return notes


def _claim(table: DrawTable, rules: Sequence[Rule], place: int, tallies: Sequence[Tally]) -> str:
    """How many proposals one `gibbs` accepted, and what they are worth."""
    rule, tally = rules[place], tallies[place + 1]
    assert isinstance(rule, Gibbs)
    before = [show(other) for other in rules[:place] if not _blind(other)]
    after = [show(other) for other in rules[place + 1 :] if not _blind(other)]
    gaps, errors = table.gaps(), tallies[0].lost
    against = [
        *(["r_max is only the largest reward seen for each prompt"] * (rule.r_max == "sample")),
        *([f"draws of {gaps} prompts are missing from the file"] * (gaps > 0)),
        *([f"{errors} draws had no verdict"] * (errors > 0)),
        *([f"{', '.join(before)} chose before it"] * bool(before)),
        *([f"{', '.join(after)} chose among what it accepted"] * bool(after)),
    ]
    accepted = tally.seen - tally.lost
    rate = accepted / tally.seen if tally.seen else 0.0
    what = (
        f"NOT exact draws from pi*: {'; '.join(against)}"
        if against
        else f"exact draws from pi* of {''.join(table.policies()) or 'what drew them'}, "
        f"beta = {rule.beta:g}, if no reward can exceed {rule.r_max:g}"
    )
    return f"{show(rule)}: {tally.seen} proposals, {accepted} accepted ({rate:.4f}); {what}"


def _blind(rule: Rule) -> bool:
    return getattr(rule, "blind", False)
