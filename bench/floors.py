"""Time over floor, stage by stage: what a step takes, over what this machine must take for it.

    make floors ARGS="--job addition"

The floor of a stage is the time of its matrix products alone, measured here at the shapes that
occur: 2 N_body for each prompt token once and 2 N for each token sampled; 6 N_body for each prompt
token of a trained group once and 6 N for each answer token trained; for the optimizer its memory
traffic. It counts every token of every sample, the last one too, which nobody reads. The second
floor counts what samples begin with once, as the engine does: against it, what is left is
attention, element-wise work and bookkeeping.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from compare import export_model
from jobs import SAMPLES, Job, job
from machine import Rates, bandwidth, rates, sizes

from winnow.algorithms.objective import totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema import from_dict
from winnow.config.schema.optimizer import OptimizerConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import LearnerPlan, Request, SamplingParams
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.learner import LocalLearner
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.prefix_tree import added
from winnow.rollouts.generate import ask
from winnow.types import Group, Outcome, Prompt, Score

FORWARD = (1, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
ADAM_BYTES = 4 * 7  # weight, gradient and two averages are read, all but the gradient written


@dataclass(frozen=True)
class Floors:
    """Seconds of a stage: every token counted, and what is the same counted once."""

    each: float
    distinct: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--job", choices=["addition", "reasoning"], default="addition")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--times", type=int, default=5, help="runs of each stage; their median")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--precision", default="float32", help="of an update: float32 or mixed")
    options.add_argument("--device", default="cpu")
    options.add_argument("--sampling-dtype", help="of the sampler's own copy of the weights")
    options.add_argument("--model", help="folder; default: the built-in model")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    work = job(given.job, 1)
    with TemporaryDirectory() as folder:
        name = given.model or export_model(Path(folder) / "model")
        settings = {"model": name, "dtype": given.dtype, "device": given.device}
        engine = LocalEngine(from_dict(settings))
        copied = {"dtype": given.sampling_dtype} if given.sampling_dtype else {}
        sampler = engine.sampler(SamplingConfig(max_tokens=work.max_tokens, **copied))
        plan = LearnerPlan(
            OptimizerConfig(lr=0.0, precision=given.precision), 100, work.microbatch_tokens
        )
        report(given, work, sampler, engine.learner(plan))


def report(given: Any, work: Job, sampler: LocalSampler, learner: LocalLearner) -> None:
    model: Any = learner.forward.module
    size = sizes(model)
    sampled: Any = sampler._forward.module  # its own copy, if it has one
    groups, sample_seconds, rows = sample(work, sampler, sampled, given.times)
    parts = microbatches(learner, groups)
    forward = rates(model, FORWARD)
    steps = forward if sampled is model else rates(in_dtype(model, sampled), FORWARD)
    low = copy.deepcopy(model).bfloat16() if given.precision == "mixed" else model
    both = rates(low, (sum(parts) // len(parts),), backward=True)
    traffic = bandwidth(learner.forward.device)
    adam = ADAM_BYTES * size.parameters / traffic
    print(
        f"{work.name}, {given.dtype}, updates {given.precision}, {given.threads} threads, "
        f"{platform.machine()}"
    )
    flops = 2 * (size.body + size.head) / 1e9
    for count in (32, 64, 128, 256, 512):
        at = forward.seconds(count, "body") + forward.seconds(count, "head")
        print(f"  {count:>4} rows forward: {flops * count / at:6.0f} GFLOP/s")
    for count in both.rows:
        at = both.seconds(count, "body") + both.seconds(count, "head")
        print(f"  {count:>4} rows forward and backward: {3 * flops * count / at:6.0f} GFLOP/s")
    print(f"  memory traffic: {traffic / 1e9:.1f} GB/s")
    print(f"{'':<22}{'seconds':>9}{'floor':>8}{'ratio':>7}{'distinct':>10}{'ratio':>7}")

    def show(name: str, seconds: float, floor: Floors) -> None:
        print(
            f"{name:<22}{seconds:>9.2f}{floor.each:>8.2f}{seconds / floor.each:>7.2f}"
            f"{floor.distinct:>10.2f}{seconds / floor.distinct:>7.2f}"
        )

    show("sampling", sample_seconds, sampling_floor(groups, rows, steps))
    whole = with_advantages(groups, 1.0)
    some = with_advantages(groups, 0.3)
    taken = {}
    for name, batch in (("update, all survive", whole), ("update, 30 % survive", some)):
        seconds = update(learner, batch, given.times)
        floor = update_floor(batch, both, adam)
        show(name, seconds, floor)
        taken[name] = (seconds, floor)
    show("of it the optimizer", optimizer(learner, given.times), Floors(adam, adam))
    (a, floor_a), (b, floor_b) = taken.values()
    print(
        f"30 % of all: measured {b / a:.3f}, floor {floor_b.each / floor_a.each:.3f} "
        f"({b / a / (floor_b.each / floor_a.each) - 1:+.0%}), "
        f"distinct {floor_b.distinct / floor_a.distinct:.3f} "
        f"({b / a / (floor_b.distinct / floor_a.distinct) - 1:+.0%})"
    )


def in_dtype(model: Any, sampled: Any) -> Any:
    """The model in the data type of what is sampled from, its layers not laid out."""
    return copy.deepcopy(model).to(next(sampled.parameters()).dtype)


def median(job: Callable[[], object], times: int) -> float:
    """After one run that warms up."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return sorted(found[1:])[times // 2]


