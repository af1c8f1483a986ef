"""An event loop in a thread: requests go on while what has come is worked on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from winnow.engines.server.client import Caller

_GRACE = 5.0  # seconds that open connections may take to be closed


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs during the block. On leaving, its tasks are cancelled."""
    loop = asyncio.new_event_loop()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.get_loop().run_forever()

    thread = threading.Thread(target=run, name="winnow-server", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_GRACE)


@asynccontextmanager
async def first_error() -> AsyncIterator[None]:
    """In the block, of an error in nested groups the first is raised alone."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def checked(caller: Caller) -> None:
    """Raise a `UserError` if nobody answers a caller, or its key is refused."""
    with loop_in_a_thread() as loop:
        asyncio.run_coroutine_threadsafe(_check(caller), loop).result()


async def _check(caller: Caller) -> None:
    async with caller:
        await caller.check()
