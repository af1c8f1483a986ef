"""Samples many prompts once, into a folder that a kill cannot hurt.

prompts -> sets of samples -> journal -> scores -> journal -> closed Parquet files
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winnow.algorithms.graded import partly_right
from winnow.config.located import located_config, naming_places
from winnow.config.recipe import dumps, load_folder, naming_folder, values_of
from winnow.config.schema import Config
from winnow.config.unread import unread
from winnow.config.validation import check_answers, refuse
from winnow.engines.base import Request, Sampler, SamplingParams
from winnow.engines.devices import environment
from winnow.engines.factory import check_device, sampler_for, settled
from winnow.errors import Stopped, UserError, number_of
from winnow.prompts.loading import clashes, load_held_out, load_prompts
from winnow.reporting.events import RunEnd, RunStart
from winnow.reporting.observer import Observers
from winnow.rewards.base import AnyReward
from winnow.rewards.given import RewardGiven
from winnow.rollouts.generate import ask, derive_seed, sampling_params
from winnow.rollouts.inputs import INPUTS, check_inputs, inputs_of, text_of
from winnow.rollouts.remarks import alike, count_cut_off, many_cut_off
from winnow.rollouts.reward_errors import errors_of, failures
from winnow.rollouts.rewards import from_judge, otherwise_named, reward_for
from winnow.rollouts.scoring import Patience, score
from winnow.storage.atomic import and_then
from winnow.storage.lock import FolderLock, alone
from winnow.storage.paths import located, shown
from winnow.storage.sample_folder import Journal, Place
from winnow.types import Group, Origin, Prompt

SET_SIZE = {True: 128, False: 8}
"""Samples of a prompt that are made together, by whether the sampler has seeds.