def sample(
    work: Job, sampler: LocalSampler, model: Any, times: int
) -> tuple[list[Group], float, list[int]]:
    """The groups of a step, the seconds it took, and the tokens in each pass of the model."""
    params = SamplingParams(max_tokens=work.max_tokens)
    requests = [
        Request(Prompt(id=str(i), text=row["prompt"]), SAMPLES, i, params)
        for i, row in enumerate(work.rows)
    ]
    seconds = median(lambda: list(ask(sampler, requests)), times)
    rows: list[int] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: rows.append(int(kwargs["input_ids"].numel())), with_kwargs=True
    )
    sampled = dict(ask(sampler, requests))
    hook.remove()
    return [sampled[i] for i in range(len(requests))], seconds, rows


def sampling_floor(groups: Sequence[Group], rows: Sequence[int], rate: Rates) -> Floors:
    """`rows`: tokens in each pass, of which the first reads the prompts."""
    lengths = [len(sample.token_ids) for group in groups for sample in group.samples]
    going = [sum(length > t for length in lengths) for t in range(max(lengths))]
    prompts = sum(len(group.prompt_ids) for group in groups)

    def steps(counts: Sequence[int]) -> float:
        return sum(rate.seconds(n, "body") + rate.seconds(n, "head") for n in counts)

    return Floors(
        rate.seconds(prompts, "body") + steps(going),
        rate.seconds(rows[0], "body") + steps(rows[1:]),
    )


def with_advantages(groups: Sequence[Group], share: float) -> list[Group]:
    """That share of every group's samples survives, with weights 1 and -1 by turns."""
    out = []
    for number, group in enumerate(groups):
        n = len(group.samples)
        # 2.4 of 8: two in three groups out of five, three in the others
        count = int(share * n * (number + 1)) - int(share * n * number)
        weights = tuple((-1.0) ** i if i < count else 0.0 for i in range(n))
        outcomes = tuple(Outcome(weight != 0, "bench") for weight in weights)
        scores = tuple(Score(float(weight > 0)) for weight in weights)
        out.append(replace(group, advantages=weights, outcomes=outcomes, scores=scores))
    return out


def microbatches(learner: LocalLearner, groups: Sequence[Group]) -> list[int]:
    """Tokens in each pass of an update that trains on every sample."""
    seen: list[int] = []
    body: Any = learner.forward.module.base_model
    hook = body.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(int(kwargs["input_ids"].numel())), with_kwargs=True
    )
    step(learner, with_advantages(groups, 1.0))
    hook.remove()
    return seen


def update(learner: LocalLearner, groups: Sequence[Group], times: int) -> float:
    return median(lambda: step(learner, groups), times)


def step(learner: LocalLearner, groups: Sequence[Group]) -> None:
    learner.step(groups, ALGORITHMS["grpo"].terms, totals(groups), 1.0)


def update_floor(groups: Sequence[Group], rate: Rates, adam: float) -> Floors:
    (rows,) = rate.rows
    body, head = rate.body[0] / rows, rate.head[0] / rows  # seconds a token, forward and backward
    prompts = answers = distinct = contexts = 0
    for group in groups:
        kept = [
            sample.token_ids
            for sample, weight in zip(group.samples, group.advantages, strict=True)
            if weight
        ]
        if kept:
            prompts += len(group.prompt_ids)
            answers += sum(len(tokens) for tokens in kept)
            contexts += 1 + added((), [tokens[:-1] for tokens in kept])
    inputs = [
        (*group.prompt_ids, *sample.token_ids[:-1])
        for group in groups
        for sample, weight in zip(group.samples, group.advantages, strict=True)
        if weight
    ]
    distinct = added((), inputs)
    return Floors(
        body * (prompts + answers) + head * answers + adam,
        body * distinct + head * contexts + adam,
    )


def optimizer(learner: LocalLearner, times: int) -> float:
    """The gradient's norm and the step, on gradients of one."""

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(learner._masters, 1e9, foreach=True)
        learner._adam.step()

    for weight in learner._masters:
        weight.grad = torch.ones_like(weight)
    seconds = median(step, times)
    learner._adam.zero_grad(set_to_none=True)
    return seconds


if __name__ == "__main__":
    main()
