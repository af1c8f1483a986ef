from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.vllm import given


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Samplers that a test made let go of their connections."""
    yield
    while given.MADE:
        given.MADE.pop().close()
