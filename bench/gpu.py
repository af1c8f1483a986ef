"""A step on a GPU beside plain `transformers`, with random weights: a Markdown table.

    make bench-gpu

Both sides sample as many tokens from the same prompts (nothing ends early) and train on as many.
`generate` and the plain update are tried at several batch sizes and shown at their fastest, as is
Winnow's update at several micro-batches. The plain update is what a trainer does that knows no
rejection: every sample, in full padded rows, with AdamW on the weights as they are. Winnow steps a
float32 copy of bfloat16 weights, and shares prompts. Of float32 weights it samples from a copy in
bfloat16 too, made anew each time, and updates in mixed precision. No tokenizer or model is
downloaded.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from floors import with_advantages
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests import local
from winnow.algorithms.table import ALGORITHMS
from winnow.engines.base import PRESENT, Request, SamplingParams, WeightsRef
from winnow.engines.devices import pick_device
from winnow.engines.local.own_copy import OwnCopy
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.forward import PolicyForward
from winnow.errors import WinnowError
from winnow.rollouts.generate import ask
from winnow.types import Group, Prompt

SAMPLES = 8
COPY = "copy in bfloat16"
UNKNOWN = "<0>"
"""The word of token 0, and of what is no word."""
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
    },
    "Llama-3.2-1B": {
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
    },
    "tiny": {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 192,
        "vocab_size": 512,
    },
}


@dataclass(frozen=True)
class Work:
    """What both sides do."""

    shape: str
    dtype: str
    device: torch.device
    prompts: int
    prompt_tokens: int
    tokens: int
    rows: tuple[int, ...]
    """Rows of a batch of `generate` to try, and of a micro-batch of the plain update."""
    microbatches: tuple[int, ...]
    """Tokens of a micro-batch of ours to try."""

    @property
    def samples(self) -> int:
        return self.prompts * SAMPLES

    def prompt_ids(self) -> list[list[int]]:
        size = SHAPES[self.shape]["vocab_size"]
        random = torch.Generator().manual_seed(0)
        table = torch.randint(size, (self.prompts, self.prompt_tokens), generator=random)
        rows: list[list[int]] = table.tolist()
        return rows


@dataclass(frozen=True)
class Cost:
    """Seconds and peak GB of a stage, and the size at which it was fastest."""

    seconds: float
    memory: float | None
    size: str


Row = tuple[str, Cost | None]
"""A line of the table: what it is, and its cost; none where no size fits in memory."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--tiny", action="store_true", help="a tiny model and job, to try this")
    options.add_argument("--limit", type=float, default=270, help="begin no model after seconds")
    given = options.parse_args()
    device = pick_device(given.device)
    begun = time.perf_counter()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}\n")
    print("| model | stage | | seconds | tokens/s | GB | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for work in works(device, given.tiny):
        if time.perf_counter() - begun > given.limit:
            print(f"| {work.shape}, {work.dtype} | left out: no time | | | | | |")
            continue
        measure(work)


def works(device: torch.device, tiny: bool) -> list[Work]:
    if tiny:
        small = Work("tiny", "float32", device, 2, 12, 8, (4, 16), (64, 512))
        return [small, replace(small, dtype="bfloat16")]
    first = Work(
        "SmolLM2-135M", "bfloat16", device, 32, 128, 128, (32, 64, 128, 256), (4096, 16384, 65536)
    )
    return [
        first,
        replace(first, shape="Llama-3.2-1B"),
        replace(first, dtype="float32"),
    ]


def measure(work: Work) -> None:
    """Each stage on both sides, ours first; nothing of one side is kept for the other.

    A stage's lines are printed once it is measured. Ratios are over ours, the whole step's too.
    """
    groups, ours = sampled(work)
    free()
    sample: list[Row] = [("winnow", ours)]
    rounds = work.dtype == "float32"
    if rounds:
        sample.append((f"winnow, {COPY}", sampled(work, copied=True)[1]))
        free()
    sample.append(("generate", generated(work)))
    free()
    report(work, "sample", sample)
    update = learned(work, groups)
    free()
    if rounds:
        update += [(f"{what}, mixed", cost) for what, cost in learned(work, groups, "mixed")]
        free()
    update.append(("plain", trained(work, groups)))
    free()
    report(work, "update", update)
    for number, (_, mine) in enumerate(update[:-1]):
        what, low = ("all trained", "30 % trained")[number % 2], number > 1
        first = sample[1][1] if low else ours
        costs = [first, mine, sample[-1][1], update[-1][1]]
        if None not in costs:
            a, b, c, d = (cost.seconds for cost in costs if cost)
            print(
                f"| {work.shape}, {work.dtype} | step | {what}{f', {COPY}, mixed' * low} "
                f"| {a + b:.3f} against {c + d:.3f} | | | {(c + d) / (a + b):.2f} |",
                flush=True,
            )


def report(work: Work, stage: str, rows: Sequence[Row]) -> None:
    tokens, first = work.samples * work.tokens, rows[0][1]
    for what, cost in rows:
        head = f"| {work.shape}, {work.dtype} | {stage} | {what}"
        if cost is None:
            print(f"{head} | out of memory | | | |", flush=True)
            continue
        memory = "-" if cost.memory is None else f"{cost.memory:.1f}"
        ratio = f"{cost.seconds / first.seconds:.2f}" if first else "-"
        print(
            f"{head}, {cost.size} | {cost.seconds:.3f} | {tokens / cost.seconds:.0f} "
            f"| {memory} | {ratio} |",
            flush=True,
        )


def model(work: Work) -> Any:
    """Random weights, the same each time; no token ends a sample."""
    config = LlamaConfig(
        **SHAPES[work.shape], tie_word_embeddings=True, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with work.device:
        made: Any = LlamaForCausalLM(config)
    return made.to(getattr(torch, work.dtype)).eval()


def words(size: int) -> Any:
    """A tokenizer that has a word for each token; the first one is no part of another word."""
    names = [UNKNOWN, *(f"t{i}" for i in range(1, size))]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=core, unk_token=UNKNOWN, clean_up_tokenization_spaces=False)


def timed(work: Work, job: Callable[[], object], times: int = 2) -> Cost:
    """The fastest of some runs after one that warms up."""
    cuda = work.device.type == "cuda"
    found = []
    for _ in range(times + 1):
        if cuda:
            torch.cuda.synchronize(work.device)
            torch.cuda.reset_peak_memory_stats(work.device)
        start = time.perf_counter()
        job()
        if cuda:
            torch.cuda.synchronize(work.device)
        found.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated(work.device) / 1e9 if cuda else None
    return Cost(min(found[1:]), memory, "")


def fastest(work: Work, jobs: Mapping[str, Callable[[], object]]) -> Cost | None:
    """The cost at the best size. From large ones down, until one is slower than the one before.

    A size is left out where the memory is too small for it.
    """
    best: Cost | None = None
    for size, job in reversed(jobs.items()):
        try:
            cost = replace(timed(work, job, 1), size=size)
        except (torch.OutOfMemoryError, WinnowError):  # winnow's own error for it
            cost = None
        if cost is None:  # outside of the block: the error holds what was on the stack
            free()
        elif best is not None and cost.seconds > best.seconds:
            break
        else:
            best = cost
    return best


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def sampled(work: Work, copied: bool = False) -> tuple[list[Group], Cost]:
    """Our groups, and what they cost: all samples at a time.

    Args:
        copied: From a copy in bfloat16, which is made of the weights each time.
    """
    tokenizer = words(SHAPES[work.shape]["vocab_size"])
    forward = PolicyForward(model(work))
    sampler = LocalSampler(lambda: forward, tokenizer, work.samples, cache_gib=16.0)
    if copied:
        own = OwnCopy(lambda: forward, torch.bfloat16)
        sampler = LocalSampler(
            own.forward, tokenizer, work.samples, 16.0, own.token_bytes, outdate=own.outdate
        )
    params = SamplingParams(max_tokens=work.tokens)
    requests = [
        Request(Prompt(id=str(i), text=" ".join(f"t{t}" for t in ids)), SAMPLES, i, params)
        for i, ids in enumerate(work.prompt_ids())
    ]

    def job() -> None:
        sampler.load(WeightsRef(0, PRESENT))
        list(ask(sampler, requests))

    cost = timed(work, job)
    found = dict(ask(sampler, requests))
    groups = [found[i] for i in range(len(requests))]
    assert [list(group.prompt_ids) for group in groups] == work.prompt_ids()
    assert all(len(s.token_ids) == work.tokens for group in groups for s in group.samples)
    return groups, replace(cost, size=f"{work.samples} rows")


def generated(work: Work) -> Cost | None:
    """`generate` over all samples, so many rows at a time."""
    made = model(work)
    ids: Any = torch.tensor(work.prompt_ids(), device=work.device).repeat_interleave(SAMPLES, 0)

    def generate(rows: int) -> None:
        for part in ids.split(rows):
            out = made.generate(
                input_ids=part, attention_mask=torch.ones_like(part), do_sample=True,
                temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=work.tokens,
                min_new_tokens=work.tokens, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            assert out.shape == (len(part), work.prompt_tokens + work.tokens)

    rows = [n for n in work.rows if n <= work.samples][-2:]  # fewer rows take far longer
    return fastest(work, {f"{n} rows": lambda n=n: generate(n) for n in rows})  # type: ignore[misc]


def learned(work: Work, groups: Sequence[Group], precision: str = "float32") -> list[Row]:
    """Our update, of all samples and of three in ten."""
    learner = local.learner(PolicyForward(model(work)), lr=1e-6, precision=precision)
    terms = ALGORITHMS["grpo"].terms

    def step(batch: Sequence[Group], tokens: int) -> None:
        learner._plan = replace(learner._plan, microbatch_tokens=tokens)
        assert local.step(learner, batch, terms).applied

    rows: list[Row] = []
    for what, share in (("winnow, all trained", 1.0), ("winnow, 30 % trained", 0.3)):
        batch = with_advantages(groups, share)
        jobs = {f"{n} tokens": lambda n=n, b=batch: step(b, n) for n in work.microbatches}
        rows.append((what, fastest(work, jobs)))
    return rows


def trained(work: Work, groups: Sequence[Group]) -> Cost | None:
    """The same loss over every sample in full rows, so many at a time."""
    made = model(work)
    adam = torch.optim.AdamW(made.parameters(), lr=1e-6, fused=True)
    groups = with_advantages(groups, 1.0)
    pairs = [(group, i) for group in groups for i in range(SAMPLES)]
    ids = [[*group.prompt_ids, *group.samples[i].token_ids] for group, i in pairs]
    old = [group.samples[i].logprobs for group, i in pairs]
    weights = [group.advantages[i] for group, i in pairs]
    where = work.device
    table, before = torch.tensor(ids, device=where), torch.tensor(old, device=where)
    advantages = torch.tensor(weights, device=where)[:, None]

    def step(rows: int) -> None:
        for a in range(0, len(table), rows):
            part, own = table[a : a + rows], slice(a, a + rows)
            out = made(
                input_ids=part, attention_mask=torch.ones_like(part), use_cache=False,
                logits_to_keep=work.tokens + 1,
            )  # fmt: skip
            logits = out.logits[:, :-1]
            chosen = logits.gather(-1, part[:, -work.tokens :, None]).squeeze(-1).float()
            norm = torch.stack([row.float().logsumexp(-1) for row in logits])  # one row at a time
            ratio = (chosen - norm - before[own]).exp()
            loss = -(ratio * advantages[own]).minimum(ratio.clamp(0.8, 1.28) * advantages[own])
            (loss.sum() / table.numel()).backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0, foreach=True)
        adam.step()
        adam.zero_grad(set_to_none=True)

    rows = [n for n in (8, *work.rows) if n <= work.samples]
    return fastest(work, {f"{n} rows": lambda n=n: step(n) for n in rows})  # type: ignore[misc]


if __name__ == "__main__":
    main()
