"""Many draws of many prompts, once, into a folder that a kill cannot hurt.

prompts -> sets of draws -> journal -> scores -> journal -> closed Parquet files
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from winnow.config.recipe import dumps, load
from winnow.config.schema import Config
from winnow.engines.base import Request, Sampler, SamplingParams
from winnow.engines.devices import environment
from winnow.engines.factory import sampler_for
from winnow.errors import Stopped, UserError
from winnow.prompts.loading import load_held_out, load_prompts
from winnow.reporting.console import ConsoleReporter
from winnow.reporting.observer import Reporter
from winnow.rewards.base import Reward
from winnow.rewards.factory import RewardFunction
from winnow.rollouts.generate import derive_seed, sampling_params
from winnow.rollouts.scoring import Patience, reward_for, score
from winnow.storage.atomic import alone
from winnow.storage.sample_folder import Journal, Place
from winnow.types import Group, Origin, Prompt

SET_DRAWS = {True: 128, False: 8}
"""Draws of a prompt that are made together, where draws can be repeated by their seed or not.

A kill costs the sets that are not finished. Draws with a seed are merely made again; a server's are
paid for.
"""
_WINDOW = 8192
"""Draws that a sampler is asked for at a time."""
_JUDGED = 64
"""Verdicts by which it is told whether the verifier mostly fails."""


@dataclass(frozen=True)
class Sampled:
    """What one call of `collect` did, and what the folder holds now.

    Attributes:
        asked: Draws that the folder holds when it is complete.
        found: Draws that were there before.
        made: Draws of this call.
        scored, right, errors: Verdicts of this call, also on draws that were there before.
        tokens: Tokens drawn in this call.
    """

    asked: int
    found: int
    made: int
    scored: int
    right: int
    errors: int
    tokens: int


@dataclass(frozen=True)
class Want:
    """What is to be drawn."""

    prompts: Sequence[Prompt]
    n: int
    params: SamplingParams
    seed: int
    right_at: float
    origin: Origin

    def empty(self, prompt: int) -> Group:
        """The group of a prompt, without draws."""
        return Group(self.prompts[prompt], (), (), right_at=self.right_at, origin=self.origin)


def collect(
    want: Want, sampler: Sampler, reward: Reward, journal: Journal, reporter: Reporter
) -> Sampled:
    """Make every draw that the folder lacks; score each set as it comes; close the files.

    Raises:
        UserError: the prompts have changed since the folder was begun; the verifier fails most of
            the time. What was drawn is kept.
    """
    there = journal.restore(want.prompts)
    found = sum(map(len, there.values()))
    asked = len(want.prompts) * want.n
    judge = _Judge(reward, want.right_at, journal)
    for place, group in journal.unscored():
        judge(place, group)
    made = tokens = 0
    reporter.progress("draw", found, asked)
    for window in _windows(_missing(want, there, SET_DRAWS[sampler.capabilities.seeds])):
        requests = [_request(want, place, count) for place, count in window]
        with _ended(sampler.sample(requests)) as drawn:
            for number, group in drawn:
                place = window[number][0]
                group = group.with_(origin=want.origin, right_at=want.right_at)
                journal.add(place, group)
                made += len(group.draws)
                tokens += sum(draw.length for draw in group.draws)
                judge(place, group)
                reporter.progress("draw", found + made, asked)
    journal.finish()
    return Sampled(asked, found, made, judge.scored, judge.right, judge.errors, tokens)


def complete(want: Want, journal: Journal) -> Sampled | None:
    """What `collect` would say of a folder that lacks nothing; ``None`` if it lacks something."""
    if not journal.complete:
        return None
    there = journal.restore(want.prompts)
    if any(_missing(want, there, want.n)):
        return None
    return Sampled(len(want.prompts) * want.n, sum(map(len, there.values())), 0, 0, 0, 0, 0)


@contextmanager
def _ended(drawn: Iterator[tuple[int, Group]]) -> Iterator[Iterator[tuple[int, Group]]]:
    """No draw is asked of a server, and paid for, after the block was left by an error."""
    try:
        yield drawn
    finally:
        if isinstance(drawn, Generator):
            drawn.close()


def _missing(want: Want, there: dict[int, set[int]], together: int) -> Iterator[tuple[Place, int]]:
    """Draws that are not there yet: where each set of them begins, and how many it is to have.

    A server may have left the end of a set, and a damaged file that was removed any of it.
    """
    for prompt in range(len(want.prompts)):
        have = there.get(prompt, set())
        first = None
        for number in range(want.n + 1):
            lacks = number < want.n and number not in have
            if first is not None and (not lacks or number % together == 0):
                yield Place(prompt, first), number - first
                first = None
            if lacks and first is None:
                first = number


def _windows(sets: Iterator[tuple[Place, int]]) -> Iterator[list[tuple[Place, int]]]:
    window: list[tuple[Place, int]] = []
    draws = 0
    for place, count in sets:
        window.append((place, count))
        draws += count
        if draws >= _WINDOW:
            yield window
            window, draws = [], 0
    if window:
        yield window


def _request(want: Want, place: Place, count: int) -> Request:
    seed = derive_seed(want.seed, "sample", place.prompt, place.first)
    return Request(want.prompts[place.prompt], count, seed, want.params)


class _Judge:
    """Scores sets of draws; stops the run where the verifier mostly fails."""

    def __init__(self, reward: Reward, right_at: float, journal: Journal) -> None:
        self.scored = self.right = self.errors = 0
        self._reward, self._right_at, self._journal = reward, right_at, journal
        self._patience = Patience(f"winnow sample --resume {journal.folder}", _JUDGED)

    def __call__(self, place: Place, group: Group) -> None:
        (scored,) = score([group], self._reward, self._right_at)
        self._journal.score(place, scored.scores)
        self.scored += len(scored.scores)
        self.right += sum(scored.right)
        self.errors += sum(one.error is not None for one in scored.scores)
        self._patience(scored.scores)


@dataclass(frozen=True)
class SampleResult:
    """A folder of draws.

    Attributes:
        folder: What `winnow select`, `winnow best-of` and `winnow train --set draws=` read.
        sampled: What this call did.
    """

    folder: Path
    sampled: Sampled


HELD_OUT = "held-out"
"""A file of this name says that a folder's draws are of the held-out prompts."""


