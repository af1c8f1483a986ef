"""Many samples of many prompts: none lost, none twice, whenever it is stopped."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import winnow
from tests import tiny
from winnow.cli import main
from winnow.engines.base import Capabilities, Request, SamplingParams, WeightsRef
from winnow.engines.queueing import QueuedSampler, Results
from winnow.errors import DiskError, UserError
from winnow.reporting.events import Note
from winnow.reporting.observer import Observer, Observers
from winnow.rollouts import collect as sampling_module
from winnow.rollouts.collect import Plan, Sampled, collect
from winnow.storage import sample_folder as journal_module
from winnow.storage.lock import alone
from winnow.storage.sample_folder import Journal
from winnow.storage.sample_table import read_samples
from winnow.types import Group, Origin, Prompt, Sample, Score

HALF = "\ud83d"


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


class Stopped(Exception):
    """Stands for a server that is gone."""


class Watched(Sample):
    """A sample that one can tell to be held or not."""


@dataclass
class Sampler(QueuedSampler):
    """Samples that their request's seed decides; remembers what it was asked for.

    Attributes:
        die: Raise `Stopped` after so many groups, the last of which lacks its end.
    """

    seeds: bool = True
    die: int | None = None
    asked: list[Request] = field(default_factory=list)
    closed: int = 0
    made: list[weakref.ref] = field(default_factory=list)
    most_held: int = 0
    device = "here"

    def __post_init__(self) -> None:
        super().__init__()

    def load(self, weights: WeightsRef) -> None: ...

    def notes(self) -> list[str]:
        return []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(true_logprobs=True, seeds=self.seeds, loads_weights=False)

    def _sample(self, requests: Sequence[Request]) -> Results:
        order = sorted(range(len(requests)), key=lambda i: requests[i].seed)  # as they finish
        try:
            for place in order:
                request = requests[place]
                self.asked.append(request)
                last = self.die is not None and len(self.asked) >= self.die
                number = max(1, request.n - 2) if last else request.n
                samples = tuple(self._one(request.seed, i) for i in range(number))
                yield place, Group(request.prompt, (1, 2), samples)
                del samples
                self.most_held = max(self.most_held, sum(ref() is not None for ref in self.made))
                if last:
                    raise Stopped
        finally:
            self.closed += 1

    def _one(self, seed: int, number: int) -> Sample:
        token = seed % 1000 + number
        text = f"{seed % 7} {number}" + HALF
        sample = Watched(
            (token, 0), (-0.1 * number, float("-inf")), text, "eos", entropies=(0.5, 0)
        )
        self.made.append(weakref.ref(sample))
        return sample


@dataclass
class Verifier:
    """Right where the text begins with an even digit; remembers what it was asked.

    Attributes:
        broken: Whether a text's score is an error.
    """

    broken: Callable[[str], bool] = lambda text: False
    asked: list[tuple[str, str]] = field(default_factory=list)
    name: str = "even"

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        self.asked += [(prompt.id, text) for prompt, text in items]
        return [
            Score.failed("away" + HALF) if self.broken(text) else Score(float(int(text[0]) % 2))
            for _, text in items
        ]

    def close(self) -> None: ...


def prompts(count: int) -> list[Prompt]:
    turn = {"role": "user", "content": "hi" + HALF}
    return [
        Prompt(f"p{i}{HALF}", f"prompt {i}", str(i), data={"i": i}, messages=(turn,))
        for i in range(count)
    ]


def plan_of(count: int = 3, n: int = 5, **changes: Any) -> Plan:
    return replace(
        Plan(prompts(count), n, SamplingParams(max_tokens=4), 7, 1.0, Origin("fake", 0.5)),
        **changes,
    )


def begin(folder: Path, plan: Plan) -> Journal:
    return Journal.create(folder, {"config.toml": "# config\n"}, {"python": "3"}, group=plan.empty)


def run(
    folder: Path, plan: Plan, sampler: Sampler | None = None, verifier: Verifier | None = None
) -> Sampled:
    """Begin or resume a folder."""
    started = (folder / "config.toml").exists()
    journal = Journal(folder, plan.empty) if started else begin(folder, plan)
    return collect(plan, sampler or Sampler(), verifier or Verifier(), journal, Observers())


def rows(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """Every sample of the closed files, once, by the number of its prompt and its own."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for path in sorted((folder / "samples").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            place = (row["group"], row["sample"])
            assert place not in found, f"{place} is there twice"
            found[place] = row
    return found


