"""A run, from its config or folder to its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from winnow.algorithms.algorithm import Algorithm
from winnow.config.located import located_config, naming_places
from winnow.config.recipe import load_folder, naming_folder
from winnow.config.schema import Config
from winnow.engines.base import Sampler
from winnow.engines.factory import settled
from winnow.errors import OwnCodeError, Stopped, UserError, WinnowError
from winnow.evaluation.gain import gain_between
from winnow.reporting.events import RunEnd, RunStart
from winnow.reporting.metrics import Metrics
from winnow.reporting.metrics_file import MetricsFile
from winnow.reporting.observer import Observers
from winnow.reporting.trackers.factory import make_trackers
from winnow.rewards.given import RewardGiven
from winnow.rollouts.inputs import compared
from winnow.rollouts.rewards import from_judge, otherwise_named, reward_for
from winnow.storage.atomic import and_then
from winnow.storage.lock import FolderLock
from winnow.storage.paths import located, shown
from winnow.storage.run_folder import FINAL, RunStore
from winnow.training.budget import spent_by
from winnow.training.early_stopping import chosen_checkpoint, reported
from winnow.training.loaded import Run
from winnow.training.loop import train as run_loop
from winnow.training.report import write_report
from winnow.training.resuming import ResumePoint, drop_optimizers, resume_point
from winnow.training.setup import Plan, assemble, plan
from winnow.training.summary import opening, told
from winnow.training.watching import alarms_of


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run.

    Attributes:
        folder: The run folder, with every sample.
        checkpoint: The model it ends with; loads with `AutoModelForCausalLM.from_pretrained`. The
            best with early stopping, the final one where weights were averaged or merged.
        metrics: The rows of metrics.jsonl.
        before, after: Held-out accuracy of the start and of that model; ``None`` without any
            held-out prompts. With early stopping on test prompts, which had no part in choosing the
            checkpoint, if `tested`; else on those by which it is the best, so too high.
        gain, gain_low, gain_high: Accuracy after minus before over the same prompts, and its 95 %
            interval, paired (`winnow.evaluation.gain`); ``None`` without any, or without their
            samples.
        tested: Whether `after` is free of choice: without early stopping, or on test prompts.
        selected: With early stopping, accuracy of the chosen checkpoint on the prompts by which it
            is the best, so too high; ``None`` without.
        evaluations: Among how many it is the best; ``None`` without early stopping.
        reward_before, reward_after: Held-out mean reward where `before` and `after` are from.
        reward_gain, reward_gain_low, reward_gain_high: Its difference over the same prompts, and
            the 95 % interval, paired; ``None`` as `gain`.
        left_out: Held-out prompts that have no score before or after; no gain counts them.
        report: The page of the run; ``None`` if the settings want none, or it cannot be written.
    """

    folder: Path
    checkpoint: Path
    metrics: list[Metrics]
    before: float | None
    after: float | None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    tested: bool = True
    selected: float | None = None
    evaluations: int | None = None
    reward_before: float | None = None
    reward_after: float | None = None
    reward_gain: float | None = None
    reward_gain_low: float | None = None
    reward_gain_high: float | None = None
    left_out: int = 0
    report: Path | None = None

    def __repr__(self) -> str:
        return told(self)

    @property
    def run(self) -> Run:
        """Everything that is in the folder."""
        return Run(self.folder)

    def frame(self) -> Any:
        """`Run.frame`: the metrics as a pandas DataFrame."""
        return self.run.frame()

    def plot(self) -> Any:
        """`Run.plot`: a Matplotlib figure."""
        return self.run.plot()

    def _repr_html_(self) -> str:
        return self.run._repr_html_()


def run(
    config: Config | None = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    observers: Observers,
    reward: RewardGiven | None = None,
    algorithm: Algorithm | None = None,
    accept_changes: bool = False,
) -> Result:
    """Run a config to its end, or resume a run folder.

    Args:
        accept_changes: Whether a run is resumed whose settings or data have changed.

    Raises:
        UserError: what the caller can fix; another process writes to the folder.
        WinnowError: the run had to stop.
    """
    with naming_places(config), FolderLock() as lock:
        if resume is not None:
            out = RunStore.open(located(resume, "resume")).folder
            config = load_folder(out)
            lock.take(out)
        else:
            assert config is not None
            assert out is not None
            out, config = located(out, "out"), located_config(config)
            RunStore.refuse(out)
        with naming_folder(out) if resume is not None else nullcontext():
            checked = plan(config, algorithm, resumed=resume is not None)
            checked = replace(checked, config=settled(config))
        point = None if resume is None else _resumed(checked, RunStore(out), accept_changes)
        start = _start(checked, out, point)
        observers.trackers = make_trackers(config.trackers, observers.note)
        prompts = checked.prompts
        first = next(iter(prompts.train or prompts.held_out), None) if resume is None else None
        again = f"winnow train --resume {shown(out)}"
        with (
            reward_for(config, reward, first, folder=out) as verifier,
            observers.running(start),
            and_then(out, f"run {again}"),
        ):
            with _saying_how_to_resume(out, algorithm):
                runner = assemble(checked, verifier, observers, out=out, lock=lock, point=point)
                store = runner.context.store
                if point is not None:
                    point.begin(store)
                    for note in () if runner.over else otherwise_named(config, reward):
                        observers.note(note)
                observers.records = [MetricsFile(store.append)]
                done = point.step if point else 0
                observers.watchers = alarms_of(config, checked.phases, store, observers, done)
                observers.check()
                with _ending(runner.context.sampler, observers):
                    for made in runner.runs():
                        run_loop(made)
                    runner.finish()
                if not config.checkpoint.keep_optimizer:
                    drop_optimizers(store)
            result = result_of(out, observers.note)
            if result.metrics and not any(row["updates"] for row in result.metrics):
                observers.note(
                    "no step had an update: the model is the one that the run began with"
                )
            if config.report:
                result = replace(result, report=_reported(out, observers))
            observers.done(_end(result))
    return result


