"""The local learner beside one of several processes (FSDP2), on the same samples: a table.

    make bench-learners ARGS="--model Llama-3.2-1B --dtype bfloat16"

One set of random samples is trained on by `winnow train` itself: alone, and under `torchrun` with
as many processes as `--ranks` says, without and with activation checkpointing, and on a GPU with
what waits in the host's memory. Differences are the largest over all updates, relative to the local
learner's. Memory is the most that a process had in RAM, of the largest process; on a GPU the most
that tensors took, of rank 0.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compare import export_model, random_model
from jobs import SAMPLES, job, score

import winnow
from winnow.types import Prompt, Score

BUILT_IN = "built-in"
_CHECKPOINTING = ("engine.activation_checkpointing=true",)
_OFFLOAD = (*_CHECKPOINTING, "engine.cpu_offload=true")
_EVERY = 0.1
"""Seconds between looks at what processes there are."""


@dataclass(frozen=True)
class Side:
    """A way to run the same recipe.

    Attributes:
        ranks: Processes; 0: `winnow train` by itself with the local learner.
    """

    name: str
    ranks: int
    settings: tuple[str, ...] = ()

    def command(self, words: Sequence[str]) -> list[str]:
        python = [sys.executable]
        if self.ranks:
            python += ["-m", "torch.distributed.run", "--standalone"]
            python += ["--nproc-per-node", str(self.ranks)]
            words = [*words, "--set", "engine.learner=fsdp"]
        for setting in self.settings:
            words = [*words, "--set", setting]
        return [*python, "-m", "winnow", "train", *words]


@dataclass(frozen=True)
class Cost:
    """What a side printed of itself, and the peak of each of its processes, GiB."""

    rows: list[dict[str, Any]]
    peaks: list[float]

    def median(self, stage: str) -> float:
        """Seconds, over the later half of the steps: the first ones warm up."""
        later = self.rows[len(self.rows) // 2 :]
        return statistics.median(float(row["seconds"][stage]) for row in later)

    def memory(self) -> float:
        device = [row["memory_device_gib"] for row in self.rows]
        return max(device) if None not in device else max(self.peaks)

    def apart(self, other: Cost, key: str) -> float:
        """The largest relative difference of a number of each step."""
        pairs = zip(self.rows, other.rows, strict=True)
        return max(abs(a[key] - b[key]) / abs(b[key]) for a, b in pairs)


class Coin:
    """The job's reward of random words."""

    name = "coin"

    def score(self, items: list[tuple[Prompt, str]]) -> list[Score]:
        return [Score(score(text, prompt.answer or "")) for prompt, text in items]

    def close(self) -> None: ...


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", default="SmolLM2-135M", help=f"a shape, or {BUILT_IN}")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--device", default="auto")
    options.add_argument("--threads", type=int, default=1, help="of each process")
    options.add_argument("--ranks", type=int, nargs="+", default=[1])
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--prompts", type=int, default=32, help="of a step")
    options.add_argument("--tokens", type=int, default=128, help="of a sample")
    options.add_argument("--microbatch-tokens", type=int, default=16384)
    given = options.parse_args()
    sides = [Side("local", 0)]
    for ranks in given.ranks:
        name = f"fsdp, {ranks} rank{'s' * (ranks > 1)}"
        sides += [Side(name, ranks), Side(f"{name}, checkpointing", ranks, _CHECKPOINTING)]
        if torch.cuda.is_available() and given.device != "cpu":
            sides.append(Side(f"{name}, checkpointing, offload", ranks, _OFFLOAD))
    where = "CPU"
    if torch.cuda.is_available() and given.device != "cpu":
        where = torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}, {given.model}, {given.dtype}\n")
    print("| learner | update, s | GiB | loss apart | gradient norm apart |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        words = prepared(Path(folder), given)
        first: Cost | None = None
        for number, side in enumerate(sides):
            cost = measured(side, words, Path(folder) / f"run-{number}")
            first = first or cost
            apart = [cost.apart(first, key) for key in ("loss", "grad_norm")]
            print(
                f"| {side.name} | {cost.median('update'):.2f} | {cost.memory():.2f} "
                f"| {apart[0]:.1e} | {apart[1]:.1e} |",
                flush=True,
            )


def prepared(folder: Path, given: argparse.Namespace) -> list[str]:
    """A model and samples of it; the arguments of `winnow train` for them."""
    where = folder / "model"
    model = (
        export_model(where)
        if given.model == BUILT_IN
        else random_model(where, given.model, given.dtype)
    )
    common = {
        "model": model,
        "dtype": given.dtype,
        "device": given.device,
        "samples_per_prompt": SAMPLES,
        "prompts_per_step": given.prompts,
        "sampling": {"max_tokens": given.tokens},
    }
    prompts = job("tokens", given.steps).rows[: given.steps * given.prompts]
    winnow.sample(**common, prompts=prompts, reward=Coin(), out=folder / "samples", quiet=True)
    settings: dict[str, Any] = {
        "algorithm": "rft",
        "samples_file": str(folder / "samples"),
        "steps": given.steps,
        "minibatch_prompts": given.prompts,
        "microbatch_tokens": given.microbatch_tokens,
        "threads": given.threads,
        "optimizer.lr": 1e-5,
        "eval.size": 0,
        "checkpoint.every": 10_000,
    }
    for key, value in common.items():
        if isinstance(value, dict):
            settings |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            settings[key] = value
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def measured(side: Side, words: Sequence[str], out: Path) -> Cost:
    """Run a side, watching the memory of its processes."""
    command = side.command([*words, "--out", str(out)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        peaks: dict[int, float] = {}
        ended = threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
        watch.start()
        said, _ = process.communicate()
        ended.set()
        watch.join()
    if process.returncode:
        sys.exit(f"{side.name} failed:\n{said[-4000:]}")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(out)  # its checkpoint is large
    return Cost([row for row in rows if "loss" in row], list(peaks.values()))


def _watch(pid: int, peaks: dict[int, float], ended: threading.Event) -> None:
    """Keep the most memory that each process below one has had, GiB."""
    while not ended.wait(_EVERY):
        for one in _below(pid):
            with suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{one}/status").read_text())
                if found:
                    peaks[one] = int(found[1]) / 2**20


def _below(pid: int) -> list[int]:
    found = [pid]
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found += [deep for child in children for deep in _below(int(child))]
    return found


if __name__ == "__main__":
    main()
