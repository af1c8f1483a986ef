"""Checks of `check_gpu.py` on numbers: log-probs of samples, gradients, updates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gpu_cases as cases
import torch
from gpu_cases import CLOSE, LOOSE, Found, Job, most
from torch import Tensor

from tests import tiny
from tests.local import step, weights
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.objective import totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.critic import CriticConfig
from winnow.config.schema.lora import LoraConfig
from winnow.engines.base import AuxiliaryBatch, PerToken
from winnow.engines.devices import reproducible
from winnow.engines.learning.gradients import Models, accumulate
from winnow.engines.learning.token_values import logprobs, per_token
from winnow.engines.local.engine import LocalEngine
from winnow.engines.models.distributions import frozen
from winnow.engines.models.precision import mixed
from winnow.training.retokenise import Retokeniser
from winnow.training.sft_mix import Anchor
from winnow.types import Group, Outcome, Prompt, Sample, Score

ALIKE = 0.9
"""Least cosine of a gradient in bfloat16 and in float32: rounding moves tokens over a clip."""


def plain(module: Any, groups: Sequence[Group], heat: float) -> Tensor:
    """log pi of every sampled token by a forward pass a sample: no cache, no padding, no tree."""
    device, found = next(module.parameters()).device, []
    for group in groups:
        for sample in group.samples:
            ids = torch.tensor([[*group.prompt_ids, *sample.token_ids]], device=device)
            with torch.no_grad():
                logits = module(input_ids=ids, use_cache=False).logits[0]
            logp = (logits.double() / heat).log_softmax(-1)[len(group.prompt_ids) - 1 : -1]
            found.append(logp.gather(-1, ids[0, len(group.prompt_ids) :, None]).squeeze(-1).cpu())
    return torch.cat(found)


def recorded(groups: Sequence[Group]) -> Tensor:
    return torch.tensor(
        [x for g in groups for s in g.samples for x in s.logprobs], dtype=torch.float64
    )


def learned(engine: LocalEngine, groups: Sequence[Group], heat: float) -> Tensor:
    """log pi of every sampled token as the learner computes it."""
    found = per_token(
        logprobs(engine.forward(), heat),
        groups,
        [range(len(group.samples)) for group in groups],
        share=engine.forward().shares_prefix,
        microbatch_tokens=256,
    )
    return torch.tensor([x for own in found for s in own for x in s], dtype=torch.float64)


def sampler(job: Job, kind: str, heat: float) -> Found:
    """Recorded log-probs against plain passes here and on the CPU, and the learner's."""
    made = cases.engine(getattr(job.models, kind), job.device)
    there = cases.engine(getattr(job.models, kind), cases.CPU)
    stop = ("7", "4 ")
    groups = cases.sampled(made, heat, stop)
    same = cases.sampled(there, heat, stop)
    told = recorded(groups)
    gaps = {
        "plain": most(told, plain(made.module(), groups, heat)),
        "CPU": most(told, plain(there.module().double(), groups, heat)),
        "learner": most(told, learned(made, groups, heat)),
    }
    pairs = [
        (a, b)
        for g, h in zip(groups, same, strict=True)
        for a, b in zip(g.samples, h.samples, strict=True)
    ]
    equal = sum(a.token_ids == b.token_ids for a, b in pairs) / len(pairs)
    cut = all(not any(word in a.text for word in stop) for a, _ in pairs)
    reasons = {a.finish_reason for a, _ in pairs}
    shares = made.forward().shares_prefix
    ok = max(gaps.values()) < CLOSE and cut and "stop" in reasons and equal > 0.9 and shares
    told_gaps = ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
    return Found(ok, f"{told_gaps}; samples as on the CPU {equal:.0%}; ends {sorted(reasons)}")


def sampler_bfloat16(job: Job) -> Found:
    made = cases.engine(job.models.random, job.device, "bfloat16")
    groups = cases.sampled(made, 1.0)
    told = recorded(groups)
    gaps = [
        float((told - other).abs().mean())
        for other in (plain(made.module(), groups, 1.0), learned(made, groups, 1.0))
    ]
    ok = max(gaps) < LOOSE and made.forward().shares_prefix
    return Found(ok, f"mean difference: plain {gaps[0]:.1e}, learner {gaps[1]:.1e}")


