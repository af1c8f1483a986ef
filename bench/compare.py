"""Winnow beside TRL: the same job, one after the other on the same machine, as a table.

    make bench ARGS="--job addition"

The same model, prompts in the same order, samples, lengths, temperature, learning rate and
algorithm (GRPO without KL). TRL is first tried at each micro-batch size for two steps, then run at
its fastest. Seconds depend on the machine and on what else runs on it; the ratios are what to read.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEFAULTS = {
    "addition": (8, [16, 32, 128]),
    "reasoning": (4, [4, 8, 16]),
    "tokens": (4, [32, 64, 128]),
}
OURS, THEIRS = "side_winnow.py", "side_trl.py"
Side = dict[str, Any]


def run(python: str, script: str, words: list[str]) -> Side:
    """One side's JSON; its own output goes to stderr where it fails."""
    print(f"running {script} {' '.join(words)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [python, str(HERE / script), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-4000:]}")
    side: Side = json.loads(done.stdout.strip().splitlines()[-1])
    return side


def export_model(folder: Path) -> str:
    """The built-in model as a folder that every library reads."""
    import torch

    from winnow.engines.models.loading import load_model, load_tokenizer, resolve

    source = resolve("smollm2-135m")
    load_model(source, "float32", torch.device("cpu")).save_pretrained(folder)  # type: ignore[operator]
    load_tokenizer(source).save_pretrained(folder)
    return str(folder)


def random_model(folder: Path, shape: str, dtype: str) -> str:
    """Random weights of a real size, with a word for each token."""
    import torch
    from gpu import SHAPES, UNKNOWN, words
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = SHAPES[shape]
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        made = LlamaForCausalLM(
            LlamaConfig(
                **sizes, tie_word_embeddings=True, max_position_embeddings=2048,
                bos_token_id=None, eos_token_id=0, pad_token_id=None,
            )
        )  # fmt: skip
    made.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer = words(sizes["vocab_size"])
    tokenizer.eos_token = tokenizer.pad_token = UNKNOWN
    tokenizer.save_pretrained(folder)
    return str(folder)


