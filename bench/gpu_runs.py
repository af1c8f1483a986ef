"""Checks of `check_gpu.py` on whole runs: training and its resumption, sampling, reward models."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import gpu_cases as cases
import torch
from gpu_cases import CLOSE, Found, Job, most
from safetensors.torch import load_file
from torch import Tensor

import winnow
from tests import tiny
from tests.kills import Dealt, Killed
from winnow.algorithms.algorithm import Algorithm
from winnow.config.schema import from_dict
from winnow.engines.reward_models.model import RewardModel
from winnow.reporting.observer import Observers
from winnow.storage.sample_table import read_samples
from winnow.training.run import Result, run
from winnow.types import Prompt


def training(job: Job, row: Algorithm, **more: Any) -> Found:
    """A whole run, and the same killed after its first checkpoint and resumed: bit by bit equal."""
    folder = Path(tempfile.mkdtemp(dir=job.folder))
    if "anchor" in more:
        more["anchor"] = {"source": str(cases.write_prompts(folder / "examples.jsonl", True))}
    prompts = cases.write_prompts(folder / "prompts.jsonl")
    settings = cases.training(row, job.models.warm, prompts, str(job.device), **more)
    config = from_dict(settings)
    reward: Any = Dealt([1.0, 0.0, 0.0, 0.0])
    whole = run(config, out=folder / "whole", observers=Observers(), reward=reward)
    try:
        run(config, out=folder / "broken", observers=cases.KillAfterCheckpoint(), reward=reward)
    except Killed:
        resumed = run(resume=folder / "broken", observers=Observers(), reward=reward)
    else:
        return Found(False, "the run ended before it could be killed")
    metrics, again = untimed(whole), untimed(resumed)
    odd = [
        (k, x)
        for m in metrics
        for k, x in m.items()
        if isinstance(x, float) and not math.isfinite(x)
    ]
    differ = sorted({k for a, b in zip(metrics, again, strict=True) for k in a if a[k] != b[k]})
    gap = most(saved(whole), saved(resumed))
    updates = sum(line["updates"] for line in metrics)
    ok = not odd and not differ and gap == 0 and updates > 0
    text = f"{len(metrics)} steps, {updates} updates; resumed: weights {gap:.1e}"
    if differ:
        text += f", other metrics {', '.join(differ[:6])}"
    return Found(ok, text + (f"; not finite {odd}" if odd else ""))


OF_THE_PROCESS = ("seconds", "time", "memory_host_gib", "memory_device_gib", "crc32")


def untimed(result: Result) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what a clock or the process says."""
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in OF_THE_PROCESS} for line in lines
    ]


def saved(result: Result) -> Tensor:
    """The weights of a checkpoint, in one row."""
    weights = {
        k: v for f in result.checkpoint.glob("*.safetensors") for k, v in load_file(f).items()
    }
    return cases.flat([weights[name] for name in sorted(weights)])


def sampling(job: Job) -> Found:
    """`winnow.sample` and `winnow.evaluate`, scored by processes of their own."""

    def right(prompt: Prompt, completion: str) -> float:  # not of a module: it would be imported
        return float(completion.strip() == prompt.answer)

    rows, where = tiny.problems(), str(job.device)
    common: dict[str, Any] = {"model": str(job.models.warm), "device": where, "quiet": True}
    common |= {"sampling": {"max_tokens": 4}, "prompts": rows}
    out = job.folder / "samples"
    done = winnow.sample(**common, reward="exact", n=8, out=out)
    groups = list(read_samples([done.folder], ["text"], why="the check"))
    share = sum(sum(g.right) for g in groups) / sum(len(g.samples) for g in groups)
    exact = float(tiny.right(tiny.warmed_up()).mean())
    found = winnow.evaluate(**common, reward=right, out=job.folder / "evaluation").accuracy or 0.0
    ok = len(groups) == len(rows) and abs(share - exact) < 0.15
    ok &= abs(found - exact) < 0.4
    return Found(ok, f"right: {share:.3f} of samples, {found:.3f} evaluated, {exact:.3f} exactly")


def reward_model(job: Job) -> Found:
    """Fit one here to samples, and score with it here and on the CPU."""
    source, out = job.folder / "to-fit", job.folder / "reward"
    winnow.sample(
        model=str(job.models.warm), device=str(job.device), quiet=True, prompts=tiny.problems(),
        sampling={"max_tokens": 4}, reward="exact", n=8, out=source,
    )  # fmt: skip
    fit = winnow.fit_reward(
        [source], out=out, model=str(job.models.warm), lr=1e-3, device=str(job.device)
    )
    items = [
        (Prompt(id=r["prompt"], text=r["prompt"]), str(n))
        for r in tiny.problems()
        for n in range(9)
    ]
    told = [
        torch.tensor([s.value for s in RewardModel(str(out), device=device).score(items)])
        for device in (cases.CPU, job.device)
    ]
    gap = most(*told)
    ok = gap < CLOSE and math.isfinite(fit.last_loss)
    return Found(ok, f"scores {gap:.1e}, loss {fit.first_loss:.3f} to {fit.last_loss:.3f}")
