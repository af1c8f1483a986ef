"""Servers on a cluster, for rank 0: it asks the actor that it runs under, which asks Ray.

So the process that trains is no driver of Ray, and imports none of it.
"""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

from winnow.engines.vllm.delivery import Delivery, Missed
from winnow.engines.vllm.member import GoesOn, Start
from winnow.engines.vllm.process import Plan, Running

_TICK = 0.25
_ANSWERS = 10.0
"""Seconds that an actor may take for what takes no time."""
_CLOSES = 45.0


class Placed:
    """The servers' actors, as rank 0 asks for them from its own process.

    Args:
        actors: Handles of Ray's; see `actors.Server`.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        self._starts: dict[int, tuple[Any, tuple[Any, ...]]] = {}

    def opened(self) -> tuple[tuple[str, int], bytes]:
        """Let a process of this machine ask; by this address, and with this key."""
        key = secrets.token_bytes(32)

        class Door(BaseManager):
            """Of this object alone."""

        Door.register("placed", callable=lambda: self)
        server = Door(("127.0.0.1", 0), key).get_server()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address: Any = server.address
        return (str(address[0]), int(address[1])), key

    def start(self, number: int, plan: Plan, model: Path) -> None:
        """Have an actor start a server: at once, or when Ray has started the actor anew."""
        given = plan, number, model
        self._starts[number] = self._actors[number].start.remote(*given), given

    def url(self, number: int) -> str | None:
        """Of a server, once its actor has started it; empty, with why, where it cannot.

        Raises:
            RuntimeError: it cannot be started.
        """
        import ray
        from ray.exceptions import (
            ActorDiedError,
            ActorUnavailableError,
            OutOfMemoryError,
            RayError,
            RayTaskError,
        )

        started, given = self._starts[number]
        if not ray.wait([started], timeout=0)[0]:
            return None
        try:
            return str(ray.get(started))
        except ActorDiedError as error:
            raise RuntimeError("Ray has given up its actor") from error
        except RayTaskError as error:
            raise RuntimeError(" ".join(str(error.cause).split())[:200]) from None
        except (ActorUnavailableError, OutOfMemoryError):
            # It is on its way down: the next call waits until it is back.
            self.start(number, given[0], given[2])
            return None
        except RayError as error:
            raise RuntimeError(" ".join(str(error).split())[:200]) from None

    def ended(self, number: int) -> int | None:
        """The exit code of a server that has ended; of one whose actor has, SIGKILL's."""
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            code: int | None = ray.get(self._actors[number].ended.remote(), timeout=_ANSWERS)
        except GetTimeoutError:
            return None
        except RayError:
            return 128 + signal.SIGKILL
        return code

    def last_words(self, number: int) -> str:
        """The last line of its log that says something."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            return str(ray.get(self._actors[number].last_words.remote(), timeout=_ANSWERS))
        return ""

    def close(self, number: int) -> None:
        """End a server."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            ray.get(self._actors[number].close.remote(), timeout=_CLOSES)


class Remote:
    """A server that an actor has started, as the pool of rank 0 has it; see `Process`.

    Raises:
        Missed: it cannot be started, or not in time; it is not wanted any more.
    """

    def __init__(
        self, placed: Any, plan: Plan, number: int, delivery: Delivery, goes_on: GoesOn
    ) -> None:
        self._placed, self._number = placed, number
        deadline = time.monotonic() + delivery.timeout
        try:
            placed.start(number, plan, delivery.model)
            while (url := placed.url(number)) is None:
                if not goes_on():
                    raise Missed("it is not wanted any more")
                if time.monotonic() > deadline:
                    raise Missed(f"its actor is not there after {delivery.timeout:g} seconds")
                time.sleep(_TICK)
        except (RuntimeError, *_CUT) as error:
            raise Missed(str(error) or "the actor of rank 0 is gone") from error
        self.url: str = url

    @property
    def ended(self) -> int | None:
        try:
            code: int | None = self._placed.ended(self._number)
        except _CUT:
            return 128 + signal.SIGKILL
        return code

    def last_words(self) -> str:
        with suppress(*_CUT):
            return str(self._placed.last_words(self._number))
        return ""

    def close(self) -> None:
        with suppress(*_CUT):
            self._placed.close(self._number)


_CUT = (EOFError, OSError)
"""What asking ends with where the actor of rank 0 has ended."""


def starter(address: tuple[str, int], key: bytes) -> Start:
    """What starts servers where Ray has placed them; see `Placed.opened`."""

    class Door(BaseManager):
        """As `Placed` has opened it."""

    Door.register("placed")
    found = Door(address, key)
    found.connect()
    placed = found.placed()  # type: ignore[attr-defined]

    def start(plan: Plan, number: int, delivery: Delivery, goes_on: GoesOn) -> Running:
        return Remote(placed, plan, number, delivery, goes_on)

    return start
