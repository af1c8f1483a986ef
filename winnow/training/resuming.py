"""Where a run is resumed: the newest checkpoint of which all is there that the rest of it needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.config.phases import Phase
from winnow.config.schema import Config
from winnow.engines.base import PHASE
from winnow.errors import UserError, number_of
from winnow.rollouts.inputs import Compared, record
from winnow.storage.checkpoints import DROPPED, drop_optimizer
from winnow.storage.digests import Damaged, damage_of
from winnow.storage.paths import shown
from winnow.storage.run_folder import FINAL, RunStore
from winnow.training.budget import budget_spent
from winnow.training.early_stopping import best_of_evaluations, stopped_early
from winnow.training.owed import lost_rows
from winnow.types import Split

Row = Mapping[str, Any]
Which = Callable[[int, Split], bool]
"""Which samples, by step and split."""
UNCHANGED = Compared([])


def _none(number: int, split: Split) -> bool:
    return False


@dataclass(frozen=True)
class ResumePoint:
    """Where a run is resumed.

    Attributes:
        found: The checkpoint and its state; ``None``: the run's start.
        notes: What a person should know of it.
        changed: What of settings and data has.
        others: The samples that are of other settings or data, and so of no use.
    """

    found: tuple[Path, dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()
    changed: Compared = UNCHANGED
    others: Which = _none

    @property
    def step(self) -> int:
        """The last step that is done."""
        return int(self.found[1]["step"]) if self.found else 0

    def begin(self, store: RunStore) -> None:
        """Set aside what is of no use, and record what has changed: when nothing refuses it."""
        store.set_aside(self.step + 1, self.others)
        record(store.folder, self.changed.text)


def resume_point(
    store: RunStore,
    phases: Sequence[Phase],
    config: Config,
    changed: Compared = UNCHANGED,
    extends: Collection[str] = (),
) -> ResumePoint:
    """Find where a run is resumed; checkpoints that are of no use are set aside.

    Args:
        changed: What of settings and data has; its notes come before its own.
        extends: Settings that make it longer where they are raised.

    Raises:
        UserError: a line of metrics.jsonl or evals.jsonl is damaged or missing.
    """
    said: list[str] = []
    patience = config.eval.patience
    found = store.latest_checkpoint(needed_steps(store, phases, patience), said.append)
    point = ResumePoint(found, (*changed.notes, *said))
    rows = [row for row in store.lines("evals.jsonl") if row["step"] <= point.step]
    done_rows = [row for row in store.lines("metrics.jsonl") if row["step"] <= point.step]
    _check_rows(store, point, done_rows, rows)
    stopped = stopped_early(rows, patience) and best_of_evaluations(rows).last == point.step
    spent = budget_spent(done_rows, config.budget)
    if point.step < phases[-1].last and not (stopped or spent):
        _check_resumable(store, found)
        others = _others(phases, point.step) if changed.other else _none
        store.drop_final()  # of an earlier end; made again by the next
        said_last = _resuming(store, phases, point.step, others)
        return ResumePoint(found, (*point.notes, said_last), changed, others)
    if (damage := damage_of(store.folder / FINAL)) is not None:
        store.drop_final()
        said.append(f"{FINAL} is damaged ({damage}): it is made again")
    spent = spent and point.step < phases[-1].last
    early = stopped or spent
    done = f"it stopped at step {point.step}" if early else f"all {point.step} steps are done"
    raised = ("budget" if spent else "eval.patience") if early else None
    raised = raised or next((key for key in extends if key.rpartition(".")[2] == "steps"), None)
    more = f"begin a new run with its model: --set model={shown(found[0])}" if found else ""
    if raised is not None:
        more = f"raise {raised} in {shown(store.folder / 'config.toml')}"
    over = f"{done}, so nothing is trained; for more, {more}"
    return ResumePoint(found, (*changed.notes, *said, over), changed)


def _others(phases: Sequence[Phase], step: int) -> Which:
    """The samples that other settings or data made after a step.

    At the start those of its evaluation too. What was sampled once, before the first update of a
    phase that is under way, stays: the weights that sampled are gone.
    """
    begun = [p for p in phases if p.before < step < p.last and not p.samples_each_step]
    once = {n for phase in begun for n in range(phase.before + 1, phase.last + 1)}

    def others(number: int, split: Split) -> bool:
        later = number > step or step == 0
        return later and not (split == "train" and number in once)

    return others


def _check_rows(
    store: RunStore, point: ResumePoint, done: Sequence[Row], evaluated: Sequence[Row]
) -> None:
    """Raise a `UserError` if rows are missing that were there when a checkpoint was saved.

    A budget, early stopping and what was gained are read from them.
    """
    lacking = {*range(1, point.step + 1)} - {row["step"] for row in done}
    missing = f"the row of step {min(lacking)}" if lacking else ""
    name = "metrics.jsonl"
    if point.found is not None and point.step and not missing:
        name, lost = "evals.jsonl", lost_rows(point.found[1], evaluated)
        missing = f"{number_of(lost, 'row')} that step-{point.step} counts on" if lost else ""
    if missing:
        problem = f"{shown(store.folder / name)} lacks {missing}"
        more = f"or begin a new run with its model: --set model={shown(store.folder)}/checkpoints/"
        remedy = f"restore it from a copy, {more}step-{point.step}"
        raise UserError("resume", problem, remedy)


def _check_resumable(store: RunStore, found: tuple[Path, dict[str, Any]] | None) -> None:
    """Raise a `UserError` if the optimizer's state of a checkpoint was dropped."""
    if found is not None and found[1].get(DROPPED):
        folder = found[0]
        problem = (
            f"{shown(store.folder)} was done with {folder.name}, and the optimizer's state was "
            "dropped then (checkpoint.keep_optimizer, winnow clean), so it cannot be made longer"
        )
        remedy = f"begin a new run with its model: --set model={shown(folder)}"
        raise UserError("resume", problem, remedy)


