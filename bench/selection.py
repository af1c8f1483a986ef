"""`winnow select` on a million samples: seconds and memory, one row a set of rules.

    python bench/selection.py

10,000 prompts x 100 samples with texts of about 100 characters, 20 token ids and 20 log-probs each,
in the schema of a sample folder, four files of a quarter of the prompts. Each command is a process
of its own; its seconds are from start to end, by the clock and by the processors; its memory is
the peak resident set.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from winnow.storage.schema import SCHEMA

TOKENS = 20
FILES = 4
WORDS = [
    "well",
    "first",
    "we",
    "then",
    "let",
    "us",
    "see",
    "that",
    "she",
    "has",
    "so",
    "there",
    "are",
]
BOTH = ("kept.parquet", "kept.jsonl")
CASES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("correct", "distinct", "at-most(4)"), BOTH),
    (("gibbs(beta=0.5, r_max=1)",), BOTH),
    (("rso(beta=0.5, k=8)",), BOTH),
    (("everything",), BOTH),
    (("correct", "distinct-text", "length(low=2, high=30)", "best(2)"), ()),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--prompts", type=int, default=10_000)
    options.add_argument("--samples", type=int, default=100, help="of each prompt")
    options.add_argument("--cores", type=int, default=2)
    options.add_argument("--folder", type=Path, help="keep the samples here, or find them here")
    given = options.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    with TemporaryDirectory() as scratch:
        samples = given.folder or Path(scratch) / "samples"
        if not samples.exists():
            make(samples, given.prompts, given.samples, np.random.default_rng(0))
        size = sum(path.stat().st_size for path in samples.iterdir())
        print(f"{given.prompts} prompts x {given.samples} samples, {size / 1e6:.0f} MB of Parquet")
        print(f"{'rules':<64}{'survivors':>10}{'written':>10}{'wall':>9}{'CPU':>9}{'peak':>10}")
        for number, (rules, outputs) in enumerate(CASES):
            out = Path(scratch) / str(number)
            out.mkdir()
            print(measured(samples, rules, [out / name for name in outputs]), flush=True)


def make(folder: Path, prompts: int, samples: int, rng: np.random.Generator) -> None:
    """Files of samples whose answers repeat as those of a model do: some right, many alike."""
    folder.mkdir(parents=True)
    for number, own in enumerate(np.array_split(np.arange(prompts), FILES)):
        tables = [
            _samples(some.tolist(), samples, rng) for some in np.array_split(own, 8) if len(some)
        ]
        pq.write_table(pa.concat_tables(tables), folder / f"part-{number:05d}.parquet")


def _samples(prompts: Sequence[int], samples: int, rng: np.random.Generator) -> pa.Table:
    rows = len(prompts) * samples
    asked = [prompt for prompt in prompts for _ in range(samples)]
    first, second = rng.integers(1, 40, rows), rng.integers(1, 6, rows)
    right = rng.random(rows) < np.repeat(rng.beta(0.5, 1, len(prompts)), samples)
    words = rng.choice(WORDS, size=(rows, 4)).tolist()
    texts = [
        f"{' '.join(said)}: {a} boxes of {p}, so {a} * {p} = {a * p} in all. Then {a * p} + {b} = "
        f"{a * p + b} with the others. The answer is {a * p + b}."
        for p, a, b, said in zip(asked, first.tolist(), second.tolist(), words, strict=True)
    ]
    offsets = pa.array(np.arange(rows + 1) * TOKENS, pa.int32())
    ids = pa.array(rng.integers(0, 49_152, rows * TOKENS), pa.int32())
    logprobs = pa.array(-rng.exponential(size=rows * TOKENS), pa.float32())
    columns = {
        "step": np.zeros(rows, np.int32),
        "split": ["sample"] * rows,
        "group": np.array(asked, np.int32),
        "sample": np.tile(np.arange(samples, dtype=np.int32), len(prompts)),
        "prompt_id": [f"train-{p}" for p in asked],
        "prompt": [f"There are {p} apples in each box. How many are there in all?" for p in asked],
        "answer": [str(p) for p in asked],
        "text": texts,
        "tokens": np.full(rows, TOKENS, np.int32),
        "token_ids": pa.ListArray.from_arrays(offsets, ids),
        "logprobs": pa.ListArray.from_arrays(offsets, logprobs),
        "finish_reason": ["eos"] * rows,
        "model": ["smollm2-135m"] * rows,
        "policy_version": np.zeros(rows, np.int64),
        "temperature": np.ones(rows),
        "truncated": np.zeros(rows, bool),
        "reward": right.astype(np.float64),
        "right_at": np.ones(rows),
        "right": right,
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(rows, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def measured(samples: Path, rules: Sequence[str], outputs: Sequence[Path]) -> str:
    """One command as a row of the table."""
    command = [sys.executable, "-m", "winnow", "select", str(samples)]
    command += [part for rule in rules for part in ("--rule", rule)]
    command += [part for path in outputs for part in ("--out", str(path))]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    survivors = next(line for line in said.splitlines() if " survive " in line).split()[0]
    size = sum(path.stat().st_size for path in outputs)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return (
        f"{', '.join(rules):<64}{survivors:>10}{size / 1e6:>7.0f} MB{seconds:>7.1f} s"
        f"{usage.ru_utime + usage.ru_stime:>7.1f} s{peak / 1e9:>7.2f} GB"
    )


if __name__ == "__main__":
    main()
