"""Decode steps on a GPU, captured as graphs and replayed.

A step is a thousand small kernels; launching them one by one takes several times as long as they
do. A graph needs fixed shapes, so rows and lengths are rounded up: rows to spare read token 0 into
slots that nobody uses, and the mask hides keys to spare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PLAIN = 2
"""Steps of a shape before it is captured: some kernels are only made ready by a first run."""
_UNIT = 64
"""Lengths are rounded up to a multiple of this; long ones, to eighths and quarters of theirs."""

Run = Callable[[Tensor, Tensor, int], Tensor]
"""Tokens and places, shape (rows,), and a length -> logits, shape (rows, vocabulary)."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    given: Tensor
    logits: Tensor


class Replays:
    """The steps of one cache.

    Args:
        run: A step. Given twice the same, it does the same.
        grow: Makes room up to a length; returns another object when the cache has moved.
        capacity: Most rows.
        agree: Whether two results are the same up to rounding.
    """

    def __init__(
        self,
        run: Run,
        grow: Callable[[int], object],
        capacity: int,
        agree: Callable[[Tensor, Tensor], bool],
    ) -> None:
        self._run, self._grow, self._agree = run, grow, agree
        self._capacity = capacity
        self._captures = torch.cuda.is_available()
        self._uses: Counter[tuple[int, int]] = Counter()
        self._captured: dict[tuple[int, int], _Captured] = {}
        self._cache: object = None

    def step(self, tokens: Tensor, lengths: Sequence[int], most: int) -> Tensor:
        """Read a token for each row; logits stay valid until the next step.

        Args:
            lengths: What each row holds already.
            most: What a row can hold at all.
        """
        rows = rounded_rows(len(lengths), self._capacity)
        length = min(rounded_length(max(lengths) + 1), most)
        cache = self._grow(length)
        if cache is not self._cache:  # graphs write to where it was
            self._captured.clear()
            self._cache = cache
        given = torch.zeros(2, rows, dtype=torch.long, device=tokens.device)
        given[0, : len(lengths)] = tokens
        given[1, : len(lengths)] = torch.tensor(lengths, device=tokens.device)
        return self._rounded(given, length)[: len(lengths)]

    def _rounded(self, given: Tensor, length: int) -> Tensor:
        shape = (given.shape[1], length)
        captured = self._captured.get(shape)
        if captured is not None:
            captured.given.copy_(given)
            captured.graph.replay()
            return captured.logits
        logits = self._run(given[0], given[1], length)
        self._uses[shape] += 1
        if self._captures and self._uses[shape] > _PLAIN:
            self._capture(given, length, logits)
        return logits

    def _capture(self, given: Tensor, length: int, expected: Tensor) -> None:
        """Capture the step that was just made; where that does not work, none is tried again."""
        graph = torch.cuda.CUDAGraph()
        pool = next((c.graph.pool() for c in self._captured.values()), None)
        try:
            with torch.cuda.device(given.device):
                # Other threads, a reward model's say, may go on meanwhile.
                with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                    logits = self._run(given[0], given[1], length)
                graph.replay()
            if self._agree(logits, expected):
                self._captured[given.shape[1], length] = _Captured(graph, given, logits)
                return
        except RuntimeError:  # a model that waits for the GPU, or no memory
            pass
        self._captures = False
        self._captured.clear()


def rounded_rows(rows: int, capacity: int) -> int:
    """The next power of two, but not more than there may be."""
    return min(capacity, 1 << (rows - 1).bit_length())


def rounded_length(length: int) -> int:
    """The next multiple of 64, or of at most a quarter of the length where that is more."""
    unit = max(_UNIT, 1 << max(0, length.bit_length() - 3))
    return -(-length // unit) * unit
