"""What samplers share: requests wait, and are sampled a set at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence

from winnow.engines.base import Request
from winnow.types import Group

Results = Generator[tuple[int, Group], None, None]


class QueuedSampler(ABC):
    """A sampler that samples whatever waits, side by side; what comes meanwhile is the next set."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Request]] = []
        self._submitted = 0
        self._under_way: Results | None = None

    @abstractmethod
    def _sample(self, requests: Sequence[Request]) -> Results:
        """Groups as they finish, each with the position of its request. Closing it ends all."""

    def submit(self, requests: Sequence[Request]) -> int:
        first = self._submitted
        self._submitted += len(requests)
        self._waiting += zip(range(first, self._submitted), requests, strict=True)
        return first

    def results(self) -> Iterator[tuple[int, Group]]:
        while self._waiting:
            numbers, requests = zip(*self._waiting, strict=True)
            self._waiting = []
            own = self._under_way = self._sample(requests)
            try:
                for place, group in own:
                    yield numbers[place], group
            finally:
                own.close()
                if self._under_way is own:  # not another set's, if this was abandoned
                    self._under_way = None

    def cancel(self) -> None:
        self._waiting = []
        if self._under_way is not None:
            self._under_way.close()
            self._under_way = None

    def measures(self) -> dict[str, float]:
        """What it did since this was last asked, as metrics of a step; nothing, of most."""
        return {}

    def close(self) -> None:
        """Let go of what it samples with; nothing, of most."""
        self.cancel()