def complete(folder: Path, plan: Plan) -> dict[tuple[int, int], dict[str, Any]]:
    """The samples of a folder, which are those that were asked for, and it says so."""
    found = rows(folder)
    assert set(found) == {(p, i) for p in range(len(plan.prompts)) for i in range(plan.n)}
    assert (folder / "journal.jsonl").read_bytes() == b""
    assert read_samples([folder], ["text"], why="the test").rows == len(found)
    assert not list(folder.rglob("*.partial"))
    return found


def journal_lines(folder: Path, cut: bool = False) -> list[dict[str, Any]]:
    *lines, last = (folder / "journal.jsonl").read_text().split("\n")
    assert cut or not last
    return [json.loads(line) for line in lines if line]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch) -> None:
    """No test here pulls the plug; those that look at flushes do so before the disk does."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def small(monkeypatch) -> None:
    """Sets of two samples, files of five."""
    monkeypatch.setattr(sampling_module, "SET_SIZE", {True: 2, False: 2})
    monkeypatch.setattr(journal_module, "PART_SAMPLES", 5)


def parts(folder: Path) -> list[str]:
    return [path.name for path in sorted((folder / "samples").iterdir())]


# a run that nothing stops


def test_what_a_run_holds(tmp_path, small) -> None:
    plan, sampler, verifier = plan_of(), Sampler(), Verifier()
    done = run(tmp_path / "d", plan, sampler, verifier)
    found = complete(tmp_path / "d", plan)
    assert {(r.prompt.id, r.n) for r in sampler.asked} == {
        (prompt.id, n) for prompt in plan.prompts for n in (2, 1)
    }
    assert len({request.seed for request in sampler.asked}) == len(sampler.asked) == 9
    assert len(verifier.asked) == 15
    right = sum(row["right"] for row in found.values())
    assert done == Sampled(15, 0, 15, 15, right, 0, 30)
    for (prompt, number), row in found.items():
        assert row["prompt_id"] == f"p{prompt}\ufffd"
        assert (row["prompt"], row["answer"]) == (f"prompt {prompt}", str(prompt))
        assert json.loads(row["messages"])[0]["content"] == "hi\ufffd"
        assert (row["model"], row["temperature"], row["split"]) == ("fake", 0.5, "sample")
        assert row["text"].endswith(f" {number % 2}\ufffd")
        assert row["reward"] == int(row["text"][0]) % 2 == row["right"]
        assert row["logprobs"][1] == float("-inf")


@settings(max_examples=25)
@given(
    count=st.integers(1, 4),
    n=st.integers(1, 9),
    together=st.integers(1, 5),
    part=st.integers(1, 12),
    tokens=st.integers(1, 40),
    window=st.integers(1, 12),
    seeds=st.booleans(),
)
def test_files_and_windows_change_nothing(
    tmp_path_factory, count, n, together, part, tokens, window, seeds
) -> None:
    folder, plan = tmp_path_factory.mktemp("run"), plan_of(count, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_module, "SET_SIZE", {seeds: together, not seeds: 999})
        run(folder / "plain", plan, Sampler(seeds=seeds))
        patch.setattr(journal_module, "PART_SAMPLES", part)
        patch.setattr(journal_module, "PART_TOKENS", tokens)
        patch.setattr(sampling_module, "_WINDOW", window)
        sampler = Sampler(seeds=seeds)
        run(folder / "cut", plan, sampler)
    assert complete(folder / "cut", plan) == complete(folder / "plain", plan)
    assert max(request.n for request in sampler.asked) == min(n, together)
    assert count * n / (window + together) <= sampler.closed <= count * n / window + 1
    enough = min(part, -(-tokens // 2)) + min(n, together) - 1  # a sample has two tokens
    for path in (folder / "cut" / "samples").iterdir():
        assert pq.read_metadata(path).num_rows <= enough


def test_another_seed_asks_for_other_samples(tmp_path) -> None:
    seeds = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        sampler = Sampler()
        run(tmp_path / name, plan_of(seed=seed), sampler)
        seeds.append({request.seed for request in sampler.asked})
    assert seeds[0] == seeds[1]
    assert not seeds[0] & seeds[2]


def test_a_million_samples_are_not_held(tmp_path, monkeypatch) -> None:
    """No more than a file's worth of them, and one set."""
    monkeypatch.setattr(sampling_module, "SET_SIZE", {True: 5})
    monkeypatch.setattr(journal_module, "PART_SAMPLES", 20)
    sampler = Sampler()
    run(tmp_path / "d", plan_of(20, 20), sampler)
    assert len(sampler.made) == 400
    assert 20 <= sampler.most_held <= 25
    size: list[int] = []
    monkeypatch.setattr(
        Observers, "progress", lambda *_: size.append((tmp_path / "e/journal.jsonl").stat().st_size)
    )
    run(tmp_path / "e", plan_of(20, 20))
    assert max(size) < 20 * 400  # nor does the journal grow


