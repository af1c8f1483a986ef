"""A run of the fake engine with all trackers, in a process that may be killed: FOLDER [STEP].

With a step it ends in that step's update as a kill would end it; in a folder with a run, the run is
resumed. Connections to anywhere else than this machine are refused, and noted in `connected`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from tests.fake_engine import Engine
from winnow.config.schema import from_dict
from winnow.engines import factory
from winnow.reporting.alarms.table import ALARMS
from winnow.reporting.events import Alarm, StepEnd
from winnow.reporting.observer import Observer, Observers
from winnow.training.run import run

ALARM = Alarm(2, "no_signal", "all prompts are wrong.", "Raise the temperature.")
CLEARED = Alarm(5, "no_signal", "some are right.", cleared=True)
FLUSHED = 1.5
"""Seconds after which trackers have what they were told on the disk: a kill costs the rest."""


SETTINGS: dict[str, Any] = {
    "trackers": ["tensorboard", "trackio", "wandb"],
    "reward": "exact",
    "algorithm": "rloo",
    "steps": 6,
    "prompts_per_step": 6,
    "samples_per_prompt": 8,
    "minibatch_prompts": 3,
    "sampling": {"max_tokens": 4},
    "optimizer": {"lr": 2.0},
    "eval": {"size": 4, "samples": 8, "every": 1},
    "checkpoint": {"every": 2, "keep": 1},
    "alarms": {"off": list(ALARMS)},
}


def files(folder: Path) -> dict[str, str]:
    """A model that has not learned anything, and prompts."""
    model, prompts = folder / "model", folder / "prompts.jsonl"
    model.mkdir()
    (model / "logits.json").write_text(json.dumps([0.0] * 10))
    rows = [{"prompt": f"{number}?", "answer": "7"} for number in range(12)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"model": str(model), "prompts": str(prompts)}


class Watcher(Observer):
    """Raises an alarm in step 2, which clears in step 5."""

    def __init__(self, observers: Observers) -> None:
        self._observers = observers

    def on_step(self, step: StepEnd) -> None:
        for alarm in (ALARM, CLEARED):
            if alarm.step == step.step:
                self._observers.on_alarm(alarm)


class Watched(Observers):
    """Has that alarm besides, and ends the process in the update of a step; 0: never."""

    def __init__(self, step: int = 0) -> None:
        super().__init__(callbacks=[Watcher(self)])
        self._left = step

    def progress(self, stage: str, done: int, total: int) -> None:
        super().progress(stage, done, total)
        if stage == "update" and done == 0:
            self._left -= 1
            if self._left == 0:
                time.sleep(FLUSHED)
                os._exit(9)


def guarded(folder: Path) -> None:
    connect = socket.socket.connect

    def only_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            with (folder / "connected").open("a") as file:
                print(address, file=file)
            raise OSError(f"no connection to {address}")
        connect(self, address)

    socket.socket.connect = only_here  # type: ignore[method-assign,assignment]


def main() -> None:
    warnings.simplefilter("error")
    for old in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
        warnings.simplefilter("ignore", old)
    folder = Path(sys.argv[1])
    guarded(folder)
    factory.ENGINES["local"] = factory.Kind(Engine, lambda *_: None)
    observers = Watched(*map(int, sys.argv[2:]))
    if (folder / "run").is_dir():
        run(resume=folder / "run", observers=observers)
        return
    run(from_dict(SETTINGS | files(folder)), out=folder / "run", observers=observers)


if __name__ == "__main__":
    main()
