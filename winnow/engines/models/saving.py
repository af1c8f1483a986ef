"""Writing models: a full disk is an `OSError`, whatever library writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def writing() -> Iterator[None]:
    """In the block, what safetensors and torch raise for a full disk is an `OSError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error.__context__, OSError):
            raise
        raise OSError(str(error.__context__ or error)) from error