# what is on the disk, and when


def test_a_line_is_on_the_disk_before_the_next_set_is_waited_for(tmp_path, monkeypatch) -> None:
    journal, flushed = tmp_path / "d/journal.jsonl", {}

    def fsync(handle: int) -> None:
        there = os.fstat(handle)
        flushed[there.st_ino] = there.st_size

    class Looks(Sampler):
        def _sample(self, requests):
            for item in super()._sample(requests):
                yield item
                there = journal.stat()
                looked.append(flushed[there.st_ino] == there.st_size > 1)

    class Asks(Verifier):
        def score(self, items):
            there = journal.stat()
            looked.append(flushed[there.st_ino] == there.st_size > 1)
            return super().score(items)

    looked: list[bool] = []
    monkeypatch.setattr(os, "fsync", fsync)
    run(tmp_path / "d", plan_of(4), Looks(), Asks())
    assert looked == [True] * 8


def test_a_file_is_on_the_disk_before_the_journal_is_emptied(tmp_path, monkeypatch) -> None:
    folder, events = tmp_path / "d", []
    begin(folder, plan_of())
    rename = Path.rename

    def named(handle: int) -> None:
        events.append(("flush", Path(os.readlink(f"/proc/self/fd/{handle}")).name))

    def renamed(self: Path, target: Path) -> Path:
        events.append(("rename", Path(target).name))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", named)
    monkeypatch.setattr(Path, "rename", renamed)
    run(folder, plan_of())
    assert events[-6:] == [
        ("flush", ".part-00001.parquet.partial"),
        ("rename", "part-00001.parquet"),
        ("flush", "samples"),
        ("flush", ".journal.jsonl.partial"),
        ("rename", "journal.jsonl"),
        ("flush", "d"),
    ]


# stopped, and resumed


def stop_after(folder: Path, plan: Plan, groups: int) -> None:
    """A folder whose journal holds some groups; the last lacks its scores."""
    with pytest.raises(Killed):
        run(folder, plan, verifier=Verifier(dies_at(2 * (groups - 1) + 1)))


def asked_sets(sampler: Sampler) -> set[tuple[str, int]]:
    return {(request.prompt.id, request.seed) for request in sampler.asked}


def test_cut_at_every_byte(tmp_path, small, monkeypatch) -> None:
    """The journal ends anywhere in its last lines, or at any line: the rest is made anew."""
    monkeypatch.setattr(journal_module, "PART_SAMPLES", 99)
    plan, everything = plan_of(3, 4), Sampler()
    run(tmp_path / "whole", plan, everything)
    whole = complete(tmp_path / "whole", plan)
    stop_after(tmp_path / "stopped", plan, 4)
    journal = (tmp_path / "stopped/journal.jsonl").read_bytes()
    lines = journal.splitlines(keepends=True)
    assert [b'"samples"' in line for line in lines] == [False, *[True, False] * 3, True]
    ends = [sum(map(len, lines[:i])) for i in range(1, len(lines) + 1)]
    for end in sorted({*ends, *range(ends[-3], len(journal) + 1)}):
        folder = tmp_path / f"cut-{end}"
        shutil.copytree(tmp_path / "stopped", folder)
        (folder / "journal.jsonl").write_bytes(journal[:end])
        kept = [line for i, line in enumerate(lines) if ends[i] <= end]
        sampled = sum(b'"samples"' in line for line in kept)
        scored = sum(b'"scores"' in line for line in kept)
        sampler, verifier = Sampler(), Verifier()
        done = run(folder, plan, sampler, verifier)
        assert complete(folder, plan) == whole
        assert (done.found, done.made, done.scored) == (
            2 * sampled,
            12 - 2 * sampled,
            12 - 2 * scored,
        )
        assert len(sampler.asked) == len(asked_sets(sampler)) == 6 - sampled
        assert asked_sets(sampler) <= asked_sets(everything)
        assert len(verifier.asked) == 12 - 2 * scored
        shutil.rmtree(folder)


class OneSet(Sampler):
    """Gone after a set."""

    def _sample(self, requests):
        yield from itertools.islice(super()._sample(requests), 1)
        raise Stopped


def test_cut_and_stopped_again(tmp_path, small, monkeypatch) -> None:
    """What was cut short stays out of the way of the lines that come after it."""
    monkeypatch.setattr(journal_module, "PART_SAMPLES", 99)
    plan = plan_of(3, 4)
    run(tmp_path / "whole", plan)
    stop_after(tmp_path / "stopped", plan, 4)
    journal = (tmp_path / "stopped/journal.jsonl").read_bytes()
    for end in range(1, len(journal), 41):
        folder = tmp_path / f"cut-{end}"
        shutil.copytree(tmp_path / "stopped", folder)
        (folder / "journal.jsonl").write_bytes(journal[:end])
        sampled = len(sampled_in(folder))
        with pytest.raises(Stopped):
            run(folder, plan, OneSet())
        assert run(folder, plan).found == sampled + 2
        assert complete(folder, plan) == complete(tmp_path / "whole", plan)


