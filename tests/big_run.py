"""A run folder as long training leaves it, without the training: many samples, made up.

python -m tests.big_run FOLDER [--samples 100000] [--tokens 64]
"""

from __future__ import annotations

import argparse
import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np

from winnow.reporting.metrics import evaluation, step_metrics
from winnow.storage.lines import line_of
from winnow.storage.schema import write_groups
from winnow.types import Batch, Group, Outcome, Prompt, Sample, Score, StepStats

PROMPTS, EACH = 64, 8
WORDS = re.findall(
    r"\w+",
    "first then so the number of apples that she has left is therefore we add subtract multiply "
    "total cost each day week how many minutes per hour answer equals divided by with remaining",
)


def make_run(folder: Path, samples: int = 100_000, tokens: int = 64, seed: int = 0) -> Path:
    """Write a folder with so many samples of so many tokens, of prompts that are learned slowly."""
    rng = np.random.default_rng(seed)
    (folder / "rollouts").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "config.toml").write_text('model = "made-up"\nsteps = 1000\n')
    (folder / "environment.json").write_text('{"format": 1, "device": "none"}')
    prompts = [_prompt(number, rng) for number in range(PROMPTS)]
    steps = -(-samples // (PROMPTS * EACH))
    with (folder / "metrics.jsonl").open("w") as rows, (folder / "evals.jsonl").open("w") as evals:
        for step in range(steps + 1):
            groups = [_group(one, step / steps, step, tokens, rng) for one in prompts]
            if step % 40 == 0:
                write_groups(folder / f"rollouts/eval-{step:06d}.parquet", "eval", step, groups)
                evals.write(line_of(asdict(evaluation(step, groups, 1.0))))
            elif step:
                write_groups(folder / f"rollouts/train-{step:06d}.parquet", "train", step, groups)
                rows.write(line_of(_row(step, groups)))
    return folder


def _prompt(number: int, rng: np.random.Generator) -> Prompt:
    text = f"Question {number}: {' '.join(rng.choice(WORDS, 30))}?"
    return Prompt(f"made-up/{number}", text, str(number), ("easy", "hard")[number % 2])


def _group(
    prompt: Prompt, progress: float, step: int, tokens: int, rng: np.random.Generator
) -> Group:
    chance = 1 / (1 + math.exp(-6 * (progress - int(prompt.id.split("/")[1]) / PROMPTS)))
    right = rng.random(EACH) < chance
    samples = tuple(_sample(tokens, rng) for _ in range(EACH))
    return Group(
        prompt=prompt,
        prompt_ids=(1, 2, 3),
        samples=samples,
        scores=tuple(Score(float(one)) for one in right),
        outcomes=tuple(Outcome(bool(one), "correct" if one else "wrong") for one in right),
        advantages=tuple(float(one) for one in right),
        step=step,
    )


def _sample(tokens: int, rng: np.random.Generator) -> Sample:
    words = [f" {word}" for word in rng.choice(WORDS, tokens)]
    digits = rng.integers(0, 100, tokens)
    words = [f" {n}" if n < 30 else word for n, word in zip(digits, words, strict=True)]
    ends = np.cumsum([len(word) for word in words])
    return Sample(
        token_ids=tuple(rng.integers(0, 49_152, tokens).tolist()),
        logprobs=tuple((-rng.exponential(0.4, tokens)).astype(np.float32).tolist()),
        text="".join(words),
        finish_reason="eos",
        entropies=tuple(rng.exponential(0.5, tokens).astype(np.float32).tolist()),
        token_ends=tuple(ends.tolist()),
    )


def _row(step: int, groups: list[Group]) -> dict[str, object]:
    stats = StepStats(applied=True, grad_norm=1.0, lr=1e-5, loss=0.1, tokens=1000, samples=100)
    stats.influence = [[abs(a) for a in group.advantages] for group in groups]
    return step_metrics(
        step=step,
        batch=Batch(groups, fresh=True),
        policy_version=step,
        updates=[(range(len(groups)), stats)],
        empty_minibatches=0,
        seconds={"sample": 3.0, "update": 2.0},
        evaluation=None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=64)
    asked = parser.parse_args()
    print(json.dumps(str(make_run(asked.folder, asked.samples, asked.tokens))))


if __name__ == "__main__":
    main()