def _resuming(store: RunStore, phases: Sequence[Phase], step: int, others: Which) -> str:
    """From where the run is resumed, and what that was made after it is used again.

    Samples whose score is missing or an error are scored again. That may change what a step trains
    on, and then later samples are set aside; so none after them are counted.
    """
    said = f"resuming from {f'step-{step}' if step else 'the start'}"
    steps, samples, scored, expected = [], 0, 0, 0
    for number, (count, rewarded) in sorted(store.kept("train", step).items()):
        if others(number, "train"):
            break
        phase = next((phase for phase in phases if number <= phase.last), phases[-1])
        if phase.file is not None:
            break
        config = phase.config
        steps.append(number)
        samples, scored = samples + count, scored + rewarded
        expected += config.prompts_per_step * config.samples_per_prompt
        if rewarded < count:
            break
    if steps:
        made = f"{samples} samples" if samples >= expected else f"{samples} of {expected} samples"
        said += f"; {made} of {_numbers(steps)} are reused"
        if scored < samples:
            said += f", {scored} of them with their scores"
    after = step if step else -1
    if evaluations := sorted(n for n in store.kept("eval", after) if not others(n, "eval")):
        said += f"; samples of the evaluation after {_numbers(evaluations)} are reused"
    return said


def _numbers(steps: Sequence[int]) -> str:
    """`step 3`, `steps 3 to 5`."""
    first, last = steps[0], steps[-1]
    if first == last:
        return f"step {first}"
    together = len(steps) == last - first + 1
    return f"steps {first} to {last}" if together else f"steps {', '.join(map(str, steps))}"


def needed_steps(
    store: RunStore, phases: Sequence[Phase], patience: int
) -> Callable[[int], Collection[int]]:
    """What gives the steps of other checkpoints that are read when one is resumed from."""
    evaluations = store.lines("evals.jsonl") if patience else []

    def needed(step: int) -> set[int]:
        best = best_of_evaluations([row for row in evaluations if row["step"] <= step]).step
        begun = {
            phase.before
            for phase in phases
            if phase.refers
            and phase.config.reference == PHASE
            and not phase.begins_at_start
            and phase.before < step < phase.last
        }
        return (begun | ({best} if best is not None else set())) - {step}

    return needed


def drop_optimizers(store: RunStore) -> None:
    """Remove the optimizer's state from every checkpoint of a run that is done.

    Raises:
        UserError: a checkpoint is damaged.
    """
    for _, folder in store.checkpoints():
        try:
            drop_optimizer(folder)
        except Damaged as damage:
            problem = f"checkpoint {folder.name} is damaged ({damage})"
            raise UserError("checkpoint.keep_optimizer", problem, "remove it") from damage
