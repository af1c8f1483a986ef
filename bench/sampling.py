"""Our sampler beside `transformers.generate`, and vLLM where it is installed: tokens per second.

    make bench-sampling

The same model, prompts and number of samples; every sample has the same length (nothing ends
early). Each prompt is sampled 8 times; `generate` and vLLM are asked as their users would ask them.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from typing import Any

import torch
from compare import export_model
from jobs import SAMPLES, job
from machine import rates, sizes

from winnow.engines.base import Request, SamplingParams
from winnow.engines.devices import pick_device
from winnow.engines.local.sampler import LocalSampler
from winnow.engines.models.forward import PolicyForward
from winnow.rollouts.generate import ask
from winnow.types import Prompt

LENGTH = 128


def ours(sampler: LocalSampler, prompts: list[str], seed: int) -> None:
    params = SamplingParams(max_tokens=LENGTH)
    requests = [
        Request(Prompt(id=str(i), text=text), SAMPLES, seed + i, params)
        for i, text in enumerate(prompts)
    ]
    sampled = [sample for _, group in ask(sampler, requests) for sample in group.samples]
    assert all(len(sample.token_ids) == LENGTH for sample in sampled)


def theirs(model: Any, tokenizer: Any, prompts: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    out = model.generate(
        **inputs.to(model.device),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=SAMPLES,
        max_new_tokens=LENGTH,
        eos_token_id=None,
        pad_token_id=tokenizer.eos_token_id,
    )
    assert out.shape == (len(prompts) * SAMPLES, inputs["input_ids"].shape[1] + LENGTH)


def vllm(engine: Any, prompts: list[str], seed: int) -> None:
    from vllm import SamplingParams as Theirs

    params = Theirs(n=SAMPLES, max_tokens=LENGTH, ignore_eos=True, seed=seed)
    sampled = engine.generate(prompts, params, use_tqdm=False)
    assert all(len(out.token_ids) == LENGTH for request in sampled for out in request.outputs)


def seconds(job: Any, *given: Any, times: int) -> list[float]:
    """The first run warms up."""
    found = []
    for seed in range(times + 1):
        start = time.perf_counter()
        job(*given, 100 * seed)
        found.append(time.perf_counter() - start)
    return sorted(found[1:])


def main() -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--device", default="cpu")
    options.add_argument("--model", help="folder; default: the built-in model")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    device = pick_device(given.device)
    with TemporaryDirectory() as folder:
        name = given.model or export_model(Path(folder) / "model")
        dtype = getattr(torch, given.dtype)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype).eval().to(device)
        tokenizer = AutoTokenizer.from_pretrained(name)
        tokenizer.pad_token = tokenizer.eos_token
        engine = None
        if importlib.util.find_spec("vllm"):
            from vllm import LLM

            engine = LLM(model=name, dtype=given.dtype)
        report(given, model, tokenizer, engine)


def report(given: Any, model: Any, tokenizer: Any, engine: Any) -> None:
    forward = PolicyForward(model)
    sampler = LocalSampler(lambda: forward, tokenizer, max(given.batches))
    sampler._end_ids = frozenset()
    size = sizes(model)
    rate = rates(model, tuple(sorted({38, *given.batches})))
    print(
        f"samples of {LENGTH} tokens, {SAMPLES} a prompt; tokens per second, median of "
        f"{given.times}"
    )
    print(
        f"{'samples':>6} {'winnow':>8} {'generate':>9} {'ratio':>6} {'floor':>7} {'time/floor':>11}"
    )
    for batch in given.batches:
        prompts = [row["prompt"] for row in job("addition", 16).rows[: batch // SAMPLES]]
        tokens = batch * LENGTH
        own = seconds(ours, sampler, prompts, times=given.times)
        other = seconds(theirs, model, tokenizer, prompts, times=given.times)
        mine, generate = own[len(own) // 2], other[len(other) // 2]
        read = sum(len(tokenizer.encode(prompt)) for prompt in prompts)
        floor = rate.seconds(read, "body") + LENGTH * (
            rate.seconds(batch, "body") + rate.seconds(batch, "head")
        )
        print(
            f"{batch:>6} {tokens / mine:>8.0f} {tokens / generate:>9.0f} {generate / mine:>6.2f} "
            f"{tokens / floor:>7.0f} {mine / floor:>11.2f}"
        )
        if engine is not None:
            served = seconds(vllm, engine, prompts, times=given.times)
            print(f"       vLLM: {tokens / served[len(served) // 2]:.0f}")
    if engine is None:
        print("vLLM is not installed here", file=sys.stderr)
    print(f"{size.body / 1e6:.0f} M weights in the layers, {size.head / 1e6:.0f} M in the head")


if __name__ == "__main__":
    main()
