"""A file of draws as what the loop trains on: nothing is drawn, nothing is scored.

read -> select -> weigh, once for the whole file; then passes over it, each in its own order
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from winnow.algorithms.advantages import weigh
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.selection import AsRecorded, judged
from winnow.config.phases import File, Phase
from winnow.config.schema import Config
from winnow.errors import UserError
from winnow.reporting.timing import Stopwatch
from winnow.rollouts.annotate import Wanted
from winnow.rollouts.select import fates
from winnow.storage.run_folder import RunStore
from winnow.storage.sample_table import DrawTable, read_draws
from winnow.training.sources import Passes
from winnow.types import Batch, Group, Verdict

Complete = Callable[[Group], Group]
"""Fills in token ids that a file does not hold."""

_FOR_TRAINING = ("prompt", "text")
_TOKENS = (
    "prompt_ids",
    "messages",
    "answer",
    "difficulty",
    "tokens",
    "token_ids",
    "logprobs",
    "entropies",
    "finish_reason",
)


def open_file(config: Config, algorithm: Algorithm) -> File:
    """Read a config's file of scored draws, its tokens too; see that the algorithm can use them.

    Raises:
        UserError: what `read_draws` raises; draws without a score; log-probs or a temperature that
            the algorithm's ratio cannot use; draws of several policies where it takes one.
    """
    path = config.draws
    assert path is not None
    table = read_draws(
        [path],
        [*_FOR_TRAINING, "reward"],
        why="training",
        optional=_TOKENS,
        right_at=config.reward.right_at,
    )
    table.need_scores(path)
    policies = table.policies()
    one = algorithm.needs_one_policy
    if one and len(policies) > 1:
        problem = (
            f"{path} has {len(policies)} policies ({'; '.join(policies)}), and {one} is for one"
        )
        raise UserError("draws", problem, "give the draws of one")
    if "old" in algorithm.needs:
        _check_ratio(path, table, config.sampling.temperature)
    notes = []
    if len(policies) > 1:
        notes.append(f"{path}: draws of {len(policies)} policies: {'; '.join(policies)}")
    out = table.count("kept", False)
    if out:
        notes.append(f"{path}: {out} of {table.rows} draws were rejected before and stay out")
    return File(path, table, tuple(notes))


def _check_ratio(path: str, table: DrawTable, temperature: float) -> None:
    advice = "use an algorithm without a ratio (rft, raft, gibbs, snis)"
    for column, what in (("logprobs", "log-probs"), ("token_ids", "token ids")):
        if column not in table or table.empty_lists(column):
            problem = f"{path} lacks the {what} of its draws, which this loss divides by"
            raise UserError("draws", problem, advice)
    if table.count("truncated", True):
        problem = f"{path} was drawn with top-k or top-p, which change what this loss divides by"
        raise UserError("draws", problem, advice)
    other = [heat for heat in table.values("temperature") if heat != temperature]
    if other:
        raise UserError(
            "draws",
            f"{path} was drawn at temperature {other[0]:g}, and this run is at {temperature:g}",
            f"set sampling.temperature = {other[0]:g}, or {advice}",
        )


class Recorded(Passes):
    """Groups of a file, selected and weighed as a whole; `epochs` passes over all of them."""

    def __init__(
        self,
        phase: Phase,
        file: File,
        complete: Complete,
        *,
        wanted: Wanted,
        store: RunStore,
        watch: Stopwatch,
    ) -> None:
        super().__init__(phase)
        self._table, self._complete, self._store, self._watch = file.table, complete, store, watch
        self._prompts_per_step, self._wanted = phase.config.prompts_per_step, wanted
        with watch("select"):
            self._judged = judge(self._table, phase.algorithm, phase.config.seed)

    def groups(self, step: int) -> Batch:
        """Groups of a step; never fresh: their draws were made elsewhere."""
        epoch, chosen = self.chosen(step, len(self._table), self._prompts_per_step)
        with self._watch("draw"):
            groups = [
                self._complete(self._table.group(i)).with_(
                    verdicts=self._judged[i].verdicts, weights=self._judged[i].weights, step=step
                )
                for i in chosen
            ]
        with self._watch("signals"):
            groups = self._wanted.fill(groups, weighing=False)
        if epoch == 0:
            with self._watch("store"):
                self._store.write_draws("train", step, groups)
        return Batch(groups, fresh=False)


@dataclass(frozen=True)
class Judged:
    """What selection and weighing said of a group."""

    verdicts: tuple[Verdict, ...]
    weights: tuple[float, ...]


def judge(table: DrawTable, algorithm: Algorithm, seed: int) -> list[Judged]:
    """Verdicts and weights of every group of a file.

    A draw that an earlier selection rejected stays out; the algorithm's own rules judge the others.
    """
    rules = (AsRecorded(), *algorithm.select)
    chosen = [judged(group, found) for group, found in fates(table, rules, seed)]
    weighed = weigh(chosen, algorithm.advantage, algorithm.reward_scale)
    return [Judged(group.verdicts, group.weights) for group in weighed]
