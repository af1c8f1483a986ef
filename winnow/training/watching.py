"""The alarms of a run; of one that is resumed, as if it had not been broken off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from winnow.config.phases import Phase
from winnow.config.schema import Config
from winnow.reporting.alarms.history import PromptScores
from winnow.reporting.alarms.scores import scores_counted
from winnow.reporting.alarms.table import ALARMS
from winnow.reporting.alarms.watch import Alarms
from winnow.reporting.observer import Observers
from winnow.storage.paths import shown
from winnow.storage.run_folder import RunStore
from winnow.training.sources import Passes


def alarms_of(
    config: Config, phases: Sequence[Phase], store: RunStore, observers: Observers, step: int
) -> list[Alarms]:
    """What raises the alarms of a run, if any is on.

    Args:
        step: The last that is done; 0 of a new run.

    Raises:
        UserError: a file that it is resumed from is damaged.
    """
    on = thresholds_of(config)
    if not on:
        return []
    window, stop, several = config.alarms.window, config.alarms.stop, len(config.phases) or 1
    alarms = Alarms(observers.on_alarm, on, window=window, stop=stop, phases=several)
    if step:
        told = [row for row in store.lines("alarms.jsonl") if row["step"] <= step]
        alarms.replay(_done(store, phases, step), told)
        if alarms.on and step < phases[-1].last:
            since = {row["name"]: row["step"] for row in told}
            names = ", ".join(f"{name} (since step {since[name]})" for name in alarms.on)
            observers.note(f"alarms still on: {names}; {shown(store.folder / 'alarms.jsonl')}")
    return [alarms]


_DISAGREES = "sampler_disagrees"
_ROUNDED = 0.1
"""Nats a token that a sampler in bfloat16 may be off a float32 learner: SmolLM2-135M is by 0.04."""


def thresholds_of(config: Config) -> Mapping[str, float]:
    """The thresholds of a run's alarms; where samples are of less precision, rounding is none.

    One that was set to another number than the default is kept.
    """
    on = config.alarms.thresholds
    usual = on.get(_DISAGREES) == ALARMS[_DISAGREES].threshold
    if usual and (config.dtype, config.sampling.dtype) == ("float32", "bfloat16"):
        return {**on, _DISAGREES: _ROUNDED}
    return on


Done = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]], Sequence[PromptScores] | None]


def _done(store: RunStore, phases: Sequence[Phase], step: int) -> Iterator[Done]:
    """Each step up to one: its row, its evaluations, and the scores of its new samples."""
    evaluations = [row for row in store.lines("evals.jsonl") if row["step"] <= step]
    scores = _scores(store, phases)
    for row in store.lines("metrics.jsonl"):
        if row["step"] > step:
            return
        due = [one for one in evaluations if one["step"] <= row["step"]]
        evaluations = evaluations[len(due) :]
        yield row, due, scores(row["step"])


def _scores(
    store: RunStore, phases: Sequence[Phase]
) -> Callable[[int], Sequence[PromptScores] | None]:
    """What gives the scores of the samples that were new in a step, from their files alone."""
    once: dict[int, list[PromptScores]] = {}

    def read(step: int) -> list[PromptScores]:
        return scores_counted(store.counted("train", step) or ())

    def of(step: int) -> Sequence[PromptScores] | None:
        phase = next((phase for phase in phases if step <= phase.last), None)
        if phase is None or phase.file is not None:
            return None
        if phase.samples_each_step:
            return read(step)
        passes = Passes(phase)
        if phase.number not in once:
            steps = range(phase.before + 1, phase.before + passes.steps + 1)
            once[phase.number] = [one for each in steps for one in read(each)]
        every = once[phase.number]
        epoch, chosen = passes.chosen(step, len(every), len(every) // passes.steps)
        return [every[place] for place in chosen] if epoch == 0 else None

    return of
