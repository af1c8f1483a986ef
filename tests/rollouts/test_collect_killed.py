"""`winnow sample` under `kill -9`, twenty times or more, at moments it does not choose.

Run as a script, this file is what kills: one process imports everything, forks the samplers and
kills them. The test starts it, and reads what is left on the disk.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import tiny
from tests.torture.table import Outcome, Row

PROMPTS, SAMPLES = 25, 18
SET, PART = 3, 13


def settings(model: str, source: Path) -> dict[str, Any]:
    return {
        "model": model,
        "prompts": str(source),
        "samples_per_prompt": SAMPLES,
        "sampling": {"max_tokens": 4, "stop": [], "batch": 8},
        "eval": {"size": 0},
        "threads": 1,
    }


class Slow:
    """Right answers, looked up slowly, so that many kills fall into the scoring."""

    name = "slow"

    def score(self, items: Sequence[tuple[Any, str]]) -> list[Any]:
        from winnow.types import Score

        time.sleep(0.004)
        return [Score(float(text == prompt.answer)) for prompt, text in items]

    def close(self) -> None: ...


def sample(folder: Path, config: Any) -> None:
    """Begin a folder or resume it, as the command does."""
    from winnow.reporting.observer import Observers
    from winnow.rollouts.collect import resume_sample, run_sample

    if folder.exists():
        resume_sample(folder, observers=Observers(), reward=Slow())
    else:
        run_sample(config, out=folder, held_out=False, observers=Observers(), reward=Slow())


def fork(folder: Path, config: Any) -> int:
    child = os.fork()
    if child:
        return child
    try:
        sample(folder, config)
    except BaseException as error:  # noqa: BLE001 (whatever it is, the parent must hear of it)
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def state(folder: Path) -> dict[str, Any]:
    """What is on the disk."""
    journal = folder / "journal.jsonl"
    text = journal.read_bytes() if journal.exists() else b""
    lines = text.split(b"\n")
    closed = sorted(folder.glob("samples/part-*.parquet"))
    sampled = [json.loads(line) for line in lines[:-1] if b'"samples"' in line]
    there = {(line["prompt"], line["first"] + i) for line in sampled for i in range(SET)}
    for path in closed:
        columns = pq.read_table(path, columns=["group", "sample"]).to_pydict()
        there |= set(zip(columns["group"], columns["sample"], strict=True))
    return {
        "folder": folder.name,
        "there": len(there),
        "begun": (folder / "config.toml").exists(),
        "complete": journal.exists() and not text,
        "closed": len(closed),
        "open": sum(len(line["samples"]) for line in sampled),
        "partial": any(folder.rglob(".*.partial")),
        "last": "samples" if b'"samples"' in b"".join(lines[-2:-1]) else "scores",
    }


def moments(folder: Path, rng: random.Random) -> list[Callable[[], bool]]:
    """What a kill may wait for, from now on."""

    def size() -> int:
        path = folder / "journal.jsonl"
        return path.stat().st_size if path.exists() else 0

    def files() -> int:
        return len(list(folder.glob("samples/part-*")))

    began, had, end = size(), files(), time.monotonic() + rng.uniform(0, 0.1)
    later = rng.randrange(5)
    return [
        lambda: time.monotonic() >= end,  # while the model is loaded, mostly
        lambda: files() > had + later,
        lambda: size() != began,  # a line of samples, most likely without its scores
        lambda: any(folder.glob("samples/.*.partial")),
        lambda: files() > had,  # the journal still holds what the file does
    ]


def kill_once(folder: Path, config: Any, kind: int, rng: random.Random) -> dict[str, Any] | None:
    """The state after the kill; ``None`` where the sampler had ended before it."""
    waits = moments(folder, rng)[kind]
    child = fork(folder, config)
    while not waits():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, "the sampler failed"
            return None
        time.sleep(0.0005)
    time.sleep(rng.choice([0, rng.uniform(0, 0.02)]))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0, "the sampler failed"
        return None
    return state(folder)


def everywhere(kills: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """Which phases of a run the kills fell into."""
    there = [kill["there"] for kill in kills]
    return {
        "many places": len(set(there)) >= 8,
        "at the start": any(now == before for before, now in pairwise(there)),
        "while sampling": any(kill["open"] and kill["last"] == "scores" for kill in kills),
        "while scoring": any(kill["open"] and kill["last"] == "samples" for kill in kills),
        "while a file was written": any(kill["partial"] for kill in kills),
        "between files": sum(kill["closed"] > 0 for kill in kills) >= 5,
    }


def main(model: str, where: str, least: str) -> None:
    """Fill folders, each killed until it is complete, until there were kills enough.

    When a kill falls is the machine's affair: a few more, where they have not been everywhere yet.
    """
    import torch

    from winnow.config.schema import from_dict
    from winnow.engines import local  # noqa: F401 (imported once, for all)
    from winnow.rollouts import collect
    from winnow.storage import sample_folder

    torch.set_num_threads(1)
    collect.SET_SIZE = {True: SET, False: SET}
    sample_folder.PART_SAMPLES = PART
    rng = random.Random(0)
    config = from_dict(settings(model, Path(where) / "prompts.jsonl"))
    _, status = os.waitpid(fork(Path(where) / "whole", config), 0)
    assert status == 0, "the unbroken run failed"
    kills: list[dict[str, Any]] = []

    def enough() -> bool:
        rest = len(kills) - int(least)
        return rest >= 0 and (all(everywhere(kills).values()) or rest >= 100)

    number = 0
    while not enough():
        number += 1
        folder = Path(where) / f"broken-{number}"
        while not enough():
            found = kill_once(folder, config, len(kills) % 5, rng)
            if found is None or found["complete"]:
                break
            kills.append(found)
            if not found["begun"]:
                shutil.rmtree(folder, ignore_errors=True)
        _, status = os.waitpid(fork(folder, config), 0)
        assert status == 0, "the resumed run failed"
    print(json.dumps(kills))


@pytest.fixture(scope="module", params=[20, pytest.param(100, marks=pytest.mark.torture)])
def killed(tiny_model, tmp_path_factory, request) -> tuple[Path, list[dict[str, Any]]]:
    """A folder of folders, and what was on the disk after each kill."""
    where = tmp_path_factory.mktemp("killed")
    rows = "".join(json.dumps(row) + "\n" for row in tiny.problems())
    (where / "prompts.jsonl").write_text(rows)
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(tiny_model), str(where), str(request.param)],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return where, json.loads(done.stdout.splitlines()[-1])


def samples(folder: Path) -> dict[tuple[int, int], dict[str, Any]]:
    """Every sample of the closed files, by its prompt's number and its own."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("samples/part-*.parquet")):
        for row in pq.read_table(path).to_pylist():
            place = (row["group"], row["sample"])
            assert place not in found, f"{place} is there twice"
            found[place] = row
    return found