def test_a_folder_that_was_complete_is_cut(tmp_path, small, monkeypatch) -> None:
    """A file was removed, and the first line after that cut short: it is not complete again."""
    plan, folder = plan_of(1, 4), tmp_path / "d"
    run(folder, plan)
    whole = complete(folder, plan)
    (folder / "samples/part-00001.parquet").unlink()
    (folder / "journal.jsonl").write_bytes(b'{"prompt": 0, "fir')
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "_sample", dies_at(1))
        with pytest.raises(Killed):
            run(folder, plan)
    with pytest.raises(UserError, match="is not complete"):
        read_samples([folder], [], why="the test")
    run(folder, plan)
    assert complete(folder, plan) == whole


def dies_at(call: int) -> Callable[..., bool]:
    """Killed in that call of it."""
    calls = itertools.count(1)

    def called(*_: Any) -> bool:
        if next(calls) >= call:
            raise Killed
        return False

    return called


def test_stopped_before_and_after_every_step_on_the_disk(tmp_path, small, monkeypatch) -> None:
    """Each flush and each renaming is the last thing done once, and once the first not done."""
    plan = plan_of(2, 5)
    run(tmp_path / "whole", plan)
    whole = complete(tmp_path / "whole", plan)
    steps = {(os, "fsync"): os.fsync, (Path, "rename"): Path.rename}
    seen = set()
    for number in itertools.count(2):
        at, after = divmod(number, 2)
        folder, count = tmp_path / f"at-{number}", 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any) -> Any:
                nonlocal count
                count += 1
                if count == at and not after:  # noqa: B023 (called before the next)
                    raise Killed
                done = real(*args)
                if count == at:  # noqa: B023
                    raise Killed
                return done

            return step

        begin(folder, plan)
        with monkeypatch.context() as patch:
            for (owner, name), real in steps.items():
                patch.setattr(owner, name, counted(real))
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # a kill tidies nothing up
            try:
                run(folder, plan)
            except Killed:
                seen.add(len(list(folder.glob("samples/part-*"))))
            else:
                break
        run(folder, plan)
        assert complete_but_for_leftovers(folder, plan) == whole
    assert at > 20
    assert seen == {0, 1, 2}


def complete_but_for_leftovers(folder: Path, plan: Plan) -> dict[tuple[int, int], Any]:
    """As `complete`, where a half-written file lies about under a name that nobody reads."""
    for left in folder.rglob(".*.partial"):
        left.unlink()
    return complete(folder, plan)


def test_a_file_is_closed_but_the_journal_not_emptied(tmp_path, small, monkeypatch) -> None:
    plan, folder = plan_of(), tmp_path / "d"
    run(tmp_path / "whole", plan)
    begin(folder, plan)
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_text", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(folder, plan)
    closed = set(rows(folder))
    lines = journal_lines(folder)
    assert parts(folder) == ["part-00001.parquet"]
    assert closed == {
        (line["prompt"], line["first"] + i)
        for line in lines
        for i in range(len(line.get("samples", ())))
    }
    sampler, verifier = Sampler(), Verifier()
    assert run(folder, plan, sampler, verifier).found == len(closed)
    assert complete(folder, plan) == complete(tmp_path / "whole", plan)
    assert sum(request.n for request in sampler.asked) == len(verifier.asked) == 15 - len(closed)


def test_a_server_that_goes_away(tmp_path, small) -> None:
    """It hands over what it has; what is missing is asked for, and nothing else."""
    plan, folder = plan_of(3, 7), tmp_path / "d"
    sets = {True: 4, False: 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_module, "SET_SIZE", sets)
        first, second = Sampler(seeds=False, die=3), Sampler(seeds=False, die=2)
        for sampler in (first, second):
            with pytest.raises(Stopped):
                run(folder, plan, sampler)
            assert sampler.closed == 1
        had = sampled_in(folder)
        last, verifier = Sampler(seeds=False), Verifier()
        done = run(folder, plan, last, verifier)
    found = complete(folder, plan)
    assert done.found == len(had)
    assert sum(request.n for request in last.asked) == 21 - len(had) == done.made
    assert had.items() <= {place: row["text"] for place, row in found.items()}.items()
    # every prompt has two sets, of four and of three; two lost their end, and were asked for it
    assert sorted(r.n for s in (first, second, last) for r in s.asked) == [2, 2, 3, 3, 3, 4, 4, 4]