def gradient(
    folder: Path, row: Algorithm, groups: Sequence[Group], device: torch.device, dtype: str
) -> tuple[Tensor, float]:
    """The gradient of a row's objective, in one row on the CPU, and the loss."""
    own = cases.side(folder, device, row)
    learner = own.learner
    own.engine.module().to(getattr(torch, dtype))
    trained = [
        *own.engine.trained(),
        *(learner._critic.trained() if learner._critic else []),
    ]

    def distributions(pieces: Any) -> Any:
        assert learner.reference is not None
        with learner.reference.used() as forward:
            return frozen(forward, pieces)

    models = Models(own.engine.forward(), learner._critic, distributions)
    done = accumulate(models, groups, row.objective, totals(groups), 0.7, 128)
    return cases.flat(
        [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    ), done.loss


def gradients(job: Job, row: Algorithm, groups: Sequence[Group]) -> Found:
    """The same groups on both devices: float32 to rounding, bfloat16 in direction."""
    folder = job.models.random
    annotator = cases.side(folder, cases.CPU, row).learner
    known = cases.prepared(row, groups, annotator, 0.7)
    there, loss_there = gradient(folder, row, known, cases.CPU, "float32")
    here, loss_here = gradient(folder, row, known, job.device, "float32")
    scale = float(there.abs().max())
    gap = most(here, there) / scale if scale else math.inf
    loss_gap = abs(loss_here - loss_there) / max(1.0, abs(loss_there))
    wide = cases.widened(row)
    exact, _ = gradient(folder, wide, known, cases.CPU, "float32")
    rough, _ = gradient(folder, wide, known, job.device, "bfloat16")
    cosine = float(torch.nn.functional.cosine_similarity(exact, rough, dim=0))
    ok = gap < CLOSE and loss_gap < CLOSE and cosine > ALIKE
    return Found(ok, f"gradient {gap:.1e}, loss {loss_gap:.1e}, bfloat16 cosine {cosine:.4f}")


def repeats(job: Job, dtype: str) -> Found:
    """The gradient of samples so long that attention shares out their keys: again bit by bit.

    Args:
        dtype: Of the weights, or "mixed".
    """
    low = dtype == "mixed"
    module = cases.engine(job.models.random, job.device, "float32" if low else dtype)
    trained, terms = module.trained(), ALGORITHMS["grpo"].objective
    random = torch.Generator().manual_seed(5)
    size = module.forward().vocabulary
    groups = []
    for number in range(4):
        ids = [torch.randint(size, (n,), generator=random).tolist() for n in (9, *[480] * 6)]
        samples = [Sample(tuple(own), (-3.0,) * len(own), "", "length") for own in ids[1:]]
        told = {"scores": (Score(1.0),) * 6, "outcomes": (Outcome(True, "check"),) * 6}
        weights = (1.0, -1.0, 0.5, -0.5, 1.0, -1.0)
        prompt = Prompt(id=str(number), text="")
        groups.append(Group(prompt, tuple(ids[0]), tuple(samples), advantages=weights, **told))
    found = []
    for _ in range(4):
        with reproducible(job.device), mixed(job.device, low):
            accumulate(Models(module.forward()), groups, terms, totals(groups), 0.7, 8192)
        found.append(cases.flat([p.grad for p in trained]))
        for p in trained:
            p.grad = None
    gaps = [most(found[0], other) for other in found[1:]]
    largest = float(found[0].abs().max())
    return Found(max(gaps) == 0 and largest > 0, f"{max(gaps):.1e} of {largest:.1e}")


def updates() -> Iterator[tuple[str, Algorithm, dict[str, Any]]]:
    """Updates with what may stand beside a policy."""
    ppo, grpo = ALGORITHMS["ppo"], ALGORITHMS["grpo"]
    by_kl = grpo.with_cells({"kl": "in-loss(0.5, full)"})
    yield "ppo, shared trunk", ppo, {}
    yield "ppo, own trunk", ppo, {"critic": CriticConfig(trunk="own", lr=1e-2)}
    yield "KL to the start", by_kl, {}
    yield "KL to the phase", by_kl, {"reference": "phase"}
    yield "KL to an average", by_kl, {"reference": "ema(0.5)"}
    yield "adapters, KL to the start", by_kl, {"lora": LoraConfig(rank=4)}
    yield "examples mixed in", grpo, {"examples": True}


def update(
    job: Job, row: Algorithm, groups: Sequence[Group], examples: bool = False, **options: Any
) -> Found:
    """Two updates, here and on the CPU: weights, averages, annotations, gradient norms."""
    folder, start = job.models.random, None
    if "lora" in options:
        start = weights(cases.engine(folder, cases.CPU, lora=options["lora"]))
    sides = [
        cases.side(folder, device, row, start=start, **options)
        for device in (cases.CPU, job.device)
    ]
    known = cases.prepared(row, groups, sides[0].learner, 0.7)
    extra = anchored(sides[0].engine) if examples else None
    before = sides[0].weights()
    norms = [
        [step(own.learner, known, row.objective, 0.7, extra).grad_norm for _ in range(2)]
        for own in sides
    ]
    after = [own.weights() for own in sides]
    moved = most(after[0], before)
    gaps = {
        "weights": most(*after) / moved if moved else math.inf,
        "norm": max(abs(a - b) / max(a, 1e-9) for a, b in zip(*norms, strict=True)),
    }
    asked = [range(len(group.samples)) for group in known]
    for wants in sorted({"ref", "values"} & row.needs):
        asked_of = [
            own.learner.reference_logprobs(known, asked, 0.7)
            if wants == "ref"
            else own.learner.values(known, asked)
            for own in sides
        ]
        gaps[wants] = most(*map(in_a_row, asked_of))
    told_gaps = ", ".join(f"{name} {gap:.1e}" for name, gap in gaps.items())
    return Found(max(gaps.values()) < 10 * CLOSE, f"{told_gaps}; largest change {moved:.1e}")


def in_a_row(found: PerToken) -> Tensor:
    return torch.tensor([x for group in found for sample in group for x in sample])


def anchored(engine: LocalEngine) -> AuxiliaryBatch:
    """Supervised examples, as a run mixes them in."""
    groups = [
        Group(
            Prompt(id=row["prompt"], text=row["prompt"]),
            (),
            (Sample((), (), row["completion"], "eos", length=1),),
            (Score(1.0),),
            (Outcome(True, "example"),),
            (1.0,),
        )
        for row in tiny.differences()
    ]
    return Anchor(groups, 0.5, 1.0).encoded(Retokeniser(engine)).auxiliary_batch(6, 6, 0, 0)
