"""The jobs that are timed, the same for every library: prompts, samples, lengths, reward.

addition    few-shot two-digit addition, prompts of about 38 tokens, 16 x 8 samples of 8 tokens
reasoning   word problems, prompts of 100 to 200 tokens, 4 x 8 samples of up to 128 tokens
tokens      random words and rewards, prompts of 128 tokens, 32 x 8 samples of 128 tokens: for
            random weights, so only its times say anything
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import zlib
from dataclasses import dataclass

import torch

COIN = "coin"
"""The answer of prompts for which any completion is right half of the time."""
LEARNING_RATE = 1e-5
SAMPLES = 8


@dataclass(frozen=True)
class Job:
    name: str
    prompts_per_step: int
    max_tokens: int
    microbatch_tokens: int
    """At which we are fastest; the other side's size is searched by `compare.py`."""
    rows: list[dict[str, str]]


def arguments() -> argparse.ArgumentParser:
    """What both sides of the comparison are told."""
    options = argparse.ArgumentParser()
    options.add_argument("--job", required=True)
    options.add_argument("--steps", type=int, required=True)
    options.add_argument("--model", required=True)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--device", default="auto")
    options.add_argument("--order", help="file for the order of the prompts: ours writes it")
    return options


def hand_over(steps: list[dict[str, float]], whole: float) -> None:
    """Print what both sides measured, as one line of JSON."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    print(json.dumps({"steps": steps, "whole": whole, "peak_gib": peak, "gpu_gib": gpu}))


def job(name: str, steps: int) -> Job:
    """A job with enough prompts for so many steps, always the same ones."""
    rng = random.Random(0)
    if name == "addition":
        rows = [_addition(rng) for _ in range(16 * steps)]
        return Job(name, 16, 8, 1024, rows)
    if name == "tokens":
        rows = [_words(rng) for _ in range(32 * steps)]
        return Job(name, 32, 128, 16384, rows)
    rows = [_word_problem(rng) for _ in range(4 * steps)]
    return Job(name, 4, 128, 1280, rows)


def score(completion: str, answer: str) -> float:
    """1 for the right answer; for a wrong one .2 where it is given in the form of the example.

    A graded reward, so that a model which solves few word problems still has groups to learn from.
    """
    if answer == COIN:
        return float(zlib.crc32(completion.encode()) % 2)
    given = re.search(r"[Tt]he answer is \$?(\d+)", completion)
    if given:
        return 1.0 if given.group(1) == answer else 0.2
    for line in completion.split("\n"):
        numbers = re.findall(r"\d+", line)
        if numbers:
            return float(numbers[-1] == answer)
    return 0.0


def spread(values: list[float]) -> tuple[float, float]:
    """Mean reward of a step, standard error over prompts; their samples follow each other."""
    prompts = [values[i : i + SAMPLES] for i in range(0, len(values), SAMPLES)]
    means = [sum(group) / len(group) for group in prompts]
    mean = sum(means) / len(means)
    variance = sum((m - mean) ** 2 for m in means) / (len(means) - 1)
    return mean, (variance / len(means)) ** 0.5


def _words(rng: random.Random) -> dict[str, str]:
    return {"prompt": " ".join(f"t{rng.randrange(1, 512)}" for _ in range(128)), "answer": COIN}


def _addition(rng: random.Random) -> dict[str, str]:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    shots = "12 + 7 = 19\n30 + 24 = 54\n8 + 65 = 73\n"
    return {"prompt": f"{shots}{a} + {b} =", "answer": str(a + b)}


_SHOT = (
    "Question: Tom has 3 boxes of 12 pencils each. He gives 10 pencils away. How many does he have "
    "left?\nAnswer: He has 3 * 12 = 36 pencils. After giving 10 away he has 36 - 10 = 26 pencils. "
    "The answer is 26\n\n"
)
_STORIES = (
    "{name} buys {a} bags of {b} apples each at the market on Saturday morning. On the way home "
    "{name} meets a neighbour and gives away {c} of the apples. How many apples are left?",
    "A school orders {a} boxes with {b} notebooks in each box for the new year. In the first week "
    "{c} notebooks are handed out to the pupils, and the others go to the cupboard. How many "
    "notebooks are in the cupboard?",
    "{name} reads {a} pages every evening for {b} evenings. The book has {c} more pages than that, "
    "which {name} has already read before. {name} wonders how long the whole book is and looks at "
    "the last page. How many pages does the book have?",
)


def _word_problem(rng: random.Random) -> dict[str, str]:
    a, b, c = rng.randint(3, 9), rng.randint(5, 12), rng.randint(2, 14)
    number = rng.randrange(3)
    name = rng.choice(["Ada", "Ben", "Carla", "Dmitri"])
    story = _STORIES[number].format(name=name, a=a, b=b, c=c)
    answer = a * b + c if number == 2 else a * b - c
    return {"prompt": f"{_SHOT}Question: {story}\nAnswer:", "answer": str(answer)}
