"""One bit flipped anywhere in a run's folder, which is then resumed, extended or read.

Unharmed is a run that ends, and a reader that finds, what it would have without the flip, bit for
bit: the bit is not read, or what it damaged is made again from the checkpoint before, with a note.
Told is one line that names the file, or the settings that have changed in it, with their values.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kills import FIRST, OF_THE_CLOCK, KillAt, Killed, check_same, lines, samples
from tests.kills import config as small_config
from tests.torture.table import Outcome, Row, Tally
from tests.training.faked import settings as fake_settings
from winnow.config.recipe import load_folder
from winnow.config.schema import Config, from_dict
from winnow.errors import WinnowError
from winnow.evaluation.held_out import run_evaluation
from winnow.rollouts.select import select
from winnow.storage.digests import DIGESTS, STATE
from winnow.storage.lock import LOCK
from winnow.storage.run_folder import RunStore
from winnow.training.run import result_of, run


@dataclass(frozen=True)
class Kind:
    """A kind of run, and how its folder was left.

    Attributes:
        config: Of it; `steps` of them as asked for.
        killed: After which event (`KillAt`); 0: it is done.
        reward: Of it.
        reads: What reads it when it is done: a function of the folder, for each name.
    """

    config: Callable[[int], Config]
    killed: int
    reward: Any = None
    reads: Mapping[str, Callable[[Path], object]] | None = None


def flip(folder: Path, rng: random.Random) -> Path:
    """Flip a bit: half the time in a kind of file at random, else at any byte of them all."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    sizes = {path: size for path in files if (size := path.stat().st_size)}
    if rng.random() < 0.5:
        kind = rng.choice(sorted({path.relative_to(folder).parts[0] for path in sizes}))
        path = rng.choice([path for path in sizes if path.relative_to(folder).parts[0] == kind])
    else:
        (path,) = rng.choices(list(sizes), list(sizes.values()))
    at, bit = rng.randrange(sizes[path]), rng.randrange(8)
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return path


@dataclass
class Flip:
    """A flipped bit.

    Attributes:
        run, kept: The folder that it is in, and one that is as it was.
        file: Its file, within either.
        changed: Settings that config.toml has changed since the run was begun: before and after, as
            JSON; ``None`` where the file has become no config.
    """

    run: Path
    kept: Path
    file: Path
    changed: dict[str, tuple[str, str]] | None

    @classmethod
    def anywhere(cls, run: Path, kept: Path, rng: random.Random) -> Flip:
        file = flip(run, rng).relative_to(run)
        before = settings_of(kept)
        try:
            after = settings_of(run)
        except WinnowError:
            return cls(run, kept, file, None)
        pairs = {key: (before.get(key, "unset"), after.get(key, "unset")) for key in before | after}
        return cls(run, kept, file, {k: pair for k, pair in pairs.items() if pair[0] != pair[1]})

    def named(self, said: str) -> bool:
        """Whether a message names the file, or the checkpoint that it is in."""
        top, *parts = self.file.parts
        name = parts[0] if top == "checkpoints" else self.file.name
        return re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", said) is not None

    def told(self, said: str) -> bool:
        """Whether a message tells what the flip has changed; what it tells has those values."""
        changed = {
            key: f"{key} {old:.60} -> {new:.60}" for key, (old, new) in (self.changed or {}).items()
        }
        found = [text for text in changed.values() if text in said]
        assert said.count(" -> ") == len(found), (said, changed)
        return any(text != LONGER for text in found)

    @property
    def untouched(self) -> bool:
        """Whether nothing has written the file since."""
        one, other = self.run / self.file, self.kept / self.file
        if not one.is_file() or one.stat().st_size != other.stat().st_size:
            return False
        pairs = zip(one.read_bytes(), other.read_bytes(), strict=True)
        return sum(a != b for a, b in pairs) == 1

    def reread(self) -> None:
        """Read the file, if nothing has written it since, by what reads such files.

        Raises:
            WinnowError: it is damaged.
            AssertionError: it is read as something else than what was written.
        """
        if not self.untouched:
            return
        now, before, top = RunStore(self.run), RunStore(self.kept), self.file.parts[0]
        if top == "rollouts":
            split, step = self.file.stem.split("-")
            assert now.groups(split, int(step)) == before.groups(split, int(step))
        elif top == "checkpoints":
            step = self.file.parts[1].removeprefix("step-")
            assert now.state_of(int(step)) == before.state_of(int(step))
            assert self.file.name == STATE, "no digest"  # white space in it
        elif top in ("final", "base"):
            assert self.file.name == DIGESTS, "damaged, and not made again"  # white space in it
        elif top in ("metrics.jsonl", "evals.jsonl"):
            assert now.lines(top) == before.lines(top)
        else:
            assert top in ("config.toml", "inputs.json", "environment.json")

    def undo(self) -> None:
        """What has not read the file left it as it is: then the others can be compared."""
        if self.untouched:
            shutil.copyfile(self.kept / self.file, self.run / self.file)


