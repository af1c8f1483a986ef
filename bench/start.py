"""From the command to the first sample of the default job: where the seconds go.

    make bench-start ARGS="--times 5"

`winnow train` is started again and again, with the cache warm, and ended when its first completion
is decoded: one of the evaluation before the first step. Wall clock counts from before the process
is there; CPU seconds are the process's, of all its threads, and tell more where others work on the
same machine. Both are the medians, and the least, over the starts; each stage ends where the next
begins.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

STAGES = {
    "interpreter": "Python is there",
    "settings": "command line, settings, prompts",
    "libraries": "torch, transformers, tokenizer",
    "model": "weights read",
    "checks": "probes, optimizer, checks, run folder",
    "first sample": "prompts read, first completion decoded",
}
"""What has happened when a stage ends."""
_WHERE = "WINNOW_BENCH_START"
"""The variable that tells a started process which file to write to."""

Mark = tuple[str, float, float]
"""A stage, the time at its end and the CPU seconds until then."""


def durations(marks: Sequence[Mark], begun: float) -> dict[str, tuple[float, float]]:
    """Seconds of each stage: wall clock and CPU; and of all of them."""
    found, wall, cpu = {}, begun, 0.0
    for stage, at, used in marks:
        found[stage] = (at - wall, used - cpu)
        wall, cpu = at, used
    return {**found, "all": (wall - begun, cpu)}


def table(starts: Sequence[dict[str, tuple[float, float]]]) -> list[str]:
    """The lines of a table over several starts."""
    lines = [f"{'':14}{'wall':>7}{'least':>7}{'CPU':>7}{'least':>7}"]
    for stage in starts[0]:
        walls, cpus = ([start[stage][i] for start in starts] for i in (0, 1))
        numbers = (statistics.median(walls), min(walls), statistics.median(cpus), min(cpus))
        told = "".join(f"{number:7.2f}" for number in numbers)
        lines.append(f"{stage:14}{told}  {STAGES.get(stage, '')}".rstrip())
    return lines


def start(python: str, words: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Start the command once; what its stages took."""
    folder = Path(tempfile.mkdtemp(prefix="winnow-start-"))
    try:
        told = folder / "marks.json"
        variables = {**os.environ, _WHERE: str(told)}
        begun = time.time()
        subprocess.run(
            [python, __file__, "train", "--out", str(folder / "run"), *words],
            env=variables,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return durations(json.loads(told.read_text()), begun)
    finally:
        shutil.rmtree(folder)


def command(told: Path) -> None:
    """Be the command that is measured, until its first sample."""
    marks: list[Mark] = []

    def mark(stage: str) -> None:
        used = os.times()
        marks.append((stage, time.time(), used.user + used.system))

    mark("interpreter")
    import winnow.cli.main
    from winnow.engines import factory

    def begins(*args: Any) -> Any:
        mark("settings")
        made = made_before(*args)
        mark("libraries")
        follow()
        return made

    def follow() -> None:
        from winnow.engines.local.policy import LocalPolicy
        from winnow.engines.local.sampler import LocalSampler

        LocalPolicy.module = after(LocalPolicy.module, lambda: mark("model"))  # type: ignore[method-assign]
        LocalSampler._sample = until_first(LocalSampler._sample)  # type: ignore[method-assign]

    def until_first(sample: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def sampled(*args: Any) -> Iterator[Any]:
            mark("checks")
            next(iter(sample(*args)))
            mark("first sample")
            told.write_text(json.dumps(marks))
            os._exit(0)

        return sampled

    made_before = factory.ENGINES["local"].make
    factory.ENGINES = {"local": factory.Kind(begins, factory.ENGINES["local"].check)}
    winnow.cli.main.main()


def after(function: Callable[..., Any], then: Callable[[], None]) -> Callable[..., Any]:
    """A function after whose first call something is done."""
    left = [then]

    @wraps(function)
    def called(*args: Any) -> Any:
        result = function(*args)
        while left:
            left.pop()()
        return result

    return called


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--times", type=int, default=5, help="starts that are measured")
    parser.add_argument("--python", default=sys.executable, help="another environment's")
    parser.add_argument("--set", action="append", default=[], help="settings, as for winnow train")
    asked = parser.parse_args()
    words = [word for setting in asked.set for word in ("--set", setting)]
    start(asked.python, words)  # leaves the model in the cache, and the files in memory
    for line in table([start(asked.python, words) for _ in range(asked.times)]):
        print(line)


if __name__ == "__main__":
    if _WHERE in os.environ:
        command(Path(os.environ[_WHERE]))
    else:
        main()
