"""TRL's side of the comparison: prints one JSON object. Run by compare.py in TRL's environment."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from jobs import LEARNING_RATE, SAMPLES, arguments, hand_over, job, score, spread
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Clock(TrainerCallback):
    """Times whole steps."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.steps.append(time.perf_counter() - self.start)


def main() -> None:
    options = arguments()
    options.add_argument("--microbatch", type=int, required=True, help="sequences")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    work = job(given.job, given.steps)
    samples = work.prompts_per_step * SAMPLES
    prompts = work.rows
    if given.order:
        by_text = {row["prompt"]: row for row in work.rows}
        order = json.loads(Path(given.order).read_text())
        prompts = [by_text[text] for text in order if text in by_text]
    words = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype))
    rewards: list[tuple[float, float]] = []
    sampled: list[int] = []
    sampling: list[float] = []

    def reward(prompts: list[str], completions: list[str], answer: list[str], **rest: Any) -> Any:
        values = [score(text, a) for text, a in zip(completions, answer, strict=True)]
        rewards.append(spread(values))
        sampled.append(sum(len(ids) for ids in rest["completion_ids"]))
        return values

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=given.microbatch,
            gradient_accumulation_steps=samples // given.microbatch,
            num_generations=SAMPLES,
            max_completion_length=work.max_tokens,
            max_steps=given.steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            beta=0.0,
            epsilon=0.2,
            epsilon_high=0.28,
            loss_type="grpo",
            max_grad_norm=1.0,
            use_cpu=given.device == "cpu" or not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        clock = Clock()
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_list(prompts),
            processing_class=words,
            callbacks=[clock],
        )
        true = trainer._generate_and_score_completions

        def timed(inputs: Any) -> Any:
            start = time.perf_counter()
            out = true(inputs)
            sampling.append(time.perf_counter() - start)
            return out

        trainer._generate_and_score_completions = timed
        start = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - start
    rows = [
        {"sample": s, "update": t - s, "step": t, "reward": r[0], "error": r[1], "tokens": n}
        for s, t, r, n in zip(sampling, clock.steps, rewards, sampled, strict=True)
    ]
    hand_over(rows, whole)


main()