def sampled_in(folder: Path) -> dict[tuple[int, int], str]:
    """Texts of all samples of an unfinished folder, journal and files."""
    found = {place: row["text"] for place, row in rows(folder).items()}
    for line in journal_lines(folder, cut=True):
        for i, sample in enumerate(line.get("samples", ())):
            found[line["prompt"], line["first"] + i] = sample["text"]
    return found


def test_a_server_is_asked_no_more_once_the_run_has_stopped(tmp_path) -> None:
    sampler = Sampler()

    def dies(text: str) -> bool:
        raise Killed

    with pytest.raises(Killed) as caught:
        run(tmp_path / "d", plan_of(), sampler, Verifier(dies))
    assert (sampler.closed, len(sampler.asked)) == (1, 1), caught  # whoever keeps the traceback


def test_a_file_that_was_removed(tmp_path, small) -> None:
    """Its samples are made anew, also where others of their set are still there."""
    plan, folder = plan_of(1, 8), tmp_path / "d"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_module, "SET_SIZE", {False: 8})
        patch.setattr(journal_module, "PART_SAMPLES", 1)
        for _ in range(3):  # 6 samples, then 1, then the last
            try:
                run(folder, plan, Sampler(seeds=False, die=1))
            except Stopped:
                continue
        assert [len(pq.read_table(p)) for p in sorted(folder.glob("samples/*"))] == [6, 1]
        run(folder, plan, Sampler(seeds=False))
        assert parts(folder) == [f"part-0000{i}.parquet" for i in (1, 2, 3)]
        before = complete(folder, plan)
        for name in ("part-00001.parquet", "part-00003.parquet"):
            (folder / "samples" / name).unlink()
        sampler = Sampler(seeds=False)
        assert run(folder, plan, sampler).found == 1
    assert sorted(request.n for request in sampler.asked) == [1, 6]
    assert complete(folder, plan)[0, 6] == before[0, 6]


# what stands in the way


def test_a_folder_that_is_removed_as_it_begins(tmp_path) -> None:
    plan = plan_of()
    journal = begin(tmp_path / "a", plan)
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(DiskError, match=r"^cannot write .*journal\.jsonl: No such file or dir"):
        collect(plan, Sampler(), Verifier(), journal, Observers())


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_folder_that_lost_its_settings(tmp_path, small, groups) -> None:
    """With samples in the journal, in closed files, or in neither."""
    folder, plan = tmp_path / "a", plan_of()
    stop_after(folder, plan, groups) if groups < 3 else run(folder, plan)
    assert bool(parts(folder)) == (groups == 3)
    (folder / "config.toml").unlink()
    with pytest.raises(UserError, match=r"^resume: .* has samples and no config\.toml; restore"):
        Journal.check(folder)
    with pytest.raises(UserError, match=r", or restore its config\.toml and resume it: winnow sa"):
        Journal.refuse(folder)
    begin(tmp_path / "b", plan)
    (tmp_path / "b" / "config.toml").unlink()
    with pytest.raises(UserError, match=r"was stopped before anything was sampled .*; remove"):
        Journal.check(tmp_path / "b")
    with pytest.raises(UserError, match="or remove it: it was stopped before anything was sa"):
        Journal.refuse(tmp_path / "b")


def changed(name: str, plan: Plan) -> Plan:
    first, *others = plan.prompts
    return replace(
        plan,
        prompts={
            "id": [replace(first, id="other"), *others],
            "text": [replace(first, text="other"), *others],
            "messages": [replace(first, messages=None), *others],
            "order": list(reversed(plan.prompts)),
            "number": others[:0],
        }[name],
    )


@pytest.mark.parametrize("where", ["part", "journal"])
@pytest.mark.parametrize("name", ["id", "text", "messages", "order", "number"])
def test_prompts_that_have_changed(name, where, tmp_path, small) -> None:
    plan, folder = plan_of(), tmp_path / "d"
    if where == "part":
        run(folder, plan)
    else:
        stop_after(folder, plan, 2)
        assert parts(folder) == []
    before = sampled_in(folder)
    said = r"^resume: the prompts have changed since \S+(part-00001.parquet|journal.jsonl) was wr"
    with pytest.raises(UserError, match=said):
        run(folder, changed(name, plan))
    assert sampled_in(folder) == before
    run(folder, plan)
    complete(folder, plan)