A kill costs unfinished sets: with seeds they are merely made again; a server's are paid for.
"""
_WINDOW = 8192
"""Samples that a sampler is asked for at a time."""
_PATIENCE = 64
"""Scores after which a verifier that mostly fails stops the run."""


@dataclass(frozen=True)
class Sampled:
    """What one call of `collect` did, and what the folder holds now.

    Attributes:
        asked: Samples that the folder holds when it is complete.
        found: Samples that were there before.
        made: Samples of this call.
        scored, right, errors: Scores of this call, also of samples that were there before.
        tokens: Tokens sampled in this call.
    """

    asked: int
    found: int
    made: int
    scored: int
    right: int
    errors: int
    tokens: int

    def __str__(self) -> str:
        if not (self.made or self.scored):
            return f"nothing to sample: all {self.found} samples are there"
        valid = self.scored - self.errors
        of = "these" if self.scored == self.made else f"the {valid} scored now"
        right = f"; {self.right / valid:.1%} of {of} right" if valid else ""
        errors = f"; {number_of(self.errors, 'verifier error')}" if self.errors else ""
        there = f" ({self.found} there before)" if self.found else ""
        return f"{self.made} samples, {self.tokens} tokens{there}{right}{errors}"


@dataclass(frozen=True)
class Plan:
    """What is to be sampled."""

    prompts: Sequence[Prompt]
    n: int
    params: SamplingParams
    seed: int
    right_at: float
    origin: Origin

    def empty(self, prompt: int) -> Group:
        """The group of a prompt, without samples."""
        return Group(self.prompts[prompt], (), (), right_at=self.right_at, origin=self.origin)


def collect(
    plan: Plan, sampler: Sampler, reward: AnyReward, journal: Journal, observers: Observers
) -> Sampled:
    """Make every sample that the folder lacks; score each set as it comes; close the files.

    Raises:
        UserError: the prompts have changed since the folder was begun, or the verifier mostly
            fails, or on all samples, or a callback raised. What was sampled is kept.
    """
    there = journal.restore(plan.prompts)
    found = sum(map(len, there.values()))
    asked = len(plan.prompts) * plan.n
    scorer = _Scorer(reward, plan.right_at, journal)
    for place, group in journal.unscored():
        scorer(place, group)
    made = tokens = cut = 0
    observers.progress("sample", found, asked)
    for window in _windows(_missing(plan, there, SET_SIZE[sampler.capabilities.seeds])):
        requests = [_request(plan, place, count) for place, count in window]
        with closing(ask(sampler, requests)) as sampled:
            for number, group in sampled:
                place = window[number][0]
                group = group.with_(origin=plan.origin, right_at=plan.right_at)
                journal.add(place, group)
                made += len(group.samples)
                tokens += sum(sample.length for sample in group.samples)
                cut += count_cut_off(group)
                scorer(place, group)
                observers.progress("sample", found + made, asked)
                observers.check()
    if failed := failures(scorer.failed, scorer.scored):
        if scorer.errors == asked:  # the journal stays open, so that all are scored again
            remedy = f"fix the verifier and resume: winnow sample --resume {journal.folder}"
            raise UserError("reward", failed, remedy)
        observers.note(failed)
    if scorer.graded:
        observers.note(
            f"rewards between 0 and 1 seen; only from {plan.right_at:g} on is a sample right: "
            "select by reward (best, best-worst), or lower reward.right_at"
        )
    if (said := many_cut_off(cut, made, plan.params.max_tokens)) is not None:
        observers.note(said)
    journal.finish()
    return Sampled(asked, found, made, scorer.scored, scorer.right, scorer.errors, tokens)


def complete(plan: Plan, journal: Journal) -> Sampled | None:
    """What `collect` would return for a complete folder; ``None`` for another."""
    if not journal.complete:
        return None
    there = journal.restore(plan.prompts)
    if any(_missing(plan, there, plan.n)):
        return None
    return Sampled(len(plan.prompts) * plan.n, sum(map(len, there.values())), 0, 0, 0, 0, 0)


def _missing(plan: Plan, there: dict[int, set[int]], together: int) -> Iterator[tuple[Place, int]]:
    """The sets of samples that are not there yet: where each begins, and its size.

    A server may have left out the end of a set, and a removed damaged file any of it.
    """
    for prompt in range(len(plan.prompts)):
        have = there.get(prompt, set())
        first = None
        for number in range(plan.n + 1):
            lacks = number < plan.n and number not in have
            if first is not None and (not lacks or number % together == 0):
                yield Place(prompt, first), number - first
                first = None
            if lacks and first is None:
                first = number


def _windows(sets: Iterator[tuple[Place, int]]) -> Iterator[list[tuple[Place, int]]]:
    window: list[tuple[Place, int]] = []
    samples = 0
    for place, count in sets:
        window.append((place, count))
        samples += count
        if samples >= _WINDOW:
            yield window
            window, samples = [], 0
    if window:
        yield window


def _request(plan: Plan, place: Place, count: int) -> Request:
    seed = derive_seed(plan.seed, "sample", place.prompt, place.first)
    return Request(plan.prompts[place.prompt], count, seed, plan.params)


class _Scorer:
    """Scores sets of samples; stops the run where the verifier mostly fails."""

    def __init__(self, reward: AnyReward, right_at: float, journal: Journal) -> None:
        self.scored = self.right = 0
        self.graded = False
        self.failed: list[str] = []
        self._reward, self._right_at, self._journal = reward, right_at, journal
        self._patience = Patience(f"winnow sample --resume {journal.folder}", _PATIENCE)

    def __call__(self, place: Place, group: Group) -> None:
        (scored,) = score([group], self._reward, self._right_at)
        self._journal.score(place, scored.scores)
        self.scored += len(scored.scores)
        self.right += sum(scored.right)
        self.graded = self.graded or partly_right(scored)
        self.failed += errors_of(scored.scores)
        self._patience(scored.scores)

    @property
    def errors(self) -> int:
        return len(self.failed)


@dataclass(frozen=True, repr=False)
class SampleResult:
    """A folder of samples.

    Attributes:
        folder: What `winnow select`, `winnow best-of` and `winnow train --set samples_file=` read.
        sampled: What this call did.
    """

    folder: Path
    sampled: Sampled

    def __repr__(self) -> str:
        return f"{self.sampled}\nsamples: {shown(self.folder)}"


HELD_OUT = "held-out"
"""A file of this name marks a folder whose samples are of the held-out prompts."""


def run_sample(
    config: Config,
    *,
    out: Path,
    held_out: bool,
    observers: Observers,
    reward: RewardGiven | None = None,
) -> SampleResult:
    """Sample by a config into a new folder."""
    out, config = located(out, "out"), located_config(config)
    Journal.refuse(out)
    refuse(unread(config))
    check_device(config)
    config = settled(config)
    with naming_places(config), FolderLock() as lock:

        def begin(plan: Plan, device: str) -> Journal:
            files = {"config.toml": dumps(config), INPUTS: text_of(_inputs(config, plan))}
            files |= {HELD_OUT: ""} if held_out else {}
            return Journal.create(out, files, environment(device), group=plan.empty, lock=lock)

        return _sample(config, out, _plan(config, held_out), begin, observers, reward)


def resume_sample(
    folder: Path,
    *,
    observers: Observers,
    reward: RewardGiven | None = None,
    accept_changes: bool = False,
) -> SampleResult:
    """Resume a folder of `winnow sample`. No model is loaded for one that is complete.

    Args:
        accept_changes: Whether one with samples is resumed whose settings or data have changed.
    """
    folder = located(folder, "resume")
    Journal.check(folder)
    with alone(folder):
        config = load_folder(folder)
        with naming_folder(folder):
            plan = _plan(config, held_out=(folder / HELD_OUT).exists())
        longer = {"samples_per_prompt"}
        journal = Journal(folder, plan.empty)
        accept = accept_changes or not journal.begun  # without a sample none is of other settings
        for note in check_inputs(folder, _inputs(config, plan), accept=accept, extends=longer):
            observers.note(note)
        if (done := complete(plan, journal)) is not None:
            return SampleResult(folder, done)
        return _sample(
            config, folder, plan, lambda plan, _: Journal(folder, plan.empty), observers, reward
        )


def _inputs(config: Config, plan: Plan) -> dict[str, Any]:
    return inputs_of(values_of(config), {"prompts": plan.prompts})


def _sample(
    config: Config,
    folder: Path,
    plan: Plan,
    begin: Callable[[Plan, str], Journal],
    observers: Observers,
    reward: RewardGiven | None,
) -> SampleResult:
    if not config.algorithm.made_in_python:
        config.algorithm.build()  # not needed here, but a mistake in it is one all the same
    check_answers(config, plan.prompts)
    what = (
        f"{number_of(len(plan.prompts), 'prompt')} x {number_of(plan.n, 'sample')} of "
        f"{plan.origin.model} -> {shown(folder)}"
    )
    start = RunStart(folder, "sample", values_of(config), what, resumed=folder.exists())
    first = None if start.resumed else next(iter(plan.prompts), None)
    again = f"winnow sample --resume {shown(folder)}"
    with (
        reward_for(config, reward, first, folder=folder) as verifier,
        observers.running(start),
        and_then(folder, f"run {again}"),
    ):
        sampler = sampler_for(config, plan.prompts, observers, folder=folder)
        told = otherwise_named(config, reward) if start.resumed else ()
        for note in (*told, *clashes(plan.prompts)):
            observers.note(note)
        if (said := alike(plan.n, plan.params, "samples_per_prompt")) is not None:
            observers.note(said)
        journal = begin(plan, sampler.device)
        try:
            sampled = collect(plan, sampler, verifier, journal, observers)
        except KeyboardInterrupt as stop:
            raise Stopped(f"stopped; resume: {again}") from stop
        except UserError as error:
            # a server that is down comes back
            if error.setting == "engine.url" or from_judge(error):
                error.add_note(f"resume: {again}")
            raise
        finally:
            sampler.close()
            for note in sampler.notes():
                observers.note(note)
        observers.done(RunEnd(folder, "done"))
    return SampleResult(folder, sampled)


def _plan(config: Config, held_out: bool) -> Plan:
    params = sampling_params(config)
    return Plan(
        prompts=_prompts(config, held_out),
        n=config.samples_per_prompt,
        params=params,
        seed=config.seed,
        right_at=config.reward.bound,
        origin=Origin(config.sampling_model, params.temperature, params.truncated),
    )


def _prompts(config: Config, held_out: bool) -> list[Prompt]:
    """Each prompt once; a `UserError` for two prompts of one id."""
    if held_out:
        prompts: Sequence[Prompt] = load_held_out(config.prompts, config.eval, config.seed).held_out
    else:
        prompts = load_prompts(config.prompts, config.eval, config.seed).train
    once: dict[str, Prompt] = {}
    for prompt in prompts:
        other = once.setdefault(prompt.id, prompt)
        if (other.text, other.messages) != (prompt.text, prompt.messages):
            raise UserError(
                "prompts.source",
                f"two rows have the id {prompt.id!r}: {other.text!r:.60} and {prompt.text!r:.60}",
                "give each an id of its own, or leave the column out",
            )
    return list(once.values())
