"""A run of two processes, ended at any moment and resumed, is the unbroken one bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.engines.fsdp.test_torchrun import alive, finished, ranks_of, started, waits, written
from winnow.training.loaded import Run

pytestmark = pytest.mark.fsdp
STEPS, WITHIN = 8, 10.0
"""Steps of a run; seconds in which all of its processes have to be gone."""


@pytest.fixture(scope="module")
def unbroken(tiny_model, tmp_path_factory) -> Path:
    """The folder of a recipe and its run."""
    folder = tmp_path_factory.mktemp("unbroken")
    laid_out(folder, tiny_model)
    code, said = finished(2, folder, "train", "recipe.toml", "--out", "run")
    assert code == 0, said
    return folder


def laid_out(folder: Path, model: Path) -> None:
    rows = "".join(json.dumps(row) + "\n" for row in tiny.problems())
    (folder / "problems.jsonl").write_text(rows)
    written(folder, model, steps=STEPS)


@pytest.mark.parametrize("moment", range(5))
@pytest.mark.parametrize("how", ["rank 0", "rank 1", "term"])
def test_it_goes_on_as_if_nothing_had_been(unbroken, tmp_path, tiny_model, how, moment) -> None:
    laid_out(tmp_path, tiny_model)
    draw = random.Random(f"{how} {moment}")
    after, then = draw.randrange(STEPS - 1), draw.uniform(0, 0.5)
    with started(2, tmp_path, "train", "recipe.toml", "--out", "run") as process:
        rows = tmp_path / "run" / "metrics.jsonl"
        waits("no step", lambda: rows.exists() and len(rows.read_text().splitlines()) >= after)
        time.sleep(then)
        found = ranks_of(process)
        if how == "term":
            process.send_signal(signal.SIGTERM)
        else:
            os.kill(found[int(how[-1])], signal.SIGKILL)
        begun = time.monotonic()
        waits("processes are left", lambda: not any(map(alive, found.values())))
        assert time.monotonic() - begun < WITHIN
        process.communicate(timeout=60)
    code, said = finished(2, tmp_path, "train", "--resume", "run")
    assert code == 0, said
    ours, theirs = Run(tmp_path / "run"), Run(unbroken / "run")
    last = f"run/checkpoints/step-{STEPS}/model.safetensors"
    assert (tmp_path / last).read_bytes() == (unbroken / last).read_bytes()
    for step in range(1, STEPS + 1):
        assert list(ours.samples(step, "train")) == list(theirs.samples(step, "train"))
