"""Checks of `check_gpu.py` on bfloat16 beside float32: updates in mixed precision, own copies."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import gpu_cases as cases
import torch
from gpu_cases import CLOSE, LOOSE, Found, Job, Side, most
from gpu_numbers import in_a_row, plain, recorded
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.local import step, weights
from tests.rounded import EXPECTED, ROUNDING, far_from_clips
from winnow.algorithms.algorithm import Algorithm
from winnow.algorithms.objective import totals
from winnow.algorithms.table import ALGORITHMS
from winnow.config.schema.lora import LoraConfig
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import PerToken
from winnow.engines.learning.token_values import logprobs as of_policy
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.kv_cache import Slots
from winnow.engines.local.replays import Replays
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models import chunked_logprobs
from winnow.engines.models.chunked_logprobs import logprobs
from winnow.engines.models.forward import PolicyForward
from winnow.engines.models.precision import mixed
from winnow.engines.models.rounding import rounded
from winnow.types import Group

MIXED = cases.ADAM.model_copy(update={"precision": "mixed"})
HEAT, STEPS = 0.7, 8
DType = Literal["float32", "bfloat16"]
SIZES: dict[str, tuple[Callable[[Tensor], float], float, str]] = {
    "float32": (lambda gaps: float(gaps.max()), CLOSE, "at most"),
    "bfloat16": (lambda gaps: float(gaps.mean()), LOOSE, "on average"),
}
"""How differences of log-probs are measured in a data type, and how large they may be."""
FAST = MIXED.model_copy(update={"lr": 5e-2})


def mixes() -> Iterator[tuple[str, Algorithm, dict[str, Any]]]:
    """Gradients in mixed precision, with what they may be of."""
    grpo = ALGORITHMS["grpo"]
    for name in ("raft", "grpo", "ppo"):
        yield name, ALGORITHMS[name], {}
    yield "KL and entropy", grpo.with_cells({"kl": "in-loss(0.5, full)", "entropy": 0.1}), {}
    yield "adapters", grpo, {"lora": LoraConfig(rank=4)}
    yield "head computed again", grpo, {"kept": 0}


def mixed_gradient(
    job: Job,
    row: Algorithm,
    groups: Sequence[Group],
    lora: LoraConfig | None = None,
    kept: int = chunked_logprobs._KEPT_BYTES,
) -> Found:
    """Gradient and log-probs under `optimizer.precision = "mixed"` here, in float32 on the CPU.

    Log-probs are off by what their logits are, which are exact of rounded features.
    """
    folder = job.models.milder
    start = None if lora is None else weights(cases.engine(folder, cases.CPU, lora=lora))
    there, here = (
        cases.side(folder, device, row, lora=lora, start=start, optimizer=optimizer)
        for device, optimizer in ((cases.CPU, cases.ADAM), (job.device, MIXED))
    )
    known = cases.prepared(row, groups, there.learner, HEAT)
    known = far_from_clips(known, told(there, known))
    exact, rough = gradient(there, row, known), gradient(here, row, known, kept)
    kinds = {g.dtype for g in rough}
    one, other = cases.flat(exact), cases.flat(rough)
    off = float((other - one).norm() / one.norm())
    cosine = float(torch.nn.functional.cosine_similarity(one, other, dim=0))
    gap = float((in_a_row(told(there, known)) - in_a_row(told(here, known))).abs().mean())
    bound = 5 * EXPECTED
    ok = 0 < off < bound and cosine > 1 - bound**2 / 2 and 0 < gap < LOOSE
    text = f"gradient {off:.1e} of its length, cosine {cosine:.5f}, log-probs {gap:.1e} on average"
    return Found(ok and kinds == {torch.float32}, f"{text}, {', '.join(map(str, kinds))}")


def gradient(
    side: Side, row: Algorithm, groups: Sequence[Group], kept: int | None = None
) -> list[Tensor]:
    """Of all that a learner steps, as its updates take it."""
    learner = side.learner
    learner._forget()
    with keeping(chunked_logprobs._KEPT_BYTES if kept is None else kept):
        learner._gradient(groups, row.objective, totals(groups), HEAT, None)
    own = [*learner._masters, *learner._critic_masters]
    found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in own]
    learner._forget()
    return found


@contextmanager
def keeping(most_bytes: int) -> Iterator[None]:
    """In the block, the head keeps at most so many bytes of probabilities."""
    before = chunked_logprobs._KEPT_BYTES
    chunked_logprobs._KEPT_BYTES = most_bytes
    try:
        yield
    finally:
        chunked_logprobs._KEPT_BYTES = before


def told(side: Side, groups: Sequence[Group]) -> PerToken:
    """log pi of each token as the learner's own annotations have it."""
    forward = side.engine.forward()
    asked = [range(len(group.samples)) for group in groups]
    return side.learner._per_token(forward, of_policy(forward, HEAT), groups, asked)