LONGER = "steps 6 -> 8"
"""What a run that is extended says of itself."""


def settings_of(folder: Path) -> dict[str, str]:
    """The settings in config.toml by their full names, each as JSON."""
    found: dict[str, str] = {}

    def add(values: Mapping[str, Any], above: str) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping):
                add(value, f"{above}{key}.")
            else:
                found[above + key] = json.dumps(value)

    add(load_folder(folder).model_dump(exclude_none=True), "")
    return found


def check_told(error: WinnowError, flipped: Flip) -> None:
    """An error is one line that names what was flipped, or truly tells what it has changed."""
    said = "; ".join([str(error), *getattr(error, "__notes__", ())])
    assert "\n" not in said
    changed = flipped.file.name == "config.toml" and "was begun with other settings" in said
    assert flipped.told(said) if changed else flipped.named(said), said


def resumed(flipped: Flip, whole: Path, reward: Any) -> Outcome:
    """Resume a run, which is to end as the whole one does.

    Raises:
        WinnowError: it does not, or does, and the flipped file cannot be read then.
    """
    listener, folder = KillAt(), flipped.run
    run(resume=folder, observers=listener, reward=reward)
    if flipped.told("".join(n for n in listener.notes if n.startswith("changed since"))):
        assert steps(folder) == steps(whole)  # what is accepted changes nothing before the end
        return Outcome.TOLD
    flipped.reread()
    if not (whole / END).exists():
        (folder / END).unlink(missing_ok=True)  # of its first end
    assert found(folder) == found(whole)
    flipped.undo()
    check_same(whole, folder)
    return Outcome.UNHARMED


END = "rollouts/final-000006.parquet"


def steps(folder: Path) -> list[object]:
    """Numbers and samples of the first six steps."""
    return [
        (row, RunStore(folder).groups("train", row["step"]))
        for row in lines(folder, "metrics.jsonl")
        if row["step"] <= 6
    ]


def found(folder: Path) -> object:
    """What the readers of a folder of a run find in it."""
    result, store = result_of(folder), RunStore(folder)
    numbers = (result.before, result.after, result.gain, result.gain_low, result.gain_high)
    evals = store.lines("evals.jsonl")
    steps = [("train", row["step"]) for row in result.metrics] + [
        ("eval", r["step"]) for r in evals
    ]
    groups = [store.groups(split, int(step)) for split, step in steps]
    rows = [
        [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in some]
        for some in (result.metrics, evals)
    ]
    return (rows, numbers, result.checkpoint.name, groups)


def selected(folder: Path) -> object:
    select([folder], ["correct"], out=[out := folder.parent / "kept.jsonl"], pool=True)
    text = out.read_text()
    out.unlink()
    return text


def evaluated(model: str, config: Config) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        out = folder.parent / "evaluation"
        shutil.rmtree(out, ignore_errors=True)
        given = config.model_copy(update={"model": str(folder / model)})
        run_evaluation(given, out=out, observers=KillAt(), reward=FIRST)
        return [{k: v for k, v in row.items() if k != "model"} for row in samples(out, "eval")]

    return read


