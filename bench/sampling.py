"""Our sampler beside `transformers.generate`, and vLLM where it is installed: tokens per second.

    make bench-sampling

The same model, prompts and number of samples; every sample has the same length (nothing ends
early). Each prompt is sampled 8 times; `generate` and vLLM are asked as their users would ask them.
`generate` is tried in each of `--theirs`, run by run in turn with ours, and counts at its best:

    make bench-sampling ARGS="--sampling-dtype auto --theirs float32 bfloat16"

The floor is that of the matrix products alone in the data type that we sample in.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from compare import export_model
from jobs import SAMPLES, job
from machine import rates, sizes

from winnow.config.schema import from_dict
from winnow.config.schema.sampling import SamplingConfig
from winnow.engines.base import Request, SamplingParams
from winnow.engines.devices import pick_device
from winnow.engines.local.engine import LocalEngine
from winnow.engines.local.sampler import LocalSampler
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


def seconds(jobs: Sequence[Callable[[int], None]], times: int) -> list[float]:
    """The median time of each job; they take turns, and their first run warms up."""
    found: list[list[float]] = [[] for _ in jobs]
    for seed in range(times + 1):
        for run, taken in zip(jobs, found, strict=True):
            start = time.perf_counter()
            run(100 * seed)
            taken.append(time.perf_counter() - start)
    return [sorted(taken[1:])[times // 2] for taken in found]


def main() -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--batches", type=int, nargs="+", default=[64, 128])
    options.add_argument("--times", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--sampling-dtype", help="of our own copy of the weights; default: none")
    options.add_argument("--theirs", nargs="+", help="generate's; default: --dtype")
    options.add_argument("--device", default="cpu")
    options.add_argument("--model", help="folder; default: the built-in model")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    device = pick_device(given.device)
    with TemporaryDirectory() as folder:
        name = given.model or export_model(Path(folder) / "model")
        tokenizer = AutoTokenizer.from_pretrained(name)
        tokenizer.pad_token = tokenizer.eos_token
        models = {
            each: AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, each))
            .eval()
            .to(device)
            for each in dict.fromkeys(given.theirs or [given.dtype])
        }
        made = LocalEngine(from_dict({"model": name, "dtype": given.dtype, "device": given.device}))
        served = None
        if importlib.util.find_spec("vllm"):
            from vllm import LLM

            served = LLM(model=name, dtype=given.dtype)
        report(given, made, models, tokenizer, served)


def report(
    given: Any, made: LocalEngine, models: Mapping[str, Any], tokenizer: Any, served: Any
) -> None:
    copied = {"dtype": given.sampling_dtype} if given.sampling_dtype else {}
    sampler = made.sampler(SamplingConfig(batch=max(given.batches), **copied))
    sampler._end_ids = frozenset()
    dtype = sampler._forward.dtype
    like = copy.deepcopy(made.module()).to(dtype)  # plain layers, as anybody would multiply
    size, rate = sizes(like), rates(like, tuple(sorted({38, *given.batches})))
    print(
        f"samples of {LENGTH} tokens, {SAMPLES} a prompt, ours in {str(dtype)[6:]}; tokens per "
        f"second, median of {given.times}, in turn"
    )
    heads = "".join(f"{f'generate {name}':>19}" for name in models)
    print(f"{'samples':>6} {'winnow':>8}{heads} {'ratio':>6} {'floor':>7} {'time/floor':>11}")
    for batch in given.batches:
        prompts = [row["prompt"] for row in job("addition", 16).rows[: batch // SAMPLES]]
        tokens = batch * LENGTH
        jobs = [partial(ours, sampler, prompts)]
        jobs += [partial(theirs, model, tokenizer, prompts) for model in models.values()]
        mine, *others = seconds(jobs, given.times)
        read = sum(len(tokenizer.encode(prompt)) for prompt in prompts)
        floor = rate.seconds(read, "body") + LENGTH * (
            rate.seconds(batch, "body") + rate.seconds(batch, "head")
        )
        columns = "".join(f"{tokens / other:>19.0f}" for other in others)
        print(
            f"{batch:>6} {tokens / mine:>8.0f}{columns} {min(others) / mine:>6.2f} "
            f"{tokens / floor:>7.0f} {mine / floor:>11.2f}",
            flush=True,
        )
        if served is not None:
            (other,) = seconds([partial(vllm, served, prompts)], given.times)
            print(f"       vLLM: {tokens / other:.0f}")
    if served is None:
        print("vLLM is not installed here", file=sys.stderr)
    print(f"{size.body / 1e6:.0f} M weights in the layers, {size.head / 1e6:.0f} M in the head")


if __name__ == "__main__":
    main()