def head(job: Job, positions: int) -> Found:
    """The head alone under a vocabulary of a real size, in slices, with probabilities kept where
    there are few positions; features and weights are numbers of bfloat16, so log-probs are exact.
    """
    random = torch.Generator().manual_seed(0)
    size, width = 49152, 64
    features, weight = (
        scale * torch.randn(n, width, generator=random).bfloat16().float()
        for n, scale in ((positions, 1.0), (size, 0.25))
    )
    index = torch.arange(positions).repeat_interleave(2)
    targets = torch.randint(size, (len(index),), generator=random)
    slopes = torch.randn(len(index), generator=random)
    results = []
    for device, low in ((cases.CPU, False), (job.device, True)):
        one, two = (x.to(device).requires_grad_() for x in (features, weight))
        with mixed(device, low):
            logp = logprobs(one, two, None, index.to(device), targets.to(device), HEAT)
            grads = torch.autograd.grad((logp * slopes.to(device)).sum(), (one, two))
        results.append([x.detach().cpu() for x in (logp, *grads)])
    (true, *exact), (found, *rough) = results
    gap = most(found, true)
    off = [float((a - b).norm() / b.norm()) for a, b in zip(rough, exact, strict=True)]
    # Three numbers of each product are rounded, and on a GPU partial sums of a long one.
    ok = gap < CLOSE and all(0 < x < 5 * ROUNDING for x in off)
    return Found(ok, f"log-probs {gap:.1e}, gradients {off[0]:.1e} and {off[1]:.1e}")


def own_copy(job: Job, dtype: DType, lora: LoraConfig | None = None) -> Found:
    """What a sampler's copy records, and a plain module of transformers in that data type, here:
    before and after updates of the float32 weights that change what it says by far more.

    Both round each logit, so log-probs in bfloat16 are some 2^-8 of a logit apart.
    """
    made = cases.engine(job.models.random, job.device, lora=lora)
    sampler = made.sampler(SamplingConfig(batch=16, dtype=dtype))
    caches = watched(sampler)
    measure, bound, what = SIZES[dtype]

    def apart(module: Any, of: Sequence[Group]) -> float:
        return measure((recorded(of) - plain(module, of, 1.0)).abs()) if of else 0.0

    gaps: list[float] = []
    groups: list[Group] = []
    moved = 0.0
    for version in range(2):
        if version:
            changed(made, groups)
        whole = merged(made, Path(tempfile.mkdtemp(dir=job.folder)), dtype).to(job.device)
        moved = apart(whole, groups)
        sampler.load(made.publish(version))
        groups = cases.answered(sampler, 1.0)
        gaps.append(apart(whole, groups))
    kinds = {str(p.dtype) for p in made._copies[dtype].forward().module.parameters()}
    graphs = [len(cache._replays._captured) for cache in caches if cache._replays]
    ok = max(gaps) < bound and moved > 3 * bound and kinds == {f"torch.{dtype}"}
    ok &= all(p.dtype == torch.float32 for p in made.module().parameters())
    ok &= not captures(job.device) or (len(graphs) == 2 and min(graphs) > 0)
    return Found(
        ok,
        f"from a plain module {gaps[0]:.1e}, after updates {gaps[1]:.1e} {what}, "
        f"which moved {moved:.1e}; graphs {graphs or 'none'}",
    )


