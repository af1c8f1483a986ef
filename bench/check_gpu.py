"""Whether a GPU computes what the CPU does, on tiny models: a line a check, exit 1 if one fails.

    make check-gpu                     on a machine with a CUDA GPU, a few minutes
    make check-gpu ARGS="--device cpu"  the CPU against itself

Log-probs of samples, gradients of every row and loss, updates with critic, references, adapters and
examples, mixed precision, a sampler's own copy of the weights, whole runs and their resumption,
sampling and reward models. No network is needed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gpu_cases as cases
import torch
import transformers
from gpu_cases import Found, Job
from gpu_numbers import gradients, repeats, sampler, sampler_bfloat16, update, updates
from gpu_precision import DType, head, mixed_gradient, mixes, own_copy, replays
from gpu_runs import reward_model, sampling, training
from transformers.utils import logging

from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.lora import LoraConfig
from winnow.engines.devices import pick_device

Check = Callable[[], Found]

MIXED = {"optimizer": {"lr": 1e-3, "precision": "mixed"}, "microbatch_tokens": 32}
RUNS: dict[str, dict[str, Any]] = {
    "grpo in bfloat16": {"dtype": "bfloat16"},
    "ppo in bfloat16": {"dtype": "bfloat16", "algorithm": "ppo"},
    "grpo with adapters": {"lora": {"rank": 4}},
    "grpo, KL to an average": {
        "algorithm": {"name": "grpo", "kl": "in-loss(0.1, full)"},
        "reference": "ema(0.9)",
    },
    "grpo with examples": {"anchor": {"source": "examples"}},
    "grpo mixed": MIXED,
    "ppo mixed": {**MIXED, "algorithm": "ppo"},
    "grpo mixed with adapters": {**MIXED, "lora": {"rank": 4}},
    "grpo mixed, all of it": {
        **MIXED,
        "sampling": {"max_tokens": 4, "dtype": "bfloat16"},
        "algorithm": {"name": "grpo", "kl": "in-loss(0.1, full)"},
        "engine": {"activation_checkpointing": True},
    },
    "grpo in bfloat16, sampled in float32": {
        "dtype": "bfloat16",
        "sampling": {"max_tokens": 4, "dtype": "float32"},
    },
}
"""Runs with settings beside those of a row."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--only", nargs="+", default=[], help="checks whose name begins so")
    options.add_argument("--rows", nargs="+", default=[], help="these rows of the table alone")
    given = options.parse_args()
    device = pick_device(given.device)
    quiet: Any = logging
    quiet.disable_progress_bar()
    torch.set_float32_matmul_precision("highest")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{gpu}, {versions}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        models = cases.make_models(Path(folder))
        job = Job(device, Path(folder), models, tuple(given.rows))
        results = [
            shown(name, check)
            for name, check in checks(job)
            if not given.only or name.startswith(tuple(given.only))
        ]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    sys.exit(0 if results and all(results) else 1)


def shown(name: str, check: Check) -> bool:
    """Run a check and print its line; what it raises is a failure, told on stderr."""
    start = time.perf_counter()
    try:
        found = check()
    except Exception as error:  # noqa: BLE001 - the next check may still tell something
        traceback.print_exc()
        found = Found(False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    said = "PASS" if found.ok else "FAIL"
    print(f"{said}  {name}: {found.numbers}  ({time.perf_counter() - start:.1f} s)", flush=True)
    return found.ok


def checks(job: Job) -> Iterator[tuple[str, Check]]:
    """Every check with its name, cheap ones first."""
    for kind in ("warm", "random", "window"):
        for heat in (0.7, 1.0):
            yield f"sampler {kind} T={heat}", partial(sampler, job, kind, heat)
    yield "sampler random bfloat16", partial(sampler_bfloat16, job)
    groups = cases.sampled(cases.engine(job.models.random, cases.CPU), 0.7)
    for name, row in job.chosen(cases.rows()).items():
        yield f"gradient {name}", partial(gradients, job, row, groups)
    for dtype in ("float32", "bfloat16", "mixed"):
        yield f"gradient again, {dtype}", partial(repeats, job, dtype)
    mild = cases.sampled(cases.engine(job.models.milder, cases.CPU), 0.7)
    for name, row, options in mixes():
        yield f"mixed gradient {name}", partial(mixed_gradient, job, row, mild, **options)
    for positions in (2000, 3000):
        yield f"mixed head, {positions} positions", partial(head, job, positions)
    for own in get_args(DType):
        yield f"own copy {own}", partial(own_copy, job, own)
        yield f"own copy {own}, replayed", partial(replays, job, own)
    yield "own copy bfloat16, adapters", partial(own_copy, job, "bfloat16", LoraConfig(rank=4))
    for name, row, options in updates():
        yield f"update {name}", partial(update, job, row, groups, **options)
    for name, row in job.chosen(dict(ALGORITHMS)).items():
        yield f"train {name}", partial(training, job, row)
    for name, options in RUNS.items():
        yield f"train {name}", partial(training, job, ALGORITHMS["grpo"], **options)
    yield "sample, evaluate", partial(sampling, job)
    yield "reward model", partial(reward_model, job)


if __name__ == "__main__":
    main()
