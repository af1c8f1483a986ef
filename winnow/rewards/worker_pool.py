"""Scoring in worker processes: a verifier may raise, hang or crash without ending the run.

A worker is killed when a sample takes longer than its limit, and a new one is started for the next
sample. Linux and macOS.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

from winnow.errors import WinnowError
from winnow.rewards.child import Child, Limits
from winnow.rewards.source import Source
from winnow.types import Prompt, Score


class IsolatedReward:
    """Scores completions in worker processes. A :class:`winnow.rewards.base.Reward`.

    Args:
        name: What the run calls this reward.
        source: The verifier.
        limits: What one sample, and one process, may use.
        workers: How many processes, each scoring one sample at a time.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        *,
        limits: Limits = Limits(),  # noqa: B008 (it is immutable)
        workers: int = 2,
    ) -> None:
        self.name = name
        self._stop = threading.Event()
        self._children = [Child(source, limits, self._stop) for _ in range(workers)]
        self._lock = threading.Lock()
        # also when this is garbage-collected, and at the interpreter's exit
        self._finalizer = weakref.finalize(
            self, _close, self._children, self._stop, self._lock, os.getpid()
        )

    def start(self) -> None:
        """Start the first worker now rather than at the first sample; `StartError` if it fails."""
        with self._lock:
            self._children[0].start()

    def score(self, items: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """One score an item, in order. A failure, a hang or a death is that item's error.

        Raises:
            WinnowError: The reward is closed.
        """
        with self._lock:
            if not self._finalizer.alive:
                raise WinnowError(f"the reward {self.name!r} is closed")
            self._stop.clear()
            scores = [Score.failed("not scored")] * len(items)
            todo: SimpleQueue[int] = SimpleQueue()
            for index in range(len(items)):
                todo.put(index)

            def work(child: Child) -> None:
                while not self._stop.is_set():
                    try:
                        index = todo.get_nowait()
                    except Empty:
                        return
                    scores[index] = child.score(*items[index])

            self._run(work, self._children[: len(items)])
            return scores

    def close(self) -> None:
        """Kill the workers and all that they have started. Safe to call twice."""
        self._finalizer()

    def _run(self, work: Callable[[Child], None], children: list[Child]) -> None:
        """Work with each child in a thread of its own; stop them all if one fails."""
        with ThreadPoolExecutor(max(1, len(children))) as pool:
            futures = [pool.submit(work, child) for child in children]
            try:
                for future in futures:
                    future.result()
            except BaseException:  # KeyboardInterrupt above all: leaving ``with`` waits for threads
                self._stop.set()
                raise


def _close(children: list[Child], stop: threading.Event, lock: threading.Lock, owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner ends; the workers are not its own
        return
    stop.set()
    with lock:
        for child in children:
            child.kill()