def captures(device: torch.device) -> bool:
    """Whether decode steps are captured as graphs there."""
    return device.type == "cuda"


def watched(sampler: LocalSampler) -> list[Slots]:
    """The caches that it will make."""
    made: list[Slots] = []
    plainly = sampler._cache

    def cache(*given: Any) -> Any:
        found = plainly(*given)
        assert isinstance(found, Slots)
        made.append(found)
        return found

    vars(sampler)["_cache"] = cache
    return made


def changed(engine: LocalEngine, groups: Sequence[Group]) -> None:
    """Two updates at a rate that changes what is sampled."""
    row = ALGORITHMS["grpo"]
    learner = engine.learner(cases.plan(row, FAST))
    known = cases.prepared(row, groups, learner, 1.0)
    for _ in range(2):
        step(learner, known, row.objective, 1.0)
    learner.close()


def merged(engine: LocalEngine, folder: Path, dtype: str) -> Any:
    """The present weights as transformers reads them from a checkpoint, adapters merged, rounded as
    products read them: on the CPU, so that the device's rounding is held to that.
    """
    engine.save(folder, merged=True)
    module: Any = AutoModelForCausalLM.from_pretrained(folder)
    there = getattr(torch, dtype)
    low = {name: rounded(weight, there) for name, weight in module.state_dict().items()}
    module.to(there).load_state_dict(low)
    return module


def replays(job: Job, dtype: DType) -> Found:
    """Logits of a copy's decode steps as they are replayed, and one by one in their true shapes.

    The same tokens go to both. Rows split, leave and are fewer than a graph's on the way.
    """
    made = cases.engine(job.models.random, job.device)
    sampler = made.sampler(SamplingConfig(batch=16, dtype=dtype))
    forward = sampler._model()
    random = torch.Generator().manual_seed(1)
    prompts = [torch.randint(forward.vocabulary, (n,), generator=random).tolist() for n in (5, 9)]
    orders = [[0, 1, 1, 0, 1], *([list(range(5))] * (STEPS - 2)), [0, 1, 2]]
    tokens = [torch.randint(forward.vocabulary, (len(o),), generator=random) for o in orders]
    graphs, one_by_one = (Slots(forward, prompts, room=STEPS + 1, capacity=6) for _ in range(2))
    graphs._replays = Replays(graphs._step, graphs._grow, graphs.capacity, forward.agree)
    graphs._replays._captures = captures(job.device)
    one_by_one._replays = None
    found, expected = (
        steps(forward, slots, orders, tokens, job.device) for slots in (graphs, one_by_one)
    )
    captured = graphs._replays._captured
    measure, bound, what = SIZES[dtype]
    gap = measure((found - expected).abs())
    # Rows to spare change no sum, but which kernel adds it up: up to rounding.
    ok = gap < bound and forward.dtype == getattr(torch, dtype)
    ok &= not captures(job.device) or (len(captured) > 0 and graphs._replays._captures)
    return Found(ok, f"log-probs {gap:.1e} {what}; {len(captured)} graphs")


@torch.inference_mode()
def steps(
    forward: PolicyForward,
    slots: Slots,
    orders: Sequence[Sequence[int]],
    tokens: Sequence[Tensor],
    device: torch.device,
) -> Tensor:
    """Log-probs after each step, in one row on the CPU."""
    slots.place([0, 1])
    found = []
    for order, own in zip(orders, tokens, strict=True):
        slots.keep(order)
        logits = slots.step(own.to(device))
        found.append(logits.float().log_softmax(-1).cpu().flatten())
    return torch.cat(found)
