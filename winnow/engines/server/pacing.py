"""When the next request to a server may be sent."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

Sleep = Callable[[float], Awaitable[None]]


class Pacer:
    """Decides when the next request may be sent."""

    def __init__(self, per_minute: float, clock: Callable[[], float], sleep: Sleep) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._clock, self.sleep = clock, sleep
        self._next = -math.inf

    async def turn(self) -> None:
        now = self._clock()
        at = max(now, self._next)
        self._next = at + self._gap
        if at > now:
            await self.sleep(at - now)

    def hold(self, seconds: float) -> None:
        """Send nothing for so many seconds."""
        self._next = max(self._next, self._clock() + seconds)


def retry_after(header: str) -> float | None:
    """Seconds to wait, from a number or a date; None where it is neither."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except (ValueError, OverflowError):  # the latter: a year or a zone of thirty digits
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
