"""What `check_gpu.py` compares on: tiny models, samples made once on a CPU, rewards by place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from tests import tiny
from tests.kills import Killed
from tests.local import weights
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.assignment import assign_advantages
from winnow.algorithms.kl import InReward
from winnow.algorithms.losses import SequenceClipped
from winnow.algorithms.registry import LOSSES
from winnow.algorithms.selection import select
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import from_dict
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.lora import LoraConfig
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import PHASE, START, LearnerPlan, Request, SamplingParams
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.sampler import LocalSampler
from winnow.reporting.observer import Observers
from winnow.rollouts.annotate import Annotator
from winnow.rollouts.generate import ask
from winnow.types import Group, Prompt, Score

CPU = torch.device("cpu")
CLOSE, LOOSE = 1e-4, 0.05
"""Most difference of float32 (log-probs in nats, gradients over their largest), and of bfloat16."""
PROMPTS, SAMPLES, TOKENS = 6, 6, 12
ADAM = OptimizerConfig(lr=1e-2, eps=1e-2)
"""A large eps: where a gradient is all rounding, Adam would make a whole step of its sign."""


@dataclass(frozen=True)
class Found:
    """What a check measured."""

    ok: bool
    numbers: str


@dataclass(frozen=True)
class Models:
    """Folders of tiny models: one warmed up, two random, one with a sliding window."""

    warm: Path
    random: Path
    milder: Path
    """Random weights of two thirds, so that rounding is further from what it changes."""
    window: Path


@dataclass(frozen=True)
class Job:
    """What the checks share."""

    device: torch.device
    folder: Path
    models: Models
    rows: tuple[str, ...]

    def chosen(self, rows: dict[str, Algorithm]) -> dict[str, Algorithm]:
        return {name: row for name, row in rows.items() if not self.rows or name in self.rows}


def make_models(folder: Path) -> Models:
    """Random weights are large enough for attention and logits to be far from uniform."""
    made = Models(folder / "warm", folder / "random", folder / "milder", folder / "window")
    tiny.save(made.warm)
    tiny.model(1, initializer_range=0.15).save_pretrained(made.random)
    tiny.model(1, initializer_range=0.1).save_pretrained(made.milder)
    config = {**tiny.model().config.to_dict(), "initializer_range": 0.15, "sliding_window": 5}
    config = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    torch.manual_seed(2)
    MistralForCausalLM(MistralConfig(**config)).save_pretrained(made.window)
    for path in (made.random, made.milder, made.window):
        tiny.tokenizer().save_pretrained(path)
    return made


def engine(
    folder: Path, device: torch.device, dtype: str = "float32", lora: LoraConfig | None = None
) -> LocalEngine:
    settings = {"model": str(folder), "dtype": dtype, "device": str(device)}
    config = from_dict({**settings, "microbatch_tokens": 128})
    return LocalEngine(config.model_copy(update={"lora": lora or LoraConfig()}))


def sampled(
    made: LocalEngine, temperature: float, stop: tuple[str, ...] = (), prompts: int = PROMPTS
) -> list[Group]:
    """A group for each of some prompts, fewer under way at a time than there are."""
    return answered(made.sampler(SamplingConfig(batch=16)), temperature, stop, prompts)


def answered(
    sampler: LocalSampler, temperature: float, stop: tuple[str, ...] = (), prompts: int = PROMPTS
) -> list[Group]:
    """What a sampler makes of them."""
    params = SamplingParams(temperature, max_tokens=TOKENS, stop=stop)
    requests = [
        Request(Prompt(id=row["prompt"], text=row["prompt"]), SAMPLES, number, params)
        for number, row in enumerate(tiny.problems()[:prompts])
    ]
    found = dict(ask(sampler, requests))
    return [found[number] for number in range(len(requests))]


def scored(groups: Sequence[Group]) -> list[Group]:
    """Rewards by place alone: all right, all wrong, and mixed groups."""
    rewards = [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    return [
        group.with_(scores=tuple(Score(float(r)) for r in rewards[number % 4]))
        for number, group in enumerate(groups)
    ]


def nudged(weights: Sequence[Tensor], seed: int, size: float) -> list[Tensor]:
    """The weights and a little noise, the same on every device."""
    random = torch.Generator().manual_seed(seed)
    return [w + size * torch.randn(w.shape, generator=random).to(w) for w in weights]


def prepared(row: Algorithm, groups: Sequence[Group], learner: LocalLearner, heat: float) -> Any:
    """Selected and annotated groups with advantages, as a rollout makes them."""
    rng = np.random.default_rng(0)
    chosen = [select(group, row.select, rng) for group in scored(groups)]
    filled = Annotator(row, learner, heat).fill(chosen, for_advantages=True)
    penalty = row.kl if isinstance(row.kl, InReward) else None
    return assign_advantages(filled, row.advantage, row.reward_scale, penalty)


def rows() -> dict[str, Algorithm]:
    """Every row of the table, and a row for every other loss, KL and bonus."""
    grpo = ALGORITHMS["grpo"]
    cells: dict[str, dict[str, Any]] = {
        f"loss {name}": {"loss": name} for name in LOSSES if name not in ("nll", "dpo")
    }
    for kind in ("k1", "k2", "k3", "full"):
        cells[f"kl {kind}"] = {"kl": f"in-loss(0.5, {kind})"}
    cells["kl k3 by sequence"] = {"kl": "in-loss(0.5, k3, sequence)"}
    cells["entropy"] = {"entropy": 0.1}
    return {**ALGORITHMS, **{name: grpo.with_cells(given) for name, given in cells.items()}}


def widened(row: Algorithm) -> Algorithm:
    """Without a clip that is narrower than what bfloat16 can tell apart."""
    terms = [
        replace(term, loss=SequenceClipped(0.2, 0.28))
        if isinstance(term.loss, SequenceClipped)
        else term
        for term in row.terms
    ]
    return replace(row, terms=tuple(terms))


@dataclass(frozen=True)
class Side:
    """A policy on one device, with its learner's critic and reference."""

    engine: LocalEngine
    learner: LocalLearner

    def weights(self) -> Tensor:
        """All that is trained, and an average that follows it, in one row on the CPU."""
        learner = self.learner
        critic = learner._critic.trained() if learner._critic else []
        state = learner.reference.state() if learner.reference else []
        return flat([*self.engine.trained(), *critic, *state])


