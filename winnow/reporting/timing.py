"""How long the stages of a step take, and what time it is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime


def utc_now() -> str:
    """The time by this machine's clock: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Stopwatch:
    """Seconds spent in each stage since the last reading."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def read(self, stages: Sequence[str]) -> dict[str, float]:
        """The seconds of these stages, 0 where none ran, and start anew."""
        seconds, self.seconds = self.seconds, {}
        return {stage: seconds.get(stage, 0.0) for stage in stages}