def test_a_damaged_file(tmp_path, small) -> None:
    plan, folder = plan_of(), tmp_path / "d"
    run(folder, plan)
    whole = complete(folder, plan)
    path = folder / "samples/part-00002.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"^resume: \S+part-00002.parquet is damaged; remove it to"):
        run(folder, plan)
    path.unlink()
    assert 0 < run(folder, plan).made < 15
    assert complete(folder, plan) == whole


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{no", "line 2 is not JSON; fix or remove it"),
        ("[1]", "line 2 is damaged (it is not a JSON object); fix or remove it"),
        ('{"prompt": 0, "first": 0}', "line 2 is damaged"),
        ('{"prompt": 0, "first": 0, "scores": [[1, "and an error"]]}', "line 2 is damaged"),
    ],
)
def test_a_line_that_somebody_else_wrote(line, says, tmp_path, small) -> None:
    plan, folder = plan_of(), tmp_path / "d"
    run(tmp_path / "whole", plan)
    stop_after(folder, plan, 2)
    journal = folder / "journal.jsonl"
    lines = journal.read_text().split("\n")
    assert "scores" in lines[2]
    wrong = json.dumps({**json.loads(lines[2]), "scores": [[1, None]] * 9})
    journal.write_text("\n".join([*lines[:2], wrong, ""]))
    with pytest.raises(UserError, match="line 3 is damaged"):
        run(folder, plan)
    journal.write_text("\n".join([*lines[:1], line, *lines[2:]]))
    with pytest.raises(UserError) as caught:
        run(folder, plan)
    assert str(caught.value).startswith(f"{journal} {says}")
    journal.write_text("\n".join([*lines[:1], *lines[2:]]))  # removed: its scores are left over
    assert run(folder, plan).made == 13
    assert complete(folder, plan) == complete(tmp_path / "whole", plan)


# verifiers that fail


def test_errors_are_asked_for_again(tmp_path, small) -> None:
    """Of the journal's samples, those without a score and those whose score was an error."""
    plan, folder = plan_of(), tmp_path / "d"
    run(tmp_path / "whole", plan)
    calls = 0

    def errs_and_dies(text: str) -> bool:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Killed
        return text[2] == "0"

    with pytest.raises(Killed):
        run(folder, plan, verifier=Verifier(errs_and_dies))
    # the journal is full; a sample of each set is an error, and the last set has no scores
    assert [len(line.get("samples", ())) for line in journal_lines(folder)] == [1, 0, 2, 0, 2]
    verifier = Verifier()
    done = run(folder, plan, verifier=verifier)
    assert [text[2] for _, text in verifier.asked[:4]] == ["0", "0", "0", "1"]
    assert (done.made, done.scored, len(verifier.asked)) == (10, 10 + 1 + 2 + 2, 10 + 4)
    assert complete(folder, plan) == complete(tmp_path / "whole", plan)


def test_a_verifier_that_mostly_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sampling_module, "SET_SIZE", {True: 8})
    plan, folder, sampler = plan_of(30, 16), tmp_path / "d", Sampler()
    with pytest.raises(UserError) as caught:
        run(folder, plan, sampler, Verifier(lambda text: True))
    assert str(caught.value) == (
        f"reward: most scores are errors, the last of them: away{HALF}; fix the verifier and "
        f"resume: winnow sample --resume {folder}"
    )
    assert len(sampled_in(folder)) == len(sampler.made) == 3 * 64
    again, verifier = Sampler(), Verifier()
    done = run(folder, plan, again, verifier)
    assert (done.found, done.made, done.scored, done.errors) == (192, 288, 480, 0)
    assert sum(request.n for request in again.asked) == 288
    run(tmp_path / "whole", plan)
    assert complete(folder, plan) == complete(tmp_path / "whole", plan)


def test_a_verifier_that_fails_now_and_then(tmp_path, monkeypatch) -> None:
    """Errors are counted and kept; half of them is not most of them."""
    monkeypatch.setattr(sampling_module, "SET_SIZE", {True: 8})
    plan, folder = plan_of(30, 16), tmp_path / "d"
    done = run(folder, plan, verifier=Verifier(lambda text: text[2] in "0246"))
    assert (done.scored, done.errors) == (480, 240)
    found = complete(folder, plan)
    assert sum(row["error"] == "away\ufffd" for row in found.values()) == 240
    assert sum(row["reward"] is None and row["right"] is None for row in found.values()) == 240
    assert run(folder, plan).scored == 0  # a closed file stays as it is


