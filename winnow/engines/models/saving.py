"""Writing models: what libraries say of a full disk, in one word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def writing() -> Iterator[None]:
    """safetensors and torch have errors of their own for a full disk; here they are an `OSError`.

    Raises:
        OSError: something cannot be written.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error.__context__, OSError):
            raise
        raise OSError(str(error.__context__ or error)) from error