def run_sample(
    config: Config,
    *,
    out: Path,
    held_out: bool,
    reporter: Reporter,
    reward: str | RewardFunction | None = None,
) -> SampleResult:
    """Draw what a config says into a new folder."""
    Journal.refuse(out)

    def begin(want: Want) -> Journal:
        marks = [HELD_OUT] if held_out else []
        return Journal.create(
            out, dumps(config), environment(config), marks=marks, group=want.empty
        )

    return _sample(config, out, _want(config, held_out), begin, reporter, reward)


def resume_sample(
    folder: Path, *, reporter: Reporter, reward: str | RewardFunction | None = None
) -> SampleResult:
    """Go on with a folder of `winnow sample`. No model is loaded for one that is complete."""
    Journal.check(folder)
    config = load(str(folder / "config.toml"))
    want = _want(config, held_out=(folder / HELD_OUT).exists())
    if (done := complete(want, Journal(folder, want.empty))) is not None:
        return SampleResult(folder, done)
    return _sample(config, folder, want, lambda want: Journal(folder, want.empty), reporter, reward)


def _sample(
    config: Config,
    folder: Path,
    want: Want,
    begin: Callable[[Want], Journal],
    reporter: Reporter,
    reward: str | RewardFunction | None,
) -> SampleResult:
    if not config.algorithm.made_in_python:
        config.algorithm.build()  # not needed here, but a mistake in it is one all the same
    with reward_for(config, reward) as verifier:
        sampler = sampler_for(config, want.prompts, reporter)
        journal = begin(want)
        if isinstance(reporter, ConsoleReporter):
            what = f"{len(want.prompts)} prompts x {want.n} draws of {want.origin.model}"
            reporter.console.print(f"{what} -> {folder}", soft_wrap=True)
        try:
            with alone(folder):
                sampled = collect(want, sampler, verifier, journal, reporter)
        except KeyboardInterrupt as stop:
            raise Stopped(f"stopped; go on with: winnow sample --resume {folder}") from stop
        finally:
            for note in getattr(sampler, "notes", list)():
                reporter.note(note)
    return SampleResult(folder, sampled)


def _want(config: Config, held_out: bool) -> Want:
    params = sampling_params(config)
    model = config.model
    if config.server.url is not None:
        model = config.server.model or config.model
    return Want(
        prompts=_prompts(config, held_out),
        n=config.samples_per_prompt,
        params=params,
        seed=config.seed,
        right_at=config.reward.bound,
        origin=Origin(model, params.temperature, params.truncated),
    )


def _prompts(config: Config, held_out: bool) -> list[Prompt]:
    """Each prompt once.

    Raises:
        UserError: two prompts of one id, whose draws nobody could tell apart.
    """
    if held_out:
        prompts: Sequence[Prompt] = load_held_out(config.prompts, config.eval, config.seed)
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