def test_kills_lose_nothing_and_double_nothing(killed, tally) -> None:
    with tally.trial(Row.KILLED_SAMPLE, Outcome.UNHARMED, len(killed[1])):
        check_samples(*killed)


def check_samples(where: Path, kills: list[dict[str, Any]]) -> None:
    assert len(kills) >= 20
    assert not any(kill["complete"] for kill in kills)
    whole = samples(where / "whole")
    folders = sorted(where.glob("broken-*"))
    assert folders
    for folder in folders:
        found = samples(folder)
        assert set(found) == {(p, i) for p in range(PROMPTS) for i in range(SAMPLES)}
        assert (folder / "journal.jsonl").read_bytes() == b""
        assert not list(folder.rglob("*.partial"))
        for place, row in found.items():
            one = whole[place]
            logprobs = row.pop("logprobs"), row.pop("entropies")
            for own, other in zip(logprobs, (one["logprobs"], one["entropies"]), strict=True):
                assert own == pytest.approx(other, abs=1e-5)  # batches differ after a resume
            assert row == {key: value for key, value in one.items() if key in row}
            assert row["right"] == (row["text"] == row["answer"])
    assert {row["right"] for row in whole.values()} == {True, False}


def test_no_kill_takes_back_what_was_on_the_disk(killed) -> None:
    """Samples that are lost would be made anew, alike: so they are counted after each kill."""
    for before, now in pairwise(killed[1]):
        assert now["there"] >= before["there"] or now["folder"] != before["folder"]


def test_the_kills_fell_into_every_phase(killed) -> None:
    assert [phase for phase, hit in everywhere(killed[1]).items() if not hit] == []


if __name__ == "__main__":
    main(*sys.argv[1:])
