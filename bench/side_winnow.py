"""Winnow's side of the comparison: prints one JSON object. Run by compare.py."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch
from jobs import LEARNING_RATE, SAMPLES, arguments, hand_over, job, score, spread

import winnow
from winnow.types import Prompt, Score


class Scored:
    """The job's reward, in this process as in the other library."""

    name = "bench"

    def score(self, items: list[tuple[Prompt, str]]) -> list[Score]:
        return [Score(score(text, prompt.answer or "")) for prompt, text in items]

    def close(self) -> None: ...


def sampled(run: Path, steps: int) -> tuple[list[list[float]], list[str]]:
    """Rewards of each step, and all prompts in the order in which they were sampled."""
    columns = ["step", "group", "sample", "prompt", "reward"]
    rows = pq.read_table(run / "rollouts", columns=columns).to_pylist()
    rows.sort(key=lambda row: (row["step"], row["group"], row["sample"]))
    rewards = [[row["reward"] for row in rows if row["step"] == n + 1] for n in range(steps)]
    return rewards, [row["prompt"] for row in rows if row["sample"] == 0]


def _copied(dtype: str | None) -> dict[str, str]:
    return {} if dtype is None else {"dtype": dtype}


def main() -> None:
    options = arguments()
    options.add_argument("--microbatch-tokens", type=int, help="default: the job's")
    options.add_argument("--sampling-dtype", help="of the sampler's own copy; default: none")
    options.add_argument("--precision", default="float32", help="of an update: float32 or mixed")
    options.add_argument("--recompute", action="store_true", help="keep no activations of a block")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    work = job(given.job, given.steps)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = winnow.train(
            model=given.model,
            prompts=work.rows,
            reward=Scored(),
            algorithm="grpo",
            steps=given.steps,
            out=Path(folder) / "run",
            quiet=True,
            dtype=given.dtype,
            threads=given.threads,
            device=given.device,
            prompts_per_step=work.prompts_per_step,
            samples_per_prompt=SAMPLES,
            minibatch_prompts=work.prompts_per_step,
            microbatch_tokens=given.microbatch_tokens or work.microbatch_tokens,
            sampling={"max_tokens": work.max_tokens, **_copied(given.sampling_dtype)},
            optimizer={"lr": LEARNING_RATE, "precision": given.precision},
            engine={"activation_checkpointing": given.recompute},
            eval={"size": 0},
            checkpoint={"every": 10_000},
        )
        whole = time.perf_counter() - start
        rewards, prompts = sampled(result.folder, given.steps)
        if given.order:
            Path(given.order).write_text(json.dumps(prompts))
        rows = [
            {
                "sample": m["seconds"]["sample"],
                "update": m["seconds"]["update"],
                "step": sum(m["seconds"].values()) - m["seconds"]["checkpoint"],
                "reward": spread(values)[0],
                "error": spread(values)[1],
                "tokens": m["tokens_sampled"],
                "trained_tokens": m["tokens_trained"],
                "positions_trained": m["positions_trained"],
            }
            for m, values in zip(result.metrics, rewards, strict=True)
        ]
    hand_over(rows, whole)


if __name__ == "__main__":
    main()