@contextmanager
def _saying_how_to_resume(folder: Path, algorithm: Algorithm | None) -> Iterator[None]:
    """In the block, what ends a run that has begun says how to go on."""

    def begun() -> bool:
        return (folder / "config.toml").is_file()

    again = f"resume: winnow train --resume {shown(folder)}"
    try:
        yield
    except OwnCodeError as error:
        if begun():
            error.add_note(f"what was sampled is kept; resume: {_again(folder, algorithm)}")
        raise
    except KeyboardInterrupt as stop:
        raise Stopped(f"stopped{f'; {again}' if begun() else ' before it began'}") from stop
    except UserError as error:
        if from_judge(error) and begun():
            error.add_note(again)
        raise


@contextmanager
def _ending(sampler: Sampler, observers: Observers) -> Iterator[None]:
    """After the block, however it ends, the sampler is let go of and has said what it has to."""
    try:
        yield
    finally:
        sampler.close()
        for note in sampler.notes():
            observers.note(note)


def _resumed(checked: Plan, store: RunStore, accept_changes: bool) -> ResumePoint:
    """Where a run is resumed, and what has changed since it was begun."""
    accept = accept_changes or not store.begun  # nothing is of other settings
    longer = checked.extends
    changed = compared(store.folder, checked.inputs, accept=accept, extends=longer)
    return resume_point(store, checked.phases, checked.config, changed, longer)


def _again(folder: Path, algorithm: Algorithm | None) -> str:
    """How to resume a run whose algorithm's code is fixed."""
    if algorithm is None:
        return f"winnow train --resume {shown(folder)}"
    return f"winnow.train(resume={shown(folder)!r}, algorithm=...)"


def _reported(folder: Path, observers: Observers) -> Path | None:
    """The page of the run: an error in it is told, and does not take the run's result away."""
    try:
        return write_report([folder], done=True)
    except WinnowError:
        observers.note(f"report.html cannot be written; winnow report {shown(folder)} says why")
        return None


def _end(result: Result) -> RunEnd:
    return RunEnd(
        result.folder,
        "done",
        checkpoint=result.checkpoint,
        before=result.before,
        after=result.after,
        gain=result.gain,
        gain_low=result.gain_low,
        gain_high=result.gain_high,
        tested=result.tested,
        selected=result.selected,
        evaluations=result.evaluations,
        reward_before=result.reward_before,
        reward_after=result.reward_after,
        reward_gain=result.reward_gain,
        reward_gain_low=result.reward_gain_low,
        reward_gain_high=result.reward_gain_high,
    )


def result_of(folder: Path, say: Callable[[str], None] | None = None) -> Result:
    """The result in a run folder; what was gained is missing where samples are damaged.

    Args:
        say: Is told of those.
    """
    store = RunStore.open(folder)
    evals = store.lines("evals.jsonl")
    final = folder / FINAL
    patience = load_folder(folder).eval.patience
    chosen, step = chosen_checkpoint(store, patience)
    ends = reported(evals, patience, step)
    found = None
    try:
        found = gain_between(store, ends.before, ends.after) if ends else None
    except UserError as error:  # of damaged samples
        if say is not None:
            say(f"what was gained cannot be told: {error.problem}")
    selected = ends.selected if ends else None
    return Result(
        folder=folder,
        checkpoint=final if final.is_dir() else chosen,
        metrics=store.lines("metrics.jsonl"),
        before=ends.before["accuracy"] if ends else None,
        after=ends.after["accuracy"] if ends else None,
        gain=found.value if found else None,
        gain_low=found.low if found else None,
        gain_high=found.high if found else None,
        tested=ends.tested if ends else True,
        selected=selected["accuracy"] if selected else None,
        evaluations=ends.number if ends else None,
        reward_before=ends.before["reward"] if ends else None,
        reward_after=ends.after["reward"] if ends else None,
        reward_gain=found.reward if found else None,
        reward_gain_low=found.reward_low if found else None,
        reward_gain_high=found.reward_high if found else None,
        left_out=found.left_out if found else 0,
    )


def _start(checked: Plan, out: Path, point: ResumePoint | None) -> RunStart:
    config, phases, prompts = checked.config, checked.phases, checked.prompts
    summary = opening(config, phases, prompts)
    rows = RunStore(out).lines("evals.jsonl") if point else []
    steps = RunStore(out).lines("metrics.jsonl")[: point.step] if point else []
    return RunStart(
        out,
        "train",
        checked.values,
        summary=f"{summary}\nrun folder: {shown(out)}\n",
        first_step=1 + (point.step if point else 0),
        last_step=phases[-1].last,
        resumed=point is not None,
        phases=[(phase.name, phase.last) for phase in phases],
        evaluation=float(rows[-1]["seconds"]) if rows else 0.0,
        spent=spent_by(steps)[-1] if steps and config.budget.limits else {},
    )
