"""Every kind of run under `kill -9`, many times: real processes, at moments they do not choose.

For the night: `.ci/nightly torture`. The suite kills a few (test_fake_engine, test_collect_killed)
and dies at chosen events in every kind of run (`kills.check_resumed`).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

import winnow
from tests.kills import check_same, config
from tests.torture.table import Outcome, Row
from winnow.config.recipe import dumps

pytestmark = pytest.mark.torture

KILLS = 5
ONCE = {"samples_per_prompt": 16, "checkpoint": {"every": 5}}
KINDS: dict[str, dict[str, Any]] = {
    **{name: {"algorithm": name} for name in winnow.ALGORITHMS},
    **{name: {"algorithm": name, **ONCE} for name in ("rft", "gibbs", "snis", "dpo")},
    "bfloat16": {"algorithm": "grpo", "dtype": "bfloat16"},
    "lora": {"algorithm": "grpo", "lora": {"rank": 4, "merge": True}},
    "average": {
        "algorithm": {"name": "grpo", "kl": "in-loss(0.1)"},
        "reference": "ema(0.9)",
        "checkpoint": {"every": 2, "average": 0.25},
    },
    "restart": {"algorithm": "raft", "rounds": {"restart": True, "merge": 2}},
    "patience": {"algorithm": "grpo", "eval": {"size": 5, "every": 2, "patience": 9}},
    "phases": {
        "phases": [
            {"algorithm": "raft", "steps": 10},
            {"algorithm": "ppo", "steps": 10, "reference": "phase"},
        ]
    },
}


def finished(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "winnow", "train", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def killed(folder: Path, rng: random.Random, *words: str) -> bool:
    """Start it and kill it once it has written something; whether it was not done before that."""

    def written() -> int:
        # (a folder may be gone by the time it is looked into: `rglob` would raise)
        return sum(len(inside) + len(files) for _, inside, files in os.walk(folder))

    process = subprocess.Popen(
        [sys.executable, "-m", "winnow", "train", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    began, more = written(), rng.randrange(1, 8)
    while process.poll() is None and abs(written() - began) < more:
        time.sleep(0.0005)
    time.sleep(rng.choice([0.0, rng.uniform(0, 0.1)]))
    process.kill()
    _, complaint = process.communicate()
    assert process.returncode in (0, -9), complaint.decode()
    return process.returncode != 0


@pytest.mark.parametrize("kind", KINDS)
def test_killed_again_and_again_it_ends_as_the_unbroken_run(tiny_model, tmp_path, kind, tally):
    settings = {"steps": 20, "checkpoint": {"every": 4, "keep": 2}, **KINDS[kind]}
    if "phases" in settings:
        del settings["steps"]
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dumps(config(tiny_model, tmp_path, **settings)))
    finished(str(recipe), "--out", str(tmp_path / "whole"))
    rng = random.Random(zlib.crc32(kind.encode()))
    kills = counted = 0
    for attempt in range(KILLS):
        broken = tmp_path / f"broken-{attempt}"
        alive = True
        while alive and kills < KILLS:
            begun = (broken / "config.toml").exists()
            if broken.exists() and not begun:
                break  # killed before it was a run
            words = ("--resume", str(broken)) if begun else (str(recipe), "--out", str(broken))
            alive = killed(broken, rng, *words)
            kills += alive
        if (broken / "config.toml").exists():
            with tally.trial(Row.KILLED_TRAIN, Outcome.UNHARMED, kills - counted):
                finished("--resume", str(broken))
                check_same(tmp_path / "whole", broken)
            counted = kills
        if kills >= KILLS:
            break
    assert kills >= KILLS
