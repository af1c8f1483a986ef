"""What this machine can do at the shapes that occur: matrix products and memory traffic.

A floor counts 2 FLOPs for each weight and token of a forward pass and 4 more for a backward pass,
at the rate at which products of the same shapes run here with nothing around them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Sizes:
    """Weights that multiply each token: of the layers, and of the head."""

    body: int
    head: int
    parameters: int
    bytes_each: int


@dataclass(frozen=True)
class Rates:
    """Seconds for one token row block through all layers, or the head, by number of rows."""

    rows: tuple[int, ...]
    body: tuple[float, ...]
    head: tuple[float, ...]

    def seconds(self, rows: float, which: str) -> float:
        """Between two numbers of rows that were measured in proportion; above, at the last rate."""
        times = self.body if which == "body" else self.head
        if rows <= 0:
            return 0.0
        if rows >= self.rows[-1]:
            return times[-1] * rows / self.rows[-1]
        if rows <= self.rows[0]:
            return times[0]
        i = bisect_left(self.rows, rows)
        share = (rows - self.rows[i - 1]) / (self.rows[i] - self.rows[i - 1])
        return times[i - 1] + share * (times[i] - times[i - 1])


def linears(model: Any) -> tuple[list[nn.Parameter], nn.Parameter]:
    """Weights of the layers' matrix products, and of the head's."""
    head = model.get_output_embeddings().weight
    body = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m.weight is not head]
    return body, head


def sizes(model: Any) -> Sizes:
    body, head = linears(model)
    return Sizes(
        sum(w.numel() for w in body),
        head.numel(),
        sum(p.numel() for p in model.parameters()),
        head.element_size(),
    )


def quickest(job: Callable[[], None], times: int = 3) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def rates(model: Any, rows: tuple[int, ...] = ROWS, *, backward: bool = False) -> Rates:
    """Products of the model's own weights with that many rows; also the two of a backward pass."""
    body, head = linears(model)

    def products(weights: list[nn.Parameter], count: int) -> Callable[[], None]:
        like = weights[0]
        ins = {w.shape[1]: like.new_ones(count, w.shape[1]) for w in weights}
        outs = {w.shape[0]: like.new_ones(count, w.shape[0]) for w in weights}

        def run() -> None:
            for w in weights:
                torch.nn.functional.linear(ins[w.shape[1]], w)
                if backward:
                    torch.mm(outs[w.shape[0]], w)
                    torch.mm(outs[w.shape[0]].t(), ins[w.shape[1]])

        return run

    with torch.inference_mode():
        return Rates(
            rows,
            tuple(quickest(products(body, n)) for n in rows),
            tuple(quickest(products([head], n)) for n in rows),
        )


def bandwidth(device: torch.device) -> float:
    """Bytes per second of reading two large arrays and writing a third."""
    a, b, c = (torch.ones(2**26, device=device) for _ in range(3))

    def triad() -> None:
        torch.add(a, b, out=c)

    return 3 * a.numel() * a.element_size() / quickest(triad, 5)