def trials(kind: Kind, tmp_path: Path, number: int, seed: int, tally: Tally) -> Counter[str]:
    """Flip a bit in a copy of a run as often as asked; how the trials ended."""
    rng = random.Random(seed)
    steps, place, kept = 6, tmp_path / "run", tmp_path / "kept"
    listener = KillAt(kind.killed)
    try:
        run(kind.config(steps), out=place, observers=listener, reward=kind.reward)
        assert not kind.killed
    except Killed:
        pass
    shutil.copytree(place, kept)
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    run(kind.config(steps), out=whole, observers=KillAt(), reward=kind.reward)
    if not kind.killed:
        run(kind.config(steps + 2), out=longer, observers=KillAt(), reward=kind.reward)
    reads = {} if kind.killed else kind.reads or {}
    expected = {name: read(place) for name, read in reads.items()}
    acts = ["resume"] if kind.killed else ["resume", "extend", *reads]
    ended: Counter[str] = Counter()
    wrong = []
    for trial in range(number):
        shutil.rmtree(place)  # adapters name their base by its path, so always the same one
        shutil.copytree(kept, place)
        act = acts[trial % len(acts)]
        if act == "extend":
            file = place / "config.toml"
            file.write_text(re.sub(r"^steps = 6$", "steps = 8", file.read_text(), flags=re.M))
        flipped = Flip.anywhere(place, kept, rng)
        try:
            if act in reads:
                assert reads[act](place) == expected[act]
                outcome = Outcome.UNHARMED
            else:
                outcome = resumed(flipped, longer if act == "extend" else whole, kind.reward)
        except WinnowError as error:
            outcome = Outcome.TOLD
            try:
                check_told(error, flipped)
            except AssertionError as loose:
                outcome = Outcome.WRONG
                wrong.append(f"{act}, {flipped.file}: {error}: {loose!s:.300}")
        except Exception as error:  # noqa: BLE001 (the others are still to be tried)
            outcome = Outcome.WRONG
            wrong.append(f"{act}, {flipped.file}: {type(error).__name__}: {error!s:.300}")
        ended[f"{act} {outcome}"] += 1
        tally.count(Row.FLIPPED_BITS, outcome)
    assert not wrong, "\n".join(wrong)
    return ended


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int) -> Kind:
    given = {
        **fake_settings(tmp_path, monkeypatch),
        "eval": {"size": 4, "samples": 2, "every": 2},
        "checkpoint": {"every": 2, "keep": 2, "average": 0.25},
    }

    def config(steps: int) -> Config:
        return from_dict({**given, "steps": steps})

    return Kind(config, killed, reads={"found": found, "select": selected})


def real(tmp_path: Path, model: Path, killed: int, **more: Any) -> Kind:
    settings = {
        "algorithm": "grpo",
        "eval": {"size": 4, "samples": 2, "every": 3},
        "checkpoint": {"every": 2, "keep": 2, **more.pop("checkpoint", {})},
        **more,
    }

    def config(steps: int) -> Config:
        return small_config(model, tmp_path, **settings, steps=steps)

    reads = {
        "found": found,
        "select": selected,
        "eval final": evaluated("final", config(6)),
        "eval checkpoint": evaluated("checkpoints/step-6", config(6)),
    }
    return Kind(config, killed, FIRST, reads)


def adapters(model: Path, tmp_path: Path) -> Path:
    """A model that is adapters: what is trained over it keeps a copy of it, `base/`."""
    small = small_config(model, tmp_path, lora={"rank": 2}, steps=1)
    return run(small, out=tmp_path / "first", observers=KillAt(), reward=FIRST).checkpoint


LATE = 76
"""An event between the second checkpoint and the end of each of these runs."""


def test_some_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    for name, killed in (("killed", LATE), ("done", 0)):
        (tmp_path / name).mkdir()
        with monkeypatch.context() as patch:
            kind = fake(tmp_path / name, patch, killed)
            ended = trials(kind, tmp_path / name, 8, 1, tally)
        assert any(each.endswith(Outcome.TOLD) for each in ended)
        assert any(each.endswith(Outcome.UNHARMED) for each in ended)


@pytest.mark.torture
@pytest.mark.parametrize("killed", [LATE, 0], ids=["killed", "done"])
@pytest.mark.parametrize("seed", [2, 3])
def test_bits_of_a_run_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally, killed: int, seed: int
) -> None:
    trials(fake(tmp_path, monkeypatch, killed), tmp_path, 40, seed, tally)


@pytest.mark.torture
@pytest.mark.parametrize("killed", [LATE, 0], ids=["killed", "done"])
@pytest.mark.parametrize("case", ["average", "base"])
def test_bits_of_a_real_run(
    tiny_model: Path, tmp_path: Path, tally: Tally, killed: int, case: str
) -> None:
    if case == "average":
        kind = real(tmp_path, tiny_model, killed, checkpoint={"average": 0.25})
    else:
        lora = {"rank": 2, "merge": True}
        kind = real(tmp_path, adapters(tiny_model, tmp_path), killed, lora=lora)
    trials(kind, tmp_path, 35, 4, tally)