def settled(side: Side, key: str) -> float:
    """The median over the later half of the steps: the first ones warm up."""
    steps = side["steps"]
    values = sorted(step[key] for step in steps[len(steps) // 2 :])
    return float(values[len(values) // 2])


def until_half(side: Side) -> float | None:
    """Seconds until the mean reward of the last three steps passes one half, warm-up included."""
    passed, steps = 0.0, side["steps"]
    for number, step in enumerate(steps):
        passed += step["step"]
        last = [s["reward"] for s in steps[max(0, number - 2) : number + 1]]
        if len(last) == 3 and sum(last) / 3 > 0.5:
            return passed
    return None


def memory(side: Side) -> float:
    return float(side["gpu_gib"] or side["peak_gib"]) * 2**30 / 1e9


def line(name: str, side: Side) -> str:
    later = side["steps"][len(side["steps"]) // 2 :]
    sampled = sum(s["tokens"] for s in later) / sum(s["sample"] for s in later)
    half = until_half(side)
    return (
        f"{name:<22}{settled(side, 'sample'):>8.2f}{settled(side, 'update'):>9.2f}"
        f"{settled(side, 'step'):>8.2f}{side['steps'][0]['step']:>8.2f}{sampled:>10.0f}"
        f"{memory(side):>9.2f}   {'-' if half is None else f'{half:.0f} s'}"
    )


def agreement(ours: Side, theirs: Side) -> str:
    """Mean reward over all steps, and how far apart in standard errors (over prompts)."""
    pairs = list(zip(ours["steps"], theirs["steps"], strict=True))
    gap = sum(a["reward"] - b["reward"] for a, b in pairs) / len(pairs)
    error = math.sqrt(sum(a["error"] ** 2 + b["error"] ** 2 for a, b in pairs)) / len(pairs)
    return f"mean reward, winnow less trl: {gap:+.3f}, standard error {error:.3f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--peer", required=True, help="Python of an environment that has TRL")
    options.add_argument("--job", choices=list(DEFAULTS), default="addition")
    options.add_argument("--steps", type=int, help="default: 8 and 4")
    options.add_argument("--sizes", type=int, nargs="+", help="TRL's micro-batches to try")
    options.add_argument("--peer-dtypes", nargs="+", help="TRL's data types; default: ours")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--sampling-dtype", help="of our sampler's own copy of the weights")
    options.add_argument("--model", help="folder; default: the built-in model")
    options.add_argument("--random", help="random weights of this shape: SmolLM2-135M, ...")
    options.add_argument("--device", default="auto")
    options.add_argument("--tokens", type=int, nargs="+", help="our micro-batches to try")
    options.add_argument("--precision", default="float32", help="of our updates: float32 or mixed")
    options.add_argument("--recompute", action="store_true", help="we keep no activations")
    given = options.parse_args()
    steps = given.steps or DEFAULTS[given.job][0]
    sizes = given.sizes or DEFAULTS[given.job][1]
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "model"
        if given.random:
            model = random_model(where, given.random, given.dtype)
        else:
            model = given.model or export_model(where)
        common = ["--job", given.job, "--model", model, "--threads", str(given.threads)]
        common += ["--order", str(Path(folder) / "order.json"), "--device", given.device]
        heading(given)
        ours = [*common, "--steps", str(steps), "--dtype", given.dtype]
        ours += ["--precision", given.precision, *["--recompute"] * given.recompute]
        if given.sampling_dtype is not None:
            ours += ["--sampling-dtype", given.sampling_dtype]
        own = [[*ours, "--microbatch-tokens", str(each)] for each in given.tokens or ()] or [ours]
        found = [(measured("winnow", sys.executable, OURS, words), words) for words in own]
        first, fastest = min(found, key=lambda side: settled(side[0], "step"))
        peers = {
            dtype: at_its_best(given.peer, [*common, "--dtype", dtype], steps, sizes, dtype)
            for dtype in given.peer_dtypes or [given.dtype]
        }
        again = measured("winnow", sys.executable, OURS, fastest)
    for dtype, theirs in peers.items():
        report([first, again], theirs, dtype)


def measured(name: str, python: str, script: str, words: list[str]) -> Side:
    side = run(python, script, words)
    print(line(name, side), flush=True)  # at once: what comes may take long, or fail
    return side


def at_its_best(
    python: str, words: list[str], steps: int, sizes: Sequence[int], dtype: str
) -> Side:
    """TRL at its fastest micro-batch, found in two steps at each where there are several."""

    def at(size: int, number: int, name: str) -> Side:
        more = ["--steps", str(number), "--microbatch", str(size)]
        return measured(name, python, THEIRS, [*words, *more])

    best = sizes[0]
    if len(sizes) > 1:
        tried = {size: at(size, 2, f"trl {dtype}, 2 at {size}") for size in sizes}
        best = min(tried, key=lambda size: float(tried[size]["steps"][1]["step"]))
    return at(best, steps, f"trl {dtype}, {best}")


def _copied(dtype: str | None) -> str:
    return "" if dtype is None else f", our samples from a copy in {dtype}"


def heading(given: argparse.Namespace) -> None:
    print(
        f"{given.job}, {given.dtype}{_copied(given.sampling_dtype)}, our updates "
        f"{given.precision}, {given.threads} threads, "
        f"{platform.machine()}; "
        "seconds a step are medians over the later half of the steps"
    )
    heads = ("sample", "update", "step", "first", "tokens/s", "GB")
    widths = (8, 9, 8, 8, 10, 9)
    print(
        " " * 22
        + "".join(h.rjust(w) for h, w in zip(heads, widths, strict=True))
        + "   until reward passes 1/2",
        flush=True,
    )


def report(ours: list[Side], theirs: Side, dtype: str) -> None:
    slower = max(ours, key=lambda side: settled(side, "step"))
    ratios = {
        key: settled(theirs, key) / settled(slower, key) for key in ("sample", "update", "step")
    }
    print(
        f"trl in {dtype} over winnow's slower run: "
        + ", ".join(f"{key} {ratio:.1f}x" for key, ratio in ratios.items())
        + f", memory {memory(theirs) / memory(slower):.1f}x"
    )
    halves = [until_half(side) for side in (*ours, theirs)]
    if None not in halves:
        print(f"until reward passes 1/2: {halves[-1] / max(halves[:-1]):.1f}x")  # type: ignore[operator,type-var]
    for name, side in (("winnow", ours[0]), ("winnow", ours[1]), ("trl", theirs)):
        print(f"reward by step, {name}: " + " ".join(f"{s['reward']:.2f}" for s in side["steps"]))
    for side in ours:
        print(agreement(side, theirs))


if __name__ == "__main__":
    main()
