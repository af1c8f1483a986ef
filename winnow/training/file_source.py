"""A file of samples as a source of training: nothing is sampled or scored.

read -> select -> advantages, once for the whole file; then passes over it, each in its own order
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages, remark
from winnow.algorithms.selection import AsRecorded, columns_read, with_rejections
from winnow.algorithms.table import ALGORITHMS
from winnow.config.phases import File, Phase
from winnow.config.schema import Config
from winnow.errors import UserError
from winnow.rollouts.annotate import Annotator
from winnow.rollouts.context import Context
from winnow.rollouts.select import refuse_greedy, select_groups, unselected
from winnow.storage.sample_table import SampleTable, read_samples
from winnow.training.pair_file import read_pairs
from winnow.training.retokenise import Retokeniser
from winnow.training.sources import Passes
from winnow.types import Batch, Outcome

_FOR_TRAINING = ("prompt", "text")
_NOT_GUESSED = frozenset({"finish_reason"})
"""Columns without which a rule that reads them would let everything pass."""
_TOKENS = (
    "prompt_ids",
    "messages",
    "data",
    "answer",
    "difficulty",
    "tokens",
    "token_ids",
    "token_ends",
    "logprobs",
    "entropies",
    "finish_reason",
    "reward_parts",
)


def open_file(config: Config, algorithm: Algorithm) -> File:
    """Read a config's file of scored samples, and check that the algorithm can use them.

    Raises:
        UserError: what `read_samples` raises; samples without a score; log-probs or a temperature
            that the algorithm's ratio cannot use; samples of several policies where it takes one.
    """
    try:
        return _opened(str(config.samples_file), config, algorithm)
    except UserError as error:
        raise error.with_(setting="samples_file") from error


def _opened(path: str, config: Config, algorithm: Algorithm) -> File:
    table = _read(path, config.reward.right_at, columns_read(algorithm.select))
    table.need_scores(path)
    policies = table.policies()
    one = algorithm.needs_one_policy
    if one and len(policies) > 1:
        problem = (
            f"{path} has {len(policies)} policies ({'; '.join(policies)}), and {one} is for one"
        )
        raise UserError("samples_file", problem, "give the samples of one")
    refuse_greedy(table, one)
    if "old" in algorithm.needs:
        _check_ratio(path, table, config.sampling.temperature)
    notes = []
    if len(policies) > 1:
        notes.append(f"{path}: samples of {len(policies)} policies: {'; '.join(policies)}")
    out = table.count("survived", False)
    if out:
        notes.append(f"{path}: {out} of {table.rows} samples were rejected before and stay out")
    for rule in algorithm.select:
        notes += unselected(table, rule) if isinstance(rule, AsRecorded) else []
    clashes = table.clashes()
    if clashes:
        group, text = clashes[0]
        notes.append(
            f"{path}: {len(clashes)} of {len(table)} prompts have one text with different rewards, "
            f"such as {table.group(group).prompt.id!r}: {text[-60:]!r}; a pair of equal texts "
            "teaches nothing, and other algorithms learn both at once"
        )
    return File(path, table, tuple(notes))


def _read(path: str, right_at: float | None, columns: Collection[str]) -> SampleTable:
    """The samples of a file or folder, or the pairs of a .jsonl file.

    Args:
        columns: What the rules read.
    """
    more = sorted(set(columns) & _NOT_GUESSED)
    if path.endswith(".jsonl"):
        if more:
            problem = f"{path} holds pairs, which have no {', '.join(more)}, which a rule reads"
            raise UserError("samples_file", problem, "leave the rule out")
        return read_pairs(path, right_at)
    return read_samples(
        [path],
        [*_FOR_TRAINING, "reward", *more],
        why="training",
        optional=(*_TOKENS, "data") if "prompt" in columns else _TOKENS,
        right_at=right_at,
    )


def _check_ratio(path: str, table: SampleTable, temperature: float) -> None:
    rows = ", ".join(name for name, row in ALGORITHMS.items() if "old" not in row.needs)
    advice = f"use an algorithm without a ratio ({rows})"
    for column, what in (("logprobs", "log-probs"), ("token_ids", "token ids")):
        if column not in table or table.empty_lists(column):
            problem = f"{path} lacks the {what} of its samples, which this loss divides by"
            raise UserError("samples_file", problem, advice)
    if table.count("truncated", True):
        problem = f"{path} was sampled with top-k or top-p, which change what this loss divides by"
        raise UserError("samples_file", problem, advice)
    if table.not_finite("logprobs"):
        problem = f"{path} has log-probs that are NaN or infinite, which this loss divides by"
        raise UserError("samples_file", problem, f"leave those samples out, or {advice}")
    other = [heat for heat in table.values("temperature") if heat != temperature]
    if other:
        raise UserError(
            "samples_file",
            f"{path} was sampled at temperature {other[0]:g}, and this run is at {temperature:g}",
            f"set sampling.temperature = {other[0]:g}, or {advice}",
        )


class Recorded(Passes):
    """Groups of a file, selected once; `epochs` passes over all of them."""

    def __init__(
        self,
        phase: Phase,
        file: File,
        complete: Retokeniser,
        context: Context,
        annotator: Annotator,
    ) -> None:
        super().__init__(phase)
        self._table, self._complete, self._annotator = file.table, complete, annotator
        self._store, self._watch = context.store, context.watch
        self._prompts_per_step = phase.config.prompts_per_step
        with self._watch("select"):
            row = phase.algorithm
            self._selected, said = select_all(self._table, row, phase.config.seed)
        if said is not None:
            context.observers.note(said)

    def groups(self, step: int) -> Batch:
        """Groups of a step; never fresh: their samples were made elsewhere."""
        epoch, chosen = self.chosen(step, len(self._table), self._prompts_per_step)
        with self._watch("sample"):
            recorded = [self._table.group(i) for i in chosen]
            groups = [
                self._complete(group).with_(
                    outcomes=self._selected[i].outcomes,
                    advantages=self._selected[i].advantages,
                    step=step,
                )
                for i, group in zip(chosen, recorded, strict=True)
            ]
            rate = self._complete.rate(recorded, groups)
        with self._watch("annotate"):
            groups = self._annotator.fill(groups, for_advantages=False)
        if epoch == 0:
            with self._watch("store"):
                self._store.write_samples("train", step, groups)
        return Batch(groups, fresh=False, measures={"retokenised_rate": rate})


@dataclass(frozen=True)
class GroupSelection:
    """The outcomes and advantages of a group."""

    outcomes: tuple[Outcome, ...]
    advantages: tuple[float, ...]


def select_all(
    table: SampleTable, algorithm: Algorithm, seed: int
) -> tuple[list[GroupSelection], str | None]:
    """Outcomes and advantages of every group of a file, and the advantage's remark on the file.

    A sample that an earlier selection rejected stays out; the algorithm's own rules apply to the
    others.
    """
    rules = (AsRecorded(), *algorithm.select)
    chosen = [with_rejections(group, found) for group, found in select_groups(table, rules, seed)]
    advantage, scale = algorithm.advantage, algorithm.reward_scale
    ready = assign_advantages(chosen, advantage, scale)
    selected = [GroupSelection(group.outcomes, group.advantages) for group in ready]
    return selected, remark(chosen, advantage, scale)