# the command


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder to work in."""
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "id": row["prompt"]} for row in tiny.problems()]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(monkeypatch, capsys, *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["winnow", "sample", *args])
    with pytest.raises(SystemExit) as left:
        main.main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def sets(model: Path, **changes: Any) -> list[str]:
    values = {
        "model": model, "prompts": "p.jsonl", "reward": "exact", "samples_per_prompt": 4,
        "sampling.max_tokens": 3, "sampling.stop": "[]", "eval.size": 5,
    }  # fmt: skip
    return [word for key, v in {**values, **changes}.items() for word in ("--set", f"{key}={v}")]


def test_the_command(tiny_model, here, monkeypatch, capsys) -> None:
    code, out, err = command(monkeypatch, capsys, *sets(tiny_model), "--out", "a")
    found = rows(Path("a"))
    right = sum(row["right"] for row in found.values()) / 80
    tokens = sum(row["tokens"] for row in found.values())
    assert (code, len(found)) == (0, 80)
    assert out.splitlines()[-2:] == [f"80 samples, {tokens} tokens; {right:.1%} of these right",
                                     "samples: a"]  # fmt: skip
    assert "20 prompts x 4 samples of" in out + err
    for row in found.values():
        assert row["right"] == (row["text"] == row["answer"])

    code, out, _ = command(monkeypatch, capsys, *sets(Path("nowhere")), "--out", "b", "--json")
    assert (code, Path("b").exists()) == (2, False)
    code, out, err = command(monkeypatch, capsys, *sets(tiny_model), "--out", "b", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "folder": str(here / "b"),
        "asked": 80, "found": 0, "made": 80, "scored": 80, "tokens": tokens,
        "right": round(right * 80), "errors": 0,
    }  # fmt: skip
    texts = [{place: row["token_ids"] for place, row in rows(Path(f)).items()} for f in "ab"]
    assert texts[0] == texts[1]


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_that_is_there(tiny_model, here, monkeypatch, capsys) -> None:
    options = sets(tiny_model)
    assert command(monkeypatch, capsys, *options, "--out", "a", "--json")[0] == 0
    before = contents(here)

    code, out, _ = command(monkeypatch, capsys, "--resume", "a")
    assert (code, out.splitlines()) == (
        0, ["nothing to sample: all 80 samples are there", "samples: a"]
    )  # fmt: skip
    for refused, says in [
        ((*options, "--out", "a"), "out: a exists already; choose another --out, or resume it"),
        (("--out", "p.jsonl"), "out: p.jsonl exists already; choose another --out"),
        (
            ("--resume", "a", "--set", "seed=1"),
            "--resume: a folder keeps its settings; give no recipe, --set, --out or --held-out, "
            "and for more samples raise samples_per_prompt in a/config.toml",
        ),
        (("--resume", "a", "--out", "b"), "--resume: a folder keeps its settings"),
        (("--resume", "a", "--held-out"), "--resume: a folder keeps its settings"),
        (("arithmetic", "--resume", "a"), "--resume: a folder keeps its settings"),
        (("--resume", "nowhere"), "resume: nowhere is not a folder of winnow sample"),
    ]:
        code, out, err = command(monkeypatch, capsys, *refused)
        assert (code, out) == (2, "")
        assert err.startswith(f"winnow: {says}")
        assert err.count("\n") == 1
    assert contents(here) == before

    with alone(Path("a")):
        Path("a/journal.jsonl").write_text("\n")
        code, _, err = command(monkeypatch, capsys, "--resume", "a", "--json")
        assert (code, "another winnow is writing to a" in err) == (2, True)
    Path("a/config.toml").unlink()
    for part in Path("a/samples").iterdir():
        part.unlink()
    code, _, err = command(monkeypatch, capsys, "--resume", "a")
    assert (code, "(it has no config.toml); remove it" in err) == (2, True)
    code, _, err = command(monkeypatch, capsys, *options, "--out", "a")
    assert (code, "choose another --out, or remove it: it was stopped" in err) == (2, True)


def test_resume_says_what_it_did(tiny_model, here, monkeypatch, capsys) -> None:
    """Outcomes that it gave on samples of earlier are no samples of its own."""
    options = sets(tiny_model)
    command(monkeypatch, capsys, *options, "--out", "a", "--json")
    right = [row["right"] for row in rows(Path("a")).values()]
    shutil.rmtree("a")

    def dies(self: object, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        if items[0][0].id == "4+4=":
            raise Killed
        return score(self, items)

    score = winnow.rewards.in_process.InProcessReward.score
    with monkeypatch.context() as patch:
        patch.setattr(winnow.rewards.in_process.InProcessReward, "score", dies)
        patch.setattr("sys.argv", ["winnow", "sample", *options, "--out", "a"])
        with pytest.raises(Killed):
            main.main()
    made = 80 - len(sampled_in(Path("a")))
    code, out, _ = command(monkeypatch, capsys, "--resume", "a")
    assert code == 0
    assert [row["right"] for row in rows(Path("a")).values()] == right
    assert f"{made} samples" in out
    assert f"({80 - made} there before); " in out
    assert f"% of the {made + 4} scored now right" in out


def test_held_out_prompts_are_others(tiny_model, here, monkeypatch, capsys) -> None:
    options = sets(tiny_model)
    assert command(monkeypatch, capsys, *options, "--out", "a", "--json")[0] == 0
    assert command(monkeypatch, capsys, *options, "--out", "b", "--held-out", "--json")[0] == 0
    train, held_out = ({row["prompt"] for row in rows(Path(f)).values()} for f in "ab")
    assert (len(train), len(held_out)) == (20, 5)
    assert train | held_out == {row["prompt"] for row in tiny.problems()}
    whole = rows(Path("b"))
    (Path("b/samples/part-00001.parquet")).unlink()  # what is resumed are held-out prompts too
    assert command(monkeypatch, capsys, "--resume", "b", "--json")[0] == 0
    assert rows(Path("b")) == whole


def test_a_kill_while_the_folder_is_begun(tiny_model, here, monkeypatch, capsys) -> None:
    """Before its config is there it is no folder; once it is, it is one of held-out prompts."""
    options = [*sets(tiny_model), "--out", "b", "--held-out", "--json"]
    for at in range(1, 99):
        count = 0

        def fsync(handle: int) -> None:
            nonlocal count
            count += 1
            if count == at:  # noqa: B023 (called before the next)
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            patch.setattr("sys.argv", ["winnow", "sample", *options])
            with pytest.raises(Killed):
                main.main()
        if Path("b/config.toml").exists():
            break
        assert command(monkeypatch, capsys, "--resume", "b")[0] == 2
        shutil.rmtree("b", ignore_errors=True)
    assert command(monkeypatch, capsys, "--resume", "b", "--json")[0] == 0
    assert len(rows(Path("b"))) == 20


def test_two_prompts_of_one_id(tiny_model, here, monkeypatch, capsys) -> None:
    lines = [
        '{"id": 1, "prompt": "1+1=", "answer": "2"}',
        '{"id": 1, "prompt": "1+2=", "answer": "3"}',
    ]
    Path("p.jsonl").write_text("\n".join(lines))
    options = sets(tiny_model, **{"eval.size": 0})
    code, _, err = command(monkeypatch, capsys, *options, "--out", "a")
    assert (code, Path("a").exists()) == (2, False)
    assert "prompts.source: two rows have the id '1': '1+1=' and '1+2='; give each" in err
    Path("p.jsonl").write_text("\n".join([lines[0]] * 2))  # the same prompt is sampled for once
    assert command(monkeypatch, capsys, *options, "--out", "a", "--json")[0] == 0
    assert len(rows(Path("a"))) == 4


def test_from_python(tiny_model, here) -> None:
    """Rows as they are, a function as a reward; the folder says how it was made."""

    def even(prompt: Prompt, text: str) -> float:
        return float(len(text) % 2 == 0)

    made = winnow.sample(
        model=str(tiny_model), prompts=tiny.problems()[:3], reward=even, n=2, out="a", quiet=True,
        sampling={"max_tokens": 3, "stop": []},
    )  # fmt: skip
    assert (made.folder, made.sampled.made) == (Path("a").absolute(), 6)
    found = rows(Path("a"))
    assert {row["prompt"] for row in found.values()} == {"0+0=", "0+1=", "0+2="}
    assert all(row["reward"] == even(Prompt("", ""), row["text"]) for row in found.values())
    again = winnow.sample(resume="a", reward=even, quiet=True)
    assert (again.sampled.found, again.sampled.made) == (6, 0)
    for wrong in ({"n": 3}, {"reward": "exact"}, {"recipe": "arithmetic"}, {"held_out": True}):
        with pytest.raises(UserError, match=r"^resume: sampling resumes with its own settings"):
            winnow.sample(resume="a", quiet=True, **wrong)


@pytest.mark.parametrize(
    ("given", "right_at", "told"),
    [((0.5, 1.0), 1.0, True), ((0.0, 1.0), 1.0, False), ((0.5, 1.0), 0.5, False)],
)
def test_graded_rewards_are_told_where_they_count_as_wrong(tmp_path, given, right_at, told) -> None:
    class Graded(Verifier):
        def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
            return [Score(given[int(text[0]) % 2]) for _, text in items]

    class Notes(Observer):
        def __init__(self) -> None:
            self.found: list[str] = []

        def on_note(self, note: Note) -> None:
            self.found.append(note.text)

    plan, notes = plan_of(right_at=right_at), Notes()
    folder = begin(tmp_path / "d", plan)
    collect(plan, Sampler(), Graded(), folder, Observers([notes]))
    said = [text for text in notes.found if "between 0 and 1" in text]
    assert len(said) == told
    assert not told or "only from 1 on is a sample right" in said[0]
