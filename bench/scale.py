"""The numbers of docs/scale.md, a command each.

python bench/scale.py traffic      measured: what rank 0 sends, gets and does, 64 simulated servers
python bench/scale.py weights      measured: rank 0 writes the weights of a version
python bench/scale.py gpus         calculated: the recipes on 8, 64 and 512 GPUs
python bench/scale.py split        calculated: the same, by how many of the GPUs learn
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from winnow.config.recipe import load
from winnow.storage.sizes import human, measured
from winnow.training.scale.estimate import Asked, PhaseForecast, forecast
from winnow.training.scale.shapes import KNOWN

RECIPES = ("qwen-7b", "llama-3b")
SLOTS = 256
"""Most completions under way in a server, as in the recipes."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("what", choices=[*COMMANDS])
    options.add_argument("--device-model", default="h100")
    options.add_argument("--completion-tokens", type=int, default=1000)
    options.add_argument("--servers", type=int, default=64)
    options.add_argument("--prompts", type=int, default=1024, help="of four samples each")
    options.add_argument("--tokens", type=int, default=1000, help="of a simulated completion")
    given = options.parse_args()
    COMMANDS[given.what](given)


def of(recipe: str, ranks: int, servers: int, given: argparse.Namespace) -> PhaseForecast:
    """A recipe over so many GPUs, one a rank and one a server."""
    urls = [f"http://host-{number}:8000" for number in range(servers)]
    sets = [
        *("engine.servers=", "engine.vllm_devices=", "engine.vllm_python="),
        f"engine.urls={json.dumps(urls)}",
        f"sampling.batch={SLOTS * servers}",
    ]
    asked = Asked(given.device_model, ranks, completion=given.completion_tokens)
    (made,) = forecast(load(recipe, sets), asked).phases
    return made


def gpus(given: argparse.Namespace) -> None:
    stages = "step, s | sampling | updates | weights"
    print(f"| recipe | GPUs | a rank, GB | {stages} | tokens/s | most by |")
    print("|---|---|---|---|---|---|---|---|---|")
    for recipe in RECIPES:
        for number in (8, 64, 512):
            made = of(recipe, number // 2, number // 2, given)
            waits = made.waits
            held = made.stages.most / 1e9
            rate = made.step.tokens(made.lengths) / made.seconds
            print(
                f"| {recipe} | {number} | {held:.1f} | {made.seconds:.1f} | "
                f"{waits['sampling']:.1f} | {waits['updates']:.1f} | "
                f"{waits['weights to servers']:.1f} | {rate:,.0f} | {made.bound} |"
            )


def split(given: argparse.Namespace) -> None:
    print(
        "| recipe | GPUs | learn | step, s | sampling | updates | of it network alone | tokens/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for recipe in RECIPES:
        for number in (8, 64, 512):
            rows = [(n, of(recipe, n, number - n, given)) for n in _parts(number)]
            ranks, made = min(rows, key=lambda row: row[1].seconds)
            waits, rate = made.waits, made.step.tokens(made.lengths) / made.seconds
            print(
                f"| {recipe} | {number} | {ranks} | {made.seconds:.1f} | {waits['sampling']:.1f} | "
                f"{waits['updates']:.1f} | {made.update.network:.1f} | {rate:,.0f} |"
            )


def _parts(number: int) -> list[int]:
    """So many of the GPUs learn: whole eighths."""
    return [number * eighths // 8 for eighths in range(1, 8)]


def traffic(given: argparse.Namespace) -> None:
    from scale_traffic import Load, measure

    load = Load(given.servers, given.prompts, 4, 256, given.tokens, slots=SLOTS)
    found = measure(load)
    tokens, asked = found.tokens, found.requests
    print(f"{found.busy} simulated servers, {asked} completions of {given.tokens} tokens: {tokens}")
    print(
        f"requests   {human(found.asked)}, {found.asked / asked:.0f} B each, prompts of 256 tokens"
    )
    print(f"answers    {human(found.answered)}, {found.answered / tokens:.1f} B a token")
    print(
        f"reading    {found.reading:.2f} s of a core, {1e6 * found.reading / tokens:.2f} us a token"
    )
    print(f"           ({found.clock:.1f} s by the clock, beside the servers on the same cores)")
    print(f"to a rank  {human(found.packed)}, {found.packed / tokens:.1f} B a token")
    print(f"           {found.packing:.2f} s to pack, {found.unpacking:.2f} s to unpack in each")
    print(f"back       {human(found.returned)}, {found.returned / tokens:.1f} B a token")


def weights(given: argparse.Namespace) -> None:
    """An engine publishes SmolLM2-135M's shape, in bfloat16, into this machine's memory."""
    from compare import random_model

    from winnow.config.schema import from_dict
    from winnow.engines.factory import engine_for
    from winnow.engines.weights.outbox import Outbox

    with tempfile.TemporaryDirectory() as name:
        model = random_model(Path(name) / "model", "SmolLM2-135M", "bfloat16")
        engine = engine_for(from_dict({"model": model, "dtype": "bfloat16", "device": "cpu"}))
        engine.load()
        outbox, seconds, size = Outbox(), [], 0
        for version in range(5):
            begun = time.perf_counter()
            ref = outbox.put(version, lambda folder: engine.save(folder, merged=True))
            seconds.append(time.perf_counter() - begun)
            assert isinstance(ref.where, Path)
            size = measured(ref.where)
    middle = statistics.median(seconds)
    print(f"{human(size)} in {middle:.2f} s (median of {len(seconds)}): {human(size / middle)}/s")


def beside(given: argparse.Namespace) -> None:
    """An H200's updates, of samples of 128 tokens: memory, and seconds in bfloat16."""
    from tests.training.scale import test_held as held

    print("| | measured, GiB | calculated | now | measured, s | calculated |")
    print("|---|---|---|---|---|---|")
    for model, dtype, side, place in held.MEASURED:
        seconds, gib = held.row(side, place)
        again = "checkpointing" in side
        told, update = held.as_measured(KNOWN[model], dtype, recompute=again)
        now, _ = held.of_bench(KNOWN[model], dtype, recompute=again)
        took = f"{seconds:.2f} | {update.total:.2f}" if dtype == "bfloat16" else "|"
        memory = " | ".join(f"{x:.2f}" for x in (gib, told.update / 2**30, now.update / 2**30))
        print(f"| {model}, {dtype}, {side} | {memory} | {took} |")


COMMANDS = {
    "traffic": traffic,
    "weights": weights,
    "beside": beside,
    "gpus": gpus,
    "split": split,
}


if __name__ == "__main__":
    main()
