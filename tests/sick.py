"""Runs of the fake engine that have a disease, each made to raise an alarm by the real loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import winnow
from tests import fake_engine
from winnow.engines import factory
from winnow.types import Group, Prompt, Sample, Score, StepStats

SETTINGS: dict[str, Any] = {
    "reward": "exact",
    "algorithm": "grpo",
    "steps": 10,
    "prompts_per_step": 8,
    "samples_per_prompt": 8,
    "sampling": {"max_tokens": 4},
    "optimizer": {"lr": 0.02},
    "eval": {"size": 0},
    "checkpoint": {"every": 3, "keep": 20},
    "report": False,
}
"""Of a run that learns slowly: ten logits, all equal at the start, of prompts whose answer is 7."""

Changed = Callable[[Group, Sample, int], Sample]


def engine(
    monkeypatch: pytest.MonkeyPatch,
    sampled: Changed | None = None,
    learned: Callable[[StepStats, int], StepStats] | None = None,
) -> None:
    """Put a fake engine in the local one's place.

    Args:
        sampled: What becomes of a sample; its number in its group.
        learned: What becomes of an update's statistics; the version that it makes.
    """

    class Sampler(fake_engine.Sampler):
        def _sample(self, requests: Any) -> Any:
            for place, group in super()._sample(requests):
                if sampled is not None:
                    own = tuple(sampled(group, s, i) for i, s in enumerate(group.samples))
                    group = group.with_(samples=own)
                yield place, group

    class Learner(fake_engine.Learner):
        def step(self, *given: Any) -> StepStats:
            stats = super().step(*given)
            return stats if learned is None else learned(stats, self.version)

    class Engine(fake_engine.Engine):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            self.sampler, self.learner = lambda _: Sampler(self), lambda plan: Learner(self, plan)

    monkeypatch.setitem(factory.ENGINES, "local", factory.Kind(Engine, lambda *_: None))


def files(folder: Path, answers: Sequence[str] = "7" * 16, **columns: Sequence[str]) -> dict:
    """A model that knows nothing, and a prompt for each answer."""
    model, prompts = folder / "model", folder / "prompts.jsonl"
    model.mkdir(exist_ok=True)
    (model / "logits.json").write_text(json.dumps([0.0] * 10))
    rows = [{"prompt": f"{i}?", "answer": answer} for i, answer in enumerate(answers)]
    for name, values in columns.items():
        rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"model": str(model), "prompts": str(prompts)}


def digit(sample: Sample, number: int, **more: Any) -> Sample:
    """The same sample, but another digit."""
    return replace(sample, text=str(number), token_ids=(48 + number,), **more)


class Scores:
    """A reward by prompt and completion."""

    name = "scores"

    def __init__(self, of: Callable[[str, str], float | None]) -> None:
        self._of = of

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        found = [self._of(prompt.text, text) for prompt, text in items]
        return [Score.failed("away") if x is None else Score(x) for x in found]

    def close(self) -> None: ...


def texts(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """A model, and a file of texts without token ids: each one character, sampled as two tokens."""
    own = {key: given[key] for key in ("model", "prompts", "reward")}
    sampled = winnow.sample(**own, n=4, sampling={"max_tokens": 4}, out=folder / "pool", quiet=True)
    rows = pq.read_table(sampled.folder / "samples").to_pylist()
    gone = {"token_ids": None, "logprobs": None, "entropies": None}
    rows = [{**row, **gone, "token_ends": [0, 1], "tokens": 2} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), folder / "texts.parquet")
    return {"model": own["model"], "samples_file": str(folder / "texts.parquet")}


def off_policy(stats: StepStats, log_ratios: Sequence[float]) -> StepStats:
    """As if log-probs of its samples, of one token each, had changed by so much within the step."""
    ratios = np.exp(log_ratios)
    stats.ratio_tokens, stats.ratio_sum = len(ratios), float(ratios.sum())
    stats.kl_sum = float((ratios - 1 - np.log(ratios)).sum())
    stats.log_weights = list(log_ratios)
    return stats


def skipped(stats: StepStats) -> StepStats:
    """As if the gradient had not been finite."""
    stats.applied = False
    return stats
