"""Winnow beside TRL: the same job, one after the other on the same machine, as a table.

    make bench ARGS="--job addition --steps 4 --sizes 16 128"

Seconds depend on the machine and on what else runs on it; the ratios are what to read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Side = dict[str, Any]


def run(python: str, script: str, words: list[str]) -> Side:
    """One side's JSON; its own output goes to stderr where it fails."""
    done = subprocess.run(
        [python, str(HERE / script), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-4000:]}")
    side: Side = json.loads(done.stdout.strip().splitlines()[-1])
    return side


def export_model(folder: Path) -> str:
    """The built-in model as a folder that both libraries read."""
    import torch

    from winnow.engines.models import load_model, load_tokenizer, resolve

    source = resolve("smollm2-135m")
    load_model(source, "float32", torch.device("cpu")).save_pretrained(folder)  # type: ignore[operator]
    load_tokenizer(source).save_pretrained(folder)
    return str(folder)


def median(side: Side, key: str) -> float:
    """Over the steps after the first, which warms up."""
    values = sorted(step[key] for step in side["steps"][1:] or side["steps"])
    return values[len(values) // 2]


def first_half(side: Side) -> str:
    """Seconds until the mean reward of the last three steps passes one half."""
    passed, steps = 0.0, side["steps"]
    for number, step in enumerate(steps):
        passed += step["step"]
        last = [s["reward"] for s in steps[max(0, number - 2) : number + 1]]
        if len(last) == 3 and sum(last) / 3 > 0.5:
            return f"{passed:.0f} s"
    return "not within these steps"


def line(name: str, side: Side) -> str:
    step, tokens = median(side, "step"), sum(s["tokens"] for s in side["steps"])
    memory = side["gpu_gib"] or side["peak_gib"]
    drawn = tokens / sum(s["draw"] for s in side["steps"])
    return (
        f"{name:<16}{median(side, 'draw'):>9.2f}{median(side, 'update'):>9.2f}{step:>9.2f}"
        f"{drawn:>10.0f}{memory:>10.2f}   {first_half(side)}"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--peer", required=True, help="Python of an environment that has TRL")
    options.add_argument("--job", choices=["addition", "reasoning"], default="addition")
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--sizes", type=int, nargs="+", default=[16, 128], help="TRL micro-batch")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--model", help="folder; default: the built-in model")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or export_model(Path(folder) / "model")
        common = [
            *("--job", given.job, "--steps", str(given.steps), "--model", model),
            *("--threads", str(given.threads)),
        ]
        ours = run(sys.executable, "side_winnow.py", common)
        theirs = {
            size: run(given.peer, "side_trl.py", [*common, "--microbatch", str(size)])
            for size in given.sizes
        }
        again = run(sys.executable, "side_winnow.py", common)
    heads = ("draw s", "update s", "step s", "tokens/s", "peak GiB")
    print(
        f"{given.job}, {given.steps} steps, {given.threads} threads; medians after the first step"
    )
    print(
        f"{'':<16}"
        + "".join(h.rjust(w) for h, w in zip(heads, (9, 9, 9, 10, 10), strict=True))
        + "   until reward passes 1/2"
    )
    print(line("winnow", ours))
    for size, side in theirs.items():
        print(line(f"trl, batch {size}", side))
    print(line("winnow, again", again))
    best = min(theirs.values(), key=lambda side: median(side, "step"))
    slower = max(ours, again, key=lambda side: median(side, "step"))
    ratios = {key: median(best, key) / median(slower, key) for key in ("draw", "update", "step")}
    print(
        "trl's best over winnow's slower run: "
        + ", ".join(f"{key} {ratio:.1f}x" for key, ratio in ratios.items())
        + f", memory {best['peak_gib'] / slower['peak_gib']:.1f}x"
    )
    for name, side in (("winnow", ours), ("trl", best)):
        print(f"reward by step, {name}: " + " ".join(f"{s['reward']:.2f}" for s in side["steps"]))


if __name__ == "__main__":
    main()