def flat(tensors: Sequence[Tensor | None]) -> Tensor:
    """In one row on the CPU, float32."""
    return torch.cat([t.detach().float().cpu().flatten() for t in tensors if t is not None])


def side(
    folder: Path,
    device: torch.device,
    row: Algorithm,
    *,
    reference: str = "start",
    critic: CriticConfig | None = None,
    lora: LoraConfig | None = None,
    start: Sequence[Tensor] | None = None,
    optimizer: OptimizerConfig = ADAM,
) -> Side:
    """A policy that has moved a little from its reference and from what sampled.

    Args:
        start: First weights, for adapters: a device may draw others than a CPU.
    """
    made = engine(folder, device, lora=lora)
    own = weights(made) if start is None else [w.to(device) for w in start]
    made.put(nudged(own, 3, 0.01))
    for name in (START, PHASE):
        made.snapshot(name)
    made.put(nudged(own, 4, 0.003))
    learner = made.learner(plan(row, optimizer, reference, critic))
    if learner._critic is not None:
        head = learner._critic.head
        head.weight.data.copy_(nudged([head.weight.data], 5, 0.05)[0])
    return Side(made, learner)


def plan(
    row: Algorithm,
    optimizer: OptimizerConfig = ADAM,
    reference: str = "start",
    critic: CriticConfig | None = None,
) -> LearnerPlan:
    """Of a learner with the critic and the reference that a row needs."""
    return LearnerPlan(
        optimizer,
        updates=4,
        microbatch_tokens=128,
        critic=(critic or CriticConfig(lr=1e-2)) if "values" in row.needs else None,
        reference=reference if row.refers or "ref" in row.needs else None,
    )


def most(a: Tensor, b: Tensor) -> float:
    """The largest difference; NaN and inf count as infinitely far."""
    gap = float((a.double() - b.double()).abs().max())
    return gap if math.isfinite(gap) else math.inf


class KillAfterCheckpoint(Observers):
    """Dies at the first thing that it hears of after a checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.saved = False

    def progress(self, stage: str, done: int, total: int) -> None:
        if self.saved and stage != "checkpoint":
            raise Killed
        self.saved = self.saved or stage == "checkpoint"


def training(row: Algorithm, model: Path, prompts: Path, device: str, **more: Any) -> Any:
    """Settings of a run of two steps or three, a checkpoint after each."""
    once = row.resample == "once"
    return {
        "model": str(model),
        "prompts": str(prompts),
        "algorithm": row.name,
        "reward": "exact",
        "device": device,
        "steps": 1 if once and row.epochs > 1 else 2,
        "prompts_per_step": 4,
        "samples_per_prompt": 4,
        "minibatch_prompts": 2,
        "sampling": {"max_tokens": 4},
        "optimizer": {"lr": 1e-3},
        "eval": {"size": 4},
        "checkpoint": {"every": 1},
        **more,
    }


def write_prompts(path: Path, completion: bool = False) -> Path:
    """The problems as a file; with completions, as supervised examples."""
    source: Callable[[], list[dict[str, str]]] = tiny.differences if completion else tiny.problems
    path.write_text("".join(json.dumps(row) + "\n" for row in source()))
    return path
