"""Selects from a file of samples: an outcome for each, and what each rule rejected.

read what the rules look at -> select -> write the survivors, a part of the file at a time
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from winnow.algorithms.graded import partly_right, right_alone
from winnow.algorithms.registry import RULES
from winnow.algorithms.rejection import RSO, Gibbs
from winnow.algorithms.selection import (
    SURVIVED,
    AsRecorded,
    Rejection,
    Rule,
    columns_read,
    first_rejections,
)
from winnow.algorithms.spec import Function, parse, show
from winnow.engines.process_state import own_state
from winnow.errors import UserError
from winnow.reporting.observer import Progress
from winnow.reporting.terminal import observing
from winnow.rewards.given import RewardGiven
from winnow.rollouts.export import Form
from winnow.rollouts.outputs import Outputs
from winnow.rollouts.reward_errors import failures
from winnow.rollouts.rewards import columns_of, rescoring
from winnow.rollouts.scoring import Scores, rescore
from winnow.rollouts.selected import Selected, Tally
from winnow.storage.paths import Paths, paths_of, shown
from winnow.storage.policies import many
from winnow.storage.sample_table import SampleTable, read_samples
from winnow.types import Group

OF_PROMPT = ("answer", "data", "messages", "difficulty")
"""Columns of a prompt that a verifier may read, apart from its text."""
_NAMED = re.compile(r" as sample \d+$")
"""The part of a reason that names another sample of the group."""


def select_groups(
    table: SampleTable, rules: Sequence[Rule], seed: int, scores: Scores | None = None
) -> Iterator[tuple[Group, list[Rejection]]]:
    """Every group of a file with its rejections, for `select` and for training alike.

    A group's random numbers follow from the seed and its number in the file, whatever is read at a
    time and whatever rules did with the groups before it.

    Args:
        scores: New scores, instead of the file's.

    Raises:
        UserError: what a rule raises.
    """
    read = columns_read(rules)
    prompts = OF_PROMPT if "prompt" in read else ()
    for number, group in enumerate(table.only({*read, *prompts})):
        if scores is not None:
            own = scores.of(table.rows_of(number))
            group = group.with_(scores=own, right_at=scores.right_at)
        yield group, first_rejections(group, rules, np.random.default_rng([seed, number]))


def select_table(
    table: SampleTable,
    rules: Sequence[Rule],
    *,
    seed: int = 0,
    scores: Scores | None = None,
    pool: bool = False,
    progress: Progress = lambda *_: None,
) -> Selected:
    """Apply rules to every sample of a file; each sees what the ones before it left.

    Args:
        scores: New scores, instead of the file's.
        pool: Whether samples of several policies are taken as one set; those of one run are.

    Raises:
        UserError: samples without a score; several policies, not pooled and not of one run, or
            under a rule for one; what a rule raises.
    """
    _check(table, rules, scores, pool)
    survived = np.zeros(table.rows, dtype=bool)
    reasons = np.zeros(table.rows, dtype=np.int32)
    words = {SURVIVED: 0}
    tallies = [Tally("(no score)"), *(Tally(show(rule)) for rule in rules)]
    left, partly = 0, False
    for number, (group, found) in enumerate(select_groups(table, rules, seed, scores)):
        rows = table.rows_of(number)
        survived[rows] = [rejection is None for rejection in found]
        reasons[rows] = [
            words.setdefault(SURVIVED if rejection is None else rejection[1], len(words))
            for rejection in found
        ]
        _count(tallies, found)
        left += None in found
        partly = partly or partly_right(group)
        if number % 1000 == 0:
            progress("select", number, len(table))
    failed = failures(list(scores.errors.values()), table.rows) if scores is not None else None
    return Selected(
        samples=table.rows,
        prompts=len(table),
        survivors=int(survived.sum()),
        prompts_left=left,
        survived=survived,
        reasons=reasons,
        words=list(words),
        tallies=tallies if tallies[0].removed else tallies[1:],
        notes=[
            *([failed] if failed else []),
            *_pooled(table),
            *(_graded(rules) if partly else ()),
            *_notes(table, rules, tallies),
        ],
        scores=scores,
    )


def _check(table: SampleTable, rules: Sequence[Rule], scores: Scores | None, pool: bool) -> None:
    if scores is None:
        table.need_scores()
    refuse_greedy(table, next((show(rule) for rule in rules if rule.one_policy), None))
    policies = table.policies()
    if len(policies) < 2:
        return
    listed = f"samples of {many(policies)}"
    for rule in rules:
        if rule.one_policy:
            raise UserError(
                "samples", f"{listed}, and {show(rule)} is for one", "give those of one"
            )
    if not pool and table.run is None:
        raise UserError("samples", listed, "give those of one, or --pool to take them as one set")


def kind_of_reason(reason: str) -> str:
    """A reason without the other sample that it names."""
    return _NAMED.sub("", reason)


def refuse_greedy(table: SampleTable, what: str | None) -> None:
    """Raise a `UserError` where a cell needs samples of a distribution and some were greedy.

    Args:
        what: The cell, if there is one.
    """
    if what is not None and 0.0 in table.values("temperature"):
        problem = f"there are samples at temperature 0, and {what} needs them of the whole"
        raise UserError("samples", f"{problem} distribution", "sample at a temperature above 0")


def _count(tallies: Sequence[Tally], rejections: Sequence[Rejection]) -> None:
    """Add a group's rejections to the tallies; a rule's number is one below its place."""
    alive = len(rejections)
    for place, tally in enumerate(tallies):
        lost = [
            rejection[1]
            for rejection in rejections
            if rejection is not None and rejection[0] == place - 1
        ]
        tally.seen += alive
        tally.removed += len(lost)
        tally.reasons.update(map(kind_of_reason, lost))
        tally.prompts_removed += bool(lost) and len(lost) == alive
        alive -= len(lost)


def _pooled(table: SampleTable) -> list[str]:
    policies = table.policies()
    if len(policies) < 2:
        return []
    of = f" of {shown(table.run)}" if table.run is not None else ""
    return [f"samples of {many(policies)}{of} are taken as one set"]


def _graded(rules: Sequence[Rule]) -> list[str]:
    """That rules throw away what rewards between 0 and 1 say."""
    if not (named := right_alone(rules)):
        return []
    return [
        f"rewards between 0 and 1 seen; {', '.join(named)} use{'s' * (len(named) == 1)} only "
        "whether a reward is >= 1; for graded rewards use best or best-worst, or lower right_at "
        "(--right-at)"
    ]


def _notes(table: SampleTable, rules: Sequence[Rule], tallies: Sequence[Tally]) -> list[str]:
    """Notes on whether the survivors are exact samples, and why not."""
    notes = []
    for place, rule in enumerate(rules):
        if isinstance(rule, Gibbs):
            notes.append(_claim(table, rules, place, tallies))
        elif isinstance(rule, RSO):
            notes.append(
                f"{show(rule)}: NOT exact samples from pi*: as published, r_max is the largest "
                "reward among those left, and sampling is without replacement"
            )
        elif isinstance(rule, AsRecorded):
            notes.extend(unselected(table, rule))
    return notes


def unselected(table: SampleTable, rule: AsRecorded) -> list[str]:
    """That samples pass `as-recorded` since the file says nothing of them, as a note."""
    rows = table.rows - table.count("survived", True) - table.count("survived", False)
    if not rows:
        return []
    return [f"{show(rule)}: {rows} samples have no outcome in the file and pass"]


def _claim(table: SampleTable, rules: Sequence[Rule], place: int, tallies: Sequence[Tally]) -> str:
    """How many proposals one `gibbs` accepted, and whether they are exact samples."""
    rule, tally = rules[place], tallies[place + 1]
    assert isinstance(rule, Gibbs)
    before = [show(other) for other in rules[:place] if not other.blind]
    after = [show(other) for other in rules[place + 1 :] if not other.blind]
    gaps, errors = table.gaps(), tallies[0].removed
    against = [
        *(["r_max is only the largest reward seen for each prompt"] * (rule.r_max == "sample")),
        *([f"samples of {gaps} prompts are missing from the file"] * (gaps > 0)),
        *([f"{errors} samples had no score"] * (errors > 0)),
        *([f"{', '.join(before)} selected before it"] * bool(before)),
        *([f"{', '.join(after)} selected among what it accepted"] * bool(after)),
    ]
    accepted = tally.seen - tally.removed
    rate = accepted / tally.seen if tally.seen else 0.0
    what = (
        f"NOT exact samples from pi*: {'; '.join(against)}"
        if against
        else f"exact samples from pi* of {''.join(table.policies()) or 'the policy that sampled'}, "
        f"beta = {rule.beta:g}, if no reward can exceed {rule.r_max:g}"
    )
    return f"{show(rule)}: {tally.seen} proposals, {accepted} accepted ({rate:.4f}); {what}"


@own_state()
def select(
    samples: Paths,
    rules: str | Rule | Function | Sequence[str | Rule | Function] = ("correct",),
    *,
    out: Paths = (),
    form: Form = "auto",
    rejected: bool = False,
    prompts: str | Path | None = None,
    control: bool = False,
    rescore_with: RewardGiven | None = None,
    reward_options: dict[str, Any] | None = None,
    right_at: float | None = None,
    pool: bool = False,
    seed: int = 0,
    quiet: bool = True,
) -> Selected:
    """Select from samples on the disk.

    Args:
        samples: Parquet files or folders: of `winnow sample`, of a run.
        rules: Cells of `select`, as in a recipe, or functions: of (group, alive, rng), or of one
            `sample` (a `SampleView`); each sees what the ones before it left.
        out: Files to write: .parquet (all columns), .jsonl (as other trainers read it).
        form: Of a .jsonl file. `auto`: `messages` where some prompt was a conversation, else
            `prompt-completion`; `preference`: pairs, the survivors being what is chosen.
        rejected: Whether Parquet files are to hold the rejected samples too, with their reasons.
        prompts: A .jsonl file for the rows of the prompts that have survivors, with their
            `pass_rate`: a source of prompts.
        control: Write as many of all prompts beside it, at random.
        rescore_with: A reward to score all samples with first.
        reward_options: Of `rescore_with`.
        right_at: Least reward that is right. Default: as the file says, else 1; 1 for new scores.
        pool: Take samples of several policies as one set, as those of one run folder are.

    Raises:
        UserError: something that the caller can fix; nothing is written then.
    """
    if rescore_with is None and reward_options:
        problem = "there is no reward to rescore with"
        raise UserError("reward_options", problem, "name one with --rescore")
    rules = [rules] if isinstance(rules, str) or callable(rules) else rules
    chosen = [
        parse("rule", r, RULES) if isinstance(r, str) else RULES.adopt("rule", r) for r in rules
    ]
    if not chosen:
        raise UserError("rule", "none is given", "give at least one, such as correct or everything")
    where = None if prompts is None else paths_of(prompts, "prompts")[0]
    outputs = Outputs(paths_of(out, "out"), form, rejected, where, control)
    outputs.check_options(chosen)
    columns = columns_read(chosen)
    with observing(quiet) as observers:
        observers.progress("read", 0, 1)
        scores = None
        read = columns
        if rescore_with is not None:
            read = (
                columns | {"text", "prompt"} | columns_of(rescoring(rescore_with, reward_options))
            )
        table = read_samples(
            paths_of(samples),
            sorted(read),
            why="select",
            optional=[*(OF_PROMPT if "prompt" in read else ()), *sorted(outputs.columns())],
            right_at=right_at,
        )
        outputs.check(table)
        if rescore_with is not None:
            bound = 1.0 if right_at is None else right_at
            scores = rescore(table, rescore_with, bound, reward_options, observers.progress)
        selected = select_table(
            table, chosen, seed=seed, scores=scores, pool=pool, progress=observers.progress
        )
        selected.notes.extend(outputs.write(table, selected, chosen, seed, observers.progress))
    return selected
